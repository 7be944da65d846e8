"""Sparsity budgets: chooses the units to remove from scores and a budget."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from cprune_tf.graph.channel_graph import ChannelGraph, ChannelGroup
from cprune_tf.graph.counting import group_statistics
from cprune_tf.graph.errors import GraphError

Scores = Mapping[str, npt.NDArray[np.float64]]

SCOPES = ("per_group", "global")
MEASURES = ("channels", "params", "macs")


@dataclass(frozen=True)
class SparsityBudget:
    """How many units may be removed, and from which groups.

    Attributes:
        fraction: The share to remove, in [0, 1).
        scope: "per_group" removes this share of every group's units, the least important ones;
            "global" removes the least important units of all groups until this share of the measure
            is reached. Global scores must be comparable between groups, as those of
            `importance.score` are.
        measure: For "global", the unit in which the share is counted: "channels" (units), "params"
            or "macs". Each unit counts with its share of its group before the removal. A kernel
            between two groups shrinks on both sides, so the model loses somewhat more than this
            share of its work.
        overrides: Other shares by fnmatch pattern, for groups whose name or one of whose producers
            matches; the first match counts. With "global" they cap these groups.
        multiple: The remaining number of units is rounded up to a multiple of this.
        min_channels: Smallest number of units that remain in a group, and in each layer that holds
            only some of its units.
        max_fraction: Largest share of a group's units that may be removed.
    """

    fraction: float = 0.3
    scope: str = "per_group"
    measure: str = "channels"
    overrides: Mapping[str, float] = field(default_factory=dict)
    multiple: int = 1
    min_channels: int = 1
    max_fraction: float = 0.95

    def validate(self) -> SparsityBudget:
        """Returns self, or raises a GraphError that names the first invalid field."""
        _require(0 <= self.fraction < 1, "fraction", self.fraction, "a number in [0, 1)")
        _require(self.scope in SCOPES, "scope", self.scope, f"one of {', '.join(SCOPES)}")
        _require(self.measure in MEASURES, "measure", self.measure, f"one of {', '.join(MEASURES)}")
        for pattern, share in self.overrides.items():
            _require(0 <= share < 1, f"overrides[{pattern!r}]", share, "a number in [0, 1)")
        _require(self.multiple >= 1, "multiple", self.multiple, "1 or more")
        _require(self.min_channels >= 1, "min_channels", self.min_channels, "1 or more")
        _require(0 <= self.max_fraction < 1, "max_fraction", self.max_fraction, "in [0, 1)")
        return self


def _require(ok: bool, name: str, received: object, expected: str) -> None:
    if not ok:
        raise GraphError(f"SparsityBudget.{name} is {received!r}; expected {expected}.")


def plan_removal(
    graph: ChannelGraph, scores: Scores, budget: SparsityBudget
) -> dict[str, list[int]]:
    """Chooses units to remove.

    Args:
        graph: The analysed model.
        scores: Importance of each unit by group name, [num_channels]; groups that are missing and
            protected groups stay whole.
        budget: How many units to remove.

    Returns:
        A removal for `rebuild`, without the groups that lose nothing.

    Raises:
        GraphError: The budget is invalid, a group is unknown, or scores have a wrong length or are
            not finite.
    """
    budget.validate()
    groups = [_checked(graph, name, scores[name]) for name in scores]
    groups = [group for group in groups if group.protected is None]
    limits = {group.name: _limit(group, budget) for group in groups}
    if budget.scope == "per_group":
        counts = {group.name: limits[group.name] for group in groups}
    else:
        counts = _global_counts(graph, groups, scores, budget, limits)
    removal = {}
    for group in groups:
        count = _rounded(group.num_channels, counts[group.name], budget)
        units = _least(group, np.asarray(scores[group.name]), count, budget.min_channels)
        units = units[: _rounded(group.num_channels, len(units), budget)]
        if units:
            removal[group.name] = sorted(units)
    return removal


def _checked(graph: ChannelGraph, name: str, values: npt.ArrayLike) -> ChannelGroup:
    try:
        group = graph[name]
    except KeyError as error:
        raise GraphError(f"scores: {error.args[0]}") from error
    array = np.asarray(values)
    if array.shape != (group.num_channels,) or not np.isfinite(array).all():
        raise GraphError(
            f"scores[{name!r}] has shape {array.shape}; expected ({group.num_channels},), all "
            "finite."
        )
    return group


def _limit(group: ChannelGroup, budget: SparsityBudget) -> int:
    """The largest number of units that one group may lose."""
    fraction = budget.fraction if budget.scope == "per_group" else budget.max_fraction
    for pattern, share in budget.overrides.items():
        if any(fnmatch.fnmatchcase(name, pattern) for name in (group.name, *group.producers)):
            fraction = share
            break
    most = int(min(fraction, budget.max_fraction) * group.num_channels + 1e-9)
    return max(0, min(most, group.num_channels - budget.min_channels))


def _rounded(num_channels: int, count: int, budget: SparsityBudget) -> int:
    """Lowers a number of removals so that a multiple of `budget.multiple` remains, or all."""
    num_remaining = -(-(num_channels - count) // budget.multiple) * budget.multiple
    return max(0, num_channels - num_remaining)


def _global_counts(
    graph: ChannelGraph,
    groups: list[ChannelGroup],
    scores: Scores,
    budget: SparsityBudget,
    limits: Mapping[str, int],
) -> dict[str, int]:
    """The number of units of each group that are among the least important of all groups."""
    costs = {group.name: 1.0 for group in groups}
    if budget.measure != "channels":
        for counted in group_statistics(graph):
            if counted.name in costs:
                costs[counted.name] = _cost(counted, budget.measure) / counted.num_channels
    total = sum(costs[g.name] * g.num_channels for g in groups)
    order = sorted(
        (float(value), position, rank)
        for position, group in enumerate(groups)
        for rank, value in enumerate(np.sort(scores[group.name])[: limits[group.name]])
    )
    counts = {group.name: 0 for group in groups}
    spent = 0.0
    for _, position, _ in order:
        name = groups[position].name
        if spent + costs[name] > budget.fraction * total + 1e-9:
            break
        counts[name] += 1
        spent += costs[name]
    return counts


def _cost(counted: object, measure: str) -> float:
    value = getattr(counted, measure)
    if value is None:
        raise GraphError(
            "The model has unknown sizes, so its MACs are unknown; use measure='params' or build "
            "the model with a fixed input shape."
        )
    return float(value)


def _least(
    group: ChannelGroup, scores: npt.NDArray[np.float64], count: int, minimum: int
) -> list[int]:
    """The least important units, chosen so that no layer with only some of the units is emptied."""
    partial = [
        np.bincount(m.units[m.units >= 0], minlength=group.num_channels) > 0
        for m in group.members
        if len(np.unique(m.units[m.units >= 0])) < group.num_channels
    ]
    num_remaining = [int(has_unit.sum()) for has_unit in partial]
    chosen: list[int] = []
    for unit in np.argsort(scores, kind="stable"):
        if len(chosen) == count:
            break
        touched = [i for i, has_unit in enumerate(partial) if has_unit[unit]]
        if any(num_remaining[i] <= min(minimum, int(partial[i].sum())) for i in touched):
            continue
        for i in touched:
            num_remaining[i] -= 1
        chosen.append(int(unit))
    return chosen
