"""Measures staircases with few points: more where latency changes, fewer on plateaus.

First come counts that are multiples of the filter tiles in which the runtime's fast code works, and
a coarse grid. Then the interval that can hide most of the staircase is cut, again and again, until
it can hide no more than the noise, or the points are spent.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence

from cprune_tf.graph import ChannelGroup
from cprune_tf.latency.lab import LatencyLab, OnTask
from cprune_tf.latency.sites import tasks_by_site
from cprune_tf.latency.staircase import Stair, Staircase


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """How densely a staircase is sampled.

    Attributes:
        max_points: Counts measured at most.
        first_points: Of these, the ones measured before any interval is cut.
        smallest: The least fraction of its units that a group keeps.
        noise: Counts that differ by less, relative to the whole group, are on one plateau.
        resolution: Intervals of at most so many units are not cut any more.
    """

    max_points: int = 12
    first_points: int = 7
    smallest: float = 0.2
    noise: float = 0.05
    resolution: int = 1

    def __post_init__(self) -> None:
        if not 2 <= self.first_points <= self.max_points:
            raise ValueError(
                f"A staircase of {self.max_points} points was to begin with {self.first_points}; "
                "expected at least 2 and no more than there are in all."
            )


def sample_staircase(
    lab: LatencyLab,
    group: ChannelGroup,
    config: SamplingConfig | None = None,
    *,
    on_point: Callable[[int, int], None] | None = None,
    on_task: OnTask | None = None,
) -> Staircase:
    """Measures a group's staircase; what the lab knows already is not measured again.

    Args:
        lab: Of the model.
        group: A prunable group.
        config: How densely.
        on_point: Called with (points done, count) before each point.
        on_task: Called before each task that has to be measured.

    Returns:
        The staircase.

    Raises:
        ValueError: If the group is protected.
    """
    if group.protected is not None:
        raise ValueError(f"Group {group.name} cannot be pruned: {group.protected}.")
    config = config or SamplingConfig()
    stairs: dict[int, Stair] = {}

    def measure(count: int) -> None:
        if on_point is not None:
            on_point(len(stairs), count)
        lab.measure({group.name: count}, on_task)
        stairs[count] = _stair(lab, group, count)

    for count in first_counts(group.num_channels, structure_counts(lab, group), config):
        measure(count)
    while len(stairs) < config.max_points:
        middle = next_count({n: stair.latency_ms for n, stair in stairs.items()}, config)
        if middle is None:
            break
        measure(middle)
    affected = [site for site in lab.sites if group.name in site.groups]
    whole = stairs[group.num_channels]
    rest_ms = lab.tasks_ms({}) - whole.latency_ms if affected else lab.tasks_ms({})
    return Staircase(
        group.name,
        group.producers,
        group.num_channels,
        max(rest_ms, 0.0),
        tuple(stairs[count] for count in sorted(stairs)),
    )


def structure_counts(lab: LatencyLab, group: ChannelGroup) -> tuple[int, ...]:
    """Counts that keep the filter tiles in which fast code for a group's producers works.

    Args:
        lab: Of the model.
        group: A prunable group.

    Returns:
        Multiples of the tiles that the runtime names, those of larger tiles first.
    """
    task_at = tasks_by_site(lab.prepared)
    tiles: set[int] = set()
    for site in lab.sites:
        if group.name in site.outputs.groups and site.makes_channels:
            filters = site.outputs.count(lab.units)
            tiles.update(lab.runtime.filter_tiles(task_at[site.key], filters))
    counts: dict[int, None] = {}
    for tile in sorted(tiles, reverse=True):
        for count in range(tile * (group.num_channels // tile), 0, -tile):
            counts[count] = None
    return tuple(counts)


def first_counts(total: int, structural: Sequence[int], config: SamplingConfig) -> tuple[int, ...]:
    """Where sampling begins: both ends of the range, and counts spread over it.

    Args:
        total: Units of the group.
        structural: Counts to be preferred, because they keep a structure; better ones first.
        config: How many counts, and the least one.

    Returns:
        Counts, descending.
    """
    least = max(1, math.ceil(total * config.smallest))
    chosen = {total, least}
    number = min(config.first_points, total - least + 1)
    for index in range(1, number - 1):
        place = total - (total - least) * index / (number - 1)
        half = (total - least) / (number - 1) / 2
        near = [n for n in structural if abs(n - place) <= half and least < n < total]
        fresh = [n for n in near if n not in chosen]
        if fresh:
            chosen.add(min(fresh, key=lambda n: abs(n - place)))
        elif not near:
            chosen.add(round(place))
    return tuple(sorted(chosen, reverse=True))


def next_count(latencies_ms: Mapping[int, float], config: SamplingConfig) -> int | None:
    """Chooses the next count: inside the interval that can hide most of the staircase.

    The staircase is the running minimum from the right, so a count that is slower than a larger one
    says little by itself. But it shows that latency is rugged there, and a good count may be hidden
    beside it. That one is assumed to be faster than the interval's larger end by the ratio of the
    two counts at most.

    Args:
        latencies_ms: By measured count.
        config: What difference matters.

    Returns:
        The count in the middle half of the interval that most powers of two divide (programs tile
        by those), or None where nothing more than the noise can be hidden.
    """
    counts = sorted(latencies_ms)
    best = dict(latencies_ms)
    for larger, smaller in itertools.pairwise(reversed(counts)):
        best[smaller] = min(best[smaller], best[larger])

    def hidden_ms(low: int, high: int) -> float:
        least = best[low]
        if any(latencies_ms[n] > best[n] * (1 + config.noise) for n in (low, high)):
            least = min(least, best[high] * low / high)
        return best[high] - least

    open_ones = [
        (hidden_ms(low, high), low, high)
        for low, high in itertools.pairwise(counts)
        if high - low > max(config.resolution, 1)
    ]
    hidden, low, high = max(open_ones, default=(0.0, 0, 0))
    if hidden <= config.noise * best[counts[-1]]:
        return None
    quarter = (high - low) / 4
    inside = [n for n in range(low + 1, high) if low + quarter <= n <= high - quarter]
    middle = (low + high) / 2
    return min(inside, key=lambda n: (-(n & -n), abs(n - middle)))


def _stair(lab: LatencyLab, group: ChannelGroup, count: int) -> Stair:
    units = lab.full({group.name: count})
    made_ms = used_ms = variance = 0.0
    for site in lab.sites:
        if group.name not in site.groups:
            continue
        point = lab.store.get(site.family, site.counts(units))
        assert point is not None  # the lab has just measured it
        variance += point.spread_ms**2
        if group.name in site.outputs.groups:
            made_ms += point.latency_ms
        else:
            used_ms += point.latency_ms
    return Stair(count, made_ms, used_ms, math.sqrt(variance))
