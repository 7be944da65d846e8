"""Absolute gammas of the group's normalisations (Liu et al., ICCV 2017)."""

from __future__ import annotations

import numpy as np

from cprune_tf.importance.registry import (
    Array,
    ImportanceError,
    ScoringRequest,
    register_criterion,
)
from cprune_tf.importance.units import average, by_unit, read_weight


@register_criterion("bn_scale")
def absolute_gammas(request: ScoringRequest) -> Array:
    """The mean absolute gamma of each unit.

    Raises:
        ImportanceError: The group goes through no normalisation with a scale.
    """
    model, group = request.model, request.group
    scales = [
        np.abs(by_unit(read_weight(model, weight), weight, group.num_channels)).mean(axis=1)
        for weight in group.weights
        if weight.role == "scale"
    ]
    if not scales:
        raise ImportanceError(
            f"The group '{group.name}' goes through no normalisation with a scale, so bn_scale has "
            "nothing to measure; use l1, l2, fpgm or taylor."
        )
    return average(scales)
