"""What one-shot strategies share: one plan, made from the original, whose candidates are judged.

The plan is journalled before anything is trained, so a resumed run finds it there. If there is a
latency target, the plan's last candidate is timed whole at once. Where it turns out slower than
the target, the plan is made again with a lower budget.
"""

from __future__ import annotations

import abc
import typing
from collections.abc import Callable
from typing import Any

from cprune_tf.runs import events
from cprune_tf.strategies.base import Candidate, Stop, Strategy, Verdict

if typing.TYPE_CHECKING:
    from cprune_tf.strategies.workbench import CurrentModel

# How much more than the target the whole model may take, as a fraction: what timing can tell apart.
_TOLERATED_EXCESS = 0.02
_MAX_PLANS = 3

Plans = tuple[events.CandidatePlanned, ...]


class OneShot(Strategy):
    """Plans once; each candidate of the plan is judged once.

    Attributes:
        num_candidates: Candidates judged so far.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.num_candidates = 0

    @abc.abstractmethod
    def plan(self, current: CurrentModel, budget: float, attempt: int) -> Plans | Stop:
        """Works out what each candidate removes; journals nothing.

        Args:
            current: The original.
            budget: The last candidate's tasks may take this fraction of the original's; 0 if there
                is no latency target.
            attempt: Counts the plans of this run, from 0.

        Returns:
            A plan for each candidate, in the order in which they are judged; the last is the one
            that the target is for. Or a Stop with the reason why there is none.
        """

    def learn(self, event: Any) -> None:
        """See Strategy."""
        if isinstance(event, events.CandidateJudged):
            self.num_candidates += 1

    def propose(self, current: CurrentModel) -> Candidate | Stop:
        """See Strategy: the candidates of the plan, one after the other."""
        plans = self.planned() if self.num_candidates else self._plan_to_target(current)
        if isinstance(plans, Stop):
            return plans
        if self.num_candidates == len(plans):
            return Stop(self._end(current))
        return self.planned_candidate(current, plans[self.num_candidates])

    def judge(self, current: CurrentModel, candidate: Candidate, index: int) -> Verdict:
        """See Strategy: accurate enough after training."""
        measurement = self.bench.measure(current, candidate, index)
        gate = self.accuracy_gate(self.required_accuracy)
        evaluation = self.bench.train(candidate, index, gate)
        why = f"{measurement}; {self.planned()[index].reason}"
        if shortfall := gate.shortfall(evaluation):
            reason = f"{shortfall}, at {why}"
            return Verdict(events.REFUSED_ACCURACY, reason, measurement, evaluation)
        reason = f"{evaluation.text(self.metric)}, {why}"
        return Verdict(events.ACCEPTED, reason, measurement, evaluation)

    def planned(self, attempt: int | None = None) -> Plans:
        """Reads a plan from the journal.

        Args:
            attempt: The plan's number; None for the last plan.

        Returns:
            A plan for each candidate; empty if the journal has none.
        """
        found = self.bench.run.journal.events(events.CandidatePlanned)
        # The first candidate's plan is written last, so where it is there, the others are as well.
        attempts = [event.attempt for event in found if event.index == 0]
        wanted = max(attempts, default=0) if attempt is None else attempt
        if wanted not in attempts:
            return ()
        by_index = {event.index: event for event in found if event.attempt == wanted}
        return tuple(by_index[index] for index in sorted(by_index))

    def _plan_to_target(self, current: CurrentModel) -> Plans | Stop:
        """The plan of this run: journalled, and with a target timed and corrected."""
        budget = target = self.target_ratio
        if target >= 1:
            return Stop("the target is reached: the original takes no longer")
        for attempt in range(_MAX_PLANS):
            plans = self.planned(attempt) or self._journalled(current, budget, attempt)
            if isinstance(plans, Stop) or not target:
                break
            index = len(plans) - 1
            candidate = self.planned_candidate(current, plans[index])
            measured = self.bench.measure(current, candidate, index)
            if measured.original_ratio <= target * (1 + _TOLERATED_EXCESS):
                break
            budget *= target / measured.original_ratio
        return plans

    def _journalled(self, current: CurrentModel, budget: float, attempt: int) -> Plans | Stop:
        plans = self.plan(current, budget, attempt)
        if isinstance(plans, Stop):
            return plans
        for event in reversed(plans):
            self.bench.run.journal.append(event)
        return self.planned(attempt)

    def _end(self, current: CurrentModel) -> str:
        """Why nothing more is proposed."""
        target, reached = self.target_ratio, current.latency_ratio
        speed = f"the result is {1 / reached:.3g}x as fast as the original"
        if not target:
            return f"all that was planned is judged: {speed}"
        within = reached <= target * (1 + _TOLERATED_EXCESS)
        not_ = "" if within else "not "
        return f"the target of {1 / target:.3g}x is {not_}reached: {speed}"


def smallest_amount(
    meets: Callable[[int], bool], most: int, max_questions: int | None = None
) -> int | None:
    """Finds the smallest amount that meets a target, by bisection.

    Args:
        meets: Whether an amount meets the target; assumed to hold for all larger ones as well.
        most: The largest amount.
        max_questions: Ends after so many questions with the smallest amount found so far.

    Returns:
        An amount from 1 that meets the target; None if not even the largest does.
    """
    if most < 1 or not meets(most):
        return None
    low, high, num_asked = 0, most, 1
    while high - low > 1 and (max_questions is None or num_asked < max_questions):
        middle = (low + high) // 2
        low, high = (low, middle) if meets(middle) else (middle, high)
        num_asked += 1
    return high
