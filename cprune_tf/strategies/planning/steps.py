"""The channel counts that one target may go to: its next step, and what staircases rule out."""

from __future__ import annotations

import math
import typing

if typing.TYPE_CHECKING:
    from cprune_tf.compiler.structure import ProgramStructure
    from cprune_tf.latency.staircase import Staircase


def next_step(structure: ProgramStructure, too_slow: int, allowance: int, lanes: int) -> int | None:
    """Returns how many filters the next visit to a target removes.

    The first visit removes the paper's structure step. If the fastest program works on whole
    vectors, the visit removes a few more, so that whole vectors remain. The paper's rule alone
    fails if, for example, all 32 filters are a single tile: it gives a step of 1, and 31 is the
    slowest number of filters.

    The paper says that the step grows on the next visit, but not how. Here it grows to the next
    number that leaves a multiple of the fastest program's innermost filter tile, so that the
    program's inner code stays the same. If there is no such number, the step grows to the next one
    that leaves whole vectors. If there is none either, the step doubles.

    Args:
        structure: The structure of the task's fastest program.
        too_slow: The largest number of filters whose removal was refused for latency; 0 if there
            was no such refusal.
        allowance: Number of filters that may still be removed from each group.
        lanes: Number of values in a vector register.

    Returns:
        The number of filters to remove from each group; None if every number up to the allowance
        was tried.
    """
    if too_slow >= allowance:
        return None
    innermost = next((tile for tile in reversed(structure.compute) if tile > 1), 1)
    # The widest vector that divides both the innermost tile and the vector register.
    vector = math.gcd(innermost, lanes)
    smallest_step = too_slow + 1 if too_slow else structure.step
    for tile in (innermost, vector) if too_slow else (vector,):
        if tile > 1:
            for count in range(smallest_step, allowance + 1):
                if (structure.filters - count) % tile == 0:
                    return count
    return min(2 * too_slow or structure.step, allowance)


def larger_as_fast(
    staircase: Staircase, count: int, units: int, tolerance: float = 0.02
) -> tuple[int, float] | None:
    """Finds a larger count that a staircase shows to be as fast.

    Such a count is no right edge of a plateau: pruning to it removes units for nothing. Counts that
    were not measured may lie on either side of an edge, so nothing is said about them.

    Args:
        staircase: The group's, measured.
        count: The count to judge.
        units: How many units the group has now; larger counts are not compared with.
        tolerance: Latencies that differ by less than this fraction (0..1) count as equal.

    Returns:
        The fastest measured count above `count`, and the latency of the whole model's tasks at
        `count` / that at the larger count. None if `count` is faster, or if one of the two was not
        measured.
    """
    latencies_ms = {stair.count: stair.latency_ms for stair in staircase.stairs}
    larger = [other for other in latencies_ms if count < other <= units]
    if count not in latencies_ms or not larger:
        return None
    fastest = min(larger, key=lambda other: (latencies_ms[other], -other))
    if latencies_ms[count] < (1 - tolerance) * latencies_ms[fastest]:
        return None
    rest_ms = staircase.rest_ms
    return fastest, (rest_ms + latencies_ms[count]) / (rest_ms + latencies_ms[fastest])
