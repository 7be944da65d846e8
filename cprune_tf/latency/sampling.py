"""Measures staircases with few points: more where latency changes, fewer on plateaus.

The first counts are multiples of the filter tiles that the runtime's fast code works in, and a
coarse grid. Then the interval that can hide the largest latency difference is divided. This repeats
until no interval can hide more than the noise, or the maximum number of points is reached.
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
        max_points: Maximum number of measured counts.
        first_points: How many of these are measured before any interval is divided.
        smallest: The smallest fraction (0..1) of its units that a group keeps.
        noise: Latency difference, as a fraction of the unpruned group's latency, below which two
            counts are on the same plateau.
        resolution: Intervals of at most this many units are not divided.
    """

    max_points: int = 12
    first_points: int = 7
    smallest: float = 0.2
    noise: float = 0.05
    resolution: int = 1

    def __post_init__(self) -> None:
        if not 2 <= self.first_points <= self.max_points:
            raise ValueError(
                f"first_points is {self.first_points} and max_points is {self.max_points}; "
                "expected 2 <= first_points <= max_points."
            )


def sample_staircase(
    lab: LatencyLab,
    group: ChannelGroup,
    config: SamplingConfig | None = None,
    *,
    on_point: Callable[[int, int], None] | None = None,
    on_task: OnTask | None = None,
) -> Staircase:
    """Measures a group's staircase; points that the lab already has are not measured again.

    Args:
        lab: The lab of the model.
        group: A prunable channel group.
        config: How densely to sample; None for the defaults.
        on_point: Called with (points done, next count) before each point.
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

    first = first_counts(group.num_channels, structure_counts(lab, group), config)
    lab.measure_together(({group.name: count} for count in first), on_task)
    for count in first:
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
    """Lists the counts that keep the filter tiles of fast code for a group's producers.

    Args:
        lab: The lab of the model.
        group: A prunable channel group.

    Returns:
        Multiples of the runtime's filter tiles: those of larger tiles first, then descending.
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
    """Chooses the counts to begin with: both ends of the range, and counts spread between them.

    Args:
        total: The group's number of units.
        structural: Counts to prefer because they keep a program structure; better ones first.
        config: The number of counts and the smallest one.

    Returns:
        Counts, descending.
    """
    minimum = max(1, math.ceil(total * config.smallest))
    counts = {total, minimum}
    num_counts = min(config.first_points, total - minimum + 1)
    for index in range(1, num_counts - 1):
        position = total - (total - minimum) * index / (num_counts - 1)
        half_step = (total - minimum) / (num_counts - 1) / 2
        nearby = [n for n in structural if abs(n - position) <= half_step and minimum < n < total]
        unused = [n for n in nearby if n not in counts]
        if unused:
            counts.add(min(unused, key=lambda n: abs(n - position)))
        elif not nearby:
            counts.add(round(position))
    return tuple(sorted(counts, reverse=True))


def next_count(latencies_ms: Mapping[int, float], config: SamplingConfig) -> int | None:
    """Chooses the next count: inside the interval that can hide the largest latency difference.

    The staircase is the running minimum from the right, so a count that is slower than a larger one
    does not change it. Such a count still shows that latency is rugged there, so that a fast count
    may be hidden beside it. Such a hidden count is assumed to be faster than the interval's larger
    end by at most the ratio of the interval's two counts.

    Args:
        latencies_ms: Latency in milliseconds by measured count.
        config: The difference that counts as noise, and the smallest interval to divide.

    Returns:
        The count in the middle half of the interval that is divisible by the largest power of two,
        since programs tile by powers of two. None if no interval can hide more than the noise.
    """
    counts = sorted(latencies_ms)
    best = dict(latencies_ms)
    for larger, smaller in itertools.pairwise(reversed(counts)):
        best[smaller] = min(best[smaller], best[larger])

    def hidden_ms(low: int, high: int) -> float:
        possible_ms = best[low]
        if any(latencies_ms[n] > best[n] * (1 + config.noise) for n in (low, high)):
            possible_ms = min(possible_ms, best[high] * low / high)
        return best[high] - possible_ms

    intervals = [
        (hidden_ms(low, high), low, high)
        for low, high in itertools.pairwise(counts)
        if high - low > max(config.resolution, 1)
    ]
    difference_ms, low, high = max(intervals, default=(0.0, 0, 0))
    if difference_ms <= config.noise * best[counts[-1]]:
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
        assert point is not None  # The lab has just measured it.
        variance += point.spread_ms**2
        if group.name in site.outputs.groups:
            made_ms += point.latency_ms
        else:
            used_ms += point.latency_ms
    return Stair(count, made_ms, used_ms, math.sqrt(variance))
