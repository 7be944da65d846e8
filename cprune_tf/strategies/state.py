"""What the CPrune loop knows besides the current model; rebuilt from the journal on resume."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

from cprune_tf.compiler.structure import ProgramStructure

ACCEPTED = "accepted"
REFUSED_LATENCY = "refused_latency"
REFUSED_ACCURACY = "refused_accuracy"


@dataclasses.dataclass
class LoopState:
    """Decisions so far.

    Attributes:
        num_candidates: Candidates tried.
        banned: Sets of groups whose accuracy refusal ended their pruning.
        too_slow: By target key: the most filters whose removal was refused for latency; the next
            visit removes more.
        visits: By target key: refusals since the last acceptance; orders the next visits.
    """

    num_candidates: int = 0
    banned: set[tuple[str, ...]] = dataclasses.field(default_factory=set)
    too_slow: dict[str, int] = dataclasses.field(default_factory=dict)
    visits: dict[str, int] = dataclasses.field(default_factory=dict)

    @classmethod
    def from_events(cls, candidates: Iterable[Mapping[str, Any]]) -> LoopState:
        """Replays the journal's `candidate` events."""
        state = cls()
        for event in candidates:
            state.record(event["key"], tuple(event["removed"]), event["step"], event["decision"])
        return state

    def record(self, key: str, groups: tuple[str, ...], step: int, decision: str) -> None:
        """Takes note of one decision.

        Args:
            key: Of the target.
            groups: That were pruned.
            step: Filters removed from each.
            decision: ACCEPTED, REFUSED_LATENCY or REFUSED_ACCURACY.
        """
        self.num_candidates += 1
        if decision == ACCEPTED:
            self.visits.clear()
            return
        self.visits[key] = self.visits.get(key, 0) + 1
        if decision == REFUSED_LATENCY:
            self.too_slow[key] = max(step, self.too_slow.get(key, 0))
        else:
            self.banned.add(tuple(sorted(groups)))


def next_step(structure: ProgramStructure, too_slow: int, allowance: int, lanes: int) -> int | None:
    """How many filters a visit removes.

    The first visit removes the paper's structure step, and as many more as leave whole vectors
    where the fastest program works on whole vectors: for 32 filters that are one tile the paper's
    rule gives a step of 1, and 31 is the slowest count there is. The paper lets the step grow on
    the next visit without saying how: here it grows to the next count that leaves a multiple of the
    fastest program's innermost filter tile, so that its inner code stays as it is; where there is
    none, of a vector; where there is none either, it doubles.

    Args:
        structure: Of the task's fastest program.
        too_slow: The most filters whose removal was refused for latency; 0: none was.
        allowance: Filters that may still go.
        lanes: Values in a vector register.

    Returns:
        Filters to remove from each group; None where every count up to the allowance was tried.
    """
    if too_slow >= allowance:
        return None
    innermost = next((tile for tile in reversed(structure.compute) if tile > 1), 1)
    whole = math.gcd(innermost, lanes)
    least = too_slow + 1 if too_slow else structure.step
    for tile in (innermost, whole) if too_slow else (whole,):
        if tile > 1:
            for count in range(least, allowance + 1):
                if (structure.filters - count) % tile == 0:
                    return count
    return min(2 * too_slow or structure.step, allowance)
