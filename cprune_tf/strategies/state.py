"""What the CPrune loop knows besides the current model; rebuilt from the journal on resume."""

from __future__ import annotations

import dataclasses
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


def next_step(structure: ProgramStructure, too_slow: int, allowance: int) -> int | None:
    """How many filters a visit removes.

    The first visit removes the paper's structure step. The paper lets it grow on the next visit
    without saying how: here it grows to the next count that leaves a multiple of the fastest
    program's innermost filter tile, so that its vector code stays as it is; where there is none, it
    doubles.

    Args:
        structure: Of the task's fastest program.
        too_slow: The most filters whose removal was refused for latency; 0: none was.
        allowance: Filters that may still go.

    Returns:
        Filters to remove from each group; None where every count up to the allowance was tried.
    """
    if too_slow >= allowance:
        return None
    if not too_slow:
        return min(structure.step, allowance)
    innermost = next((tile for tile in reversed(structure.compute) if tile > 1), 1)
    if innermost > 1:
        for count in range(too_slow + 1, allowance + 1):
            if (structure.filters - count) % innermost == 0:
                return count
    return min(2 * too_slow, allowance)
