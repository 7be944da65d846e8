"""Filters near the geometric median of their layer go first (He et al., CVPR 2019, equation 4)."""

from __future__ import annotations

import numpy as np

from cprune_tf.importance.registry import Array, ScoringRequest, register_criterion
from cprune_tf.importance.units import score_filters


@register_criterion("fpgm")
def median_distances(request: ScoringRequest) -> Array:
    """Each filter's distance to all other filters of its layer."""
    return score_filters(request, _distances)


def _distances(matrix: Array) -> Array:
    """Sum of distances to the other rows, by the Gram matrix; NaN rows stay NaN."""
    result = np.full(len(matrix), np.nan)
    present = ~np.isnan(matrix).any(axis=1)
    rows = matrix[present] - matrix[present].mean(axis=0)  # centred: less cancellation
    squares = np.square(rows).sum(axis=1)
    distances = squares[:, None] + squares[None, :] - 2.0 * (rows @ rows.T)
    np.fill_diagonal(distances, 0.0)
    result[present] = np.sqrt(np.maximum(distances, 0.0)).sum(axis=1)
    return result
