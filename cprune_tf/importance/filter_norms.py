"""Norms of filters (Li et al., ICLR 2017; CPrune, ECCV 2022, section 3.4 uses l1)."""

from __future__ import annotations

import numpy as np

from cprune_tf.importance.registry import Array, ScoringRequest, register_criterion
from cprune_tf.importance.units import score_filters


@register_criterion("l1")
def absolute_sums(request: ScoringRequest) -> Array:
    """The sum of each filter's absolute values."""
    return score_filters(request, lambda matrix: np.asarray(np.abs(matrix).sum(axis=1)))


@register_criterion("l2")
def euclidean_norms(request: ScoringRequest) -> Array:
    """The Euclidean norm of each filter."""
    return score_filters(request, lambda matrix: np.asarray(np.sqrt(np.square(matrix).sum(axis=1))))
