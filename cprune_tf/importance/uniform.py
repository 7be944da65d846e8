"""Scores that say nothing: what any criterion should beat."""

from __future__ import annotations

import numpy as np

from cprune_tf.importance.registry import Array, ScoringRequest, register_criterion


@register_criterion("random")
def uniform_scores(request: ScoringRequest) -> Array:
    """Uniform scores in [0, 1), from the seed."""
    return np.random.default_rng(request.seed).random(request.group.num_channels)
