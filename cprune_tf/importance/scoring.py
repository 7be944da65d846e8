"""Scores for the units of one channel group, over all layers that make or scale its channels.

Higher means more important. The criteria:

- "l1", "l2": the norm of each filter (filter_norms.py).
- "fpgm": distance to all other filters of the layer (geometric_median.py).
- "bn_scale": the gammas of normalisations (normalization.py).
- "coupled_taylor": the change of the loss when a unit's gates close in all its layers at once
  (coupled_taylor.py).
- "taylor": the change of the loss when a unit's gate closes (taylor.py).
- "random": uniform (uniform.py).

Another one is one more file beside these; see registry.py.
"""

from __future__ import annotations

import typing
from collections.abc import Sequence
from typing import Any

from cprune_tf.importance import registry

if typing.TYPE_CHECKING:
    from cprune_tf.graph import ChannelGroup


def score(
    model: Any,
    group: ChannelGroup,
    method: str = "l1",
    *,
    data: Any = None,
    seed: int = 0,
) -> registry.Array:
    """Importance of each unit of a channel group.

    Args:
        model: The model the group was found in.
        group: One of `analyze(model).groups`.
        method: One of `criterion_names()`.
        data: For a criterion that needs data ("taylor", "coupled_taylor"): (inputs, targets)
            arrays or an iterable of such batches.
        seed: For "random".

    Returns:
        Scores, float64 [group.num_channels], all finite; higher is more important.

    Raises:
        ImportanceError: For an unknown method, NaN weights, or a method that this group or call
            has nothing to offer (no normalisation, no data).
    """
    criterion = registry.find_criterion(method)
    return criterion.scorer(registry.ScoringRequest(method, model, group, data, seed))


def score_groups(
    model: Any,
    groups: Sequence[ChannelGroup],
    method: str = "l1",
    *,
    data: Any = None,
    seed: int = 0,
) -> dict[str, registry.Array]:
    """Importance of each unit of several channel groups.

    Args:
        model: The model the groups were found in.
        groups: Some of `analyze(model).groups`.
        method: One of `criterion_names()`.
        data: See `score`.
        seed: For "random".

    Returns:
        For each group what `score` gives, by its name.

    Raises:
        ImportanceError: See `score`.
    """
    criterion = registry.find_criterion(method)
    if criterion.joint is not None:
        return criterion.joint(model, groups, data)
    return {group.name: score(model, group, method, data=data, seed=seed) for group in groups}
