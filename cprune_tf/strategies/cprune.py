"""The strategy CPrune (Kim et al., ECCV 2022, Algorithm 1).

The tasks of the current model are ranked by latency x weight. CPrune takes the highest task and
removes filters from all its subgraphs. The structure of the task's fastest program says how many;
this number is the step. The candidate must pass two gates:

1. Its latency is at most beta x that of the current model. Otherwise the task's step grows.
2. Its accuracy after short-term training is at least alpha x that of the current model. Otherwise
   the task is never pruned again.

A candidate that passes both gates becomes the current model, and its tasks are ranked anew.

This strategy differs from the authors' code in how it finds the latency. A step is first priced:
the current model's programs are transferred to its shapes, which takes seconds and needs no search.
A step whose price is too high is not proposed, and the next one is priced at once. A proposed
candidate is built and timed as a whole model, in turn with the current model and the original. Only
a candidate that passes both gates is tuned.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from typing import Any

from cprune_tf.config.checks import ConfigError, require
from cprune_tf.runs import events
from cprune_tf.strategies.base import Candidate, Stop, Strategy, Verdict, least_units
from cprune_tf.strategies.registry import register_strategy

if typing.TYPE_CHECKING:
    from cprune_tf.compiler.structure import ProgramStructure
    from cprune_tf.strategies.workbench import CurrentModel, Target


@dataclasses.dataclass(frozen=True)
class CPruneConfig:
    """The parameters of Algorithm 1, named as in the paper.

    Attributes:
        alpha: A candidate must keep at least this fraction of the current model's accuracy.
        beta: A candidate may take at most this fraction of the current model's latency.
        min_latency_ratio: Pruning stops when the latency is at most this fraction of the original
            model's.
    """

    alpha: float = 0.995
    beta: float = 0.99
    min_latency_ratio: float = 0.1

    def validate(self) -> None:
        """Raises ConfigError if a field is invalid."""
        require(0 < self.alpha <= 1, "strategy.cprune.alpha", self.alpha, "a number in (0, 1]")
        require(0 < self.beta <= 1, "strategy.cprune.beta", self.beta, "a number in (0, 1]")
        ratio = self.min_latency_ratio
        require(0 <= ratio < 1, "strategy.cprune.min_latency_ratio", ratio, "a number in [0, 1)")


@dataclasses.dataclass
class Decisions:
    """What the strategy has learned so far; a resumed run rebuilds it from the journal.

    Attributes:
        num_candidates: Number of candidates judged so far.
        banned: Sets of groups that are never pruned again, because a candidate that pruned them
            was refused for accuracy.
        too_slow: For each target's key, the largest number of filters whose removal was refused for
            latency, by the price or by the gate. The next visit removes more.
        visits: For each target's key, the number of refusals since the last acceptance. Targets
            with fewer refusals are tried first.
    """

    num_candidates: int = 0
    banned: set[tuple[str, ...]] = dataclasses.field(default_factory=set)
    too_slow: dict[str, int] = dataclasses.field(default_factory=dict)
    visits: dict[str, int] = dataclasses.field(default_factory=dict)

    def rule_out(self, key: str, step: int) -> None:
        """Records that removing `step` filters from each group of a target is too slow."""
        self.too_slow[key] = max(step, self.too_slow.get(key, 0))

    def record(self, key: str, groups: tuple[str, ...], step: int, decision: str) -> None:
        """Records the decision on a candidate.

        Args:
            key: The target's key.
            groups: Names of the groups that were pruned.
            step: Number of filters removed from each group.
            decision: events.ACCEPTED, REFUSED_LATENCY or REFUSED_ACCURACY.
        """
        self.num_candidates += 1
        if decision == events.ACCEPTED:
            self.visits.clear()
            return
        self.visits[key] = self.visits.get(key, 0) + 1
        if decision == events.REFUSED_LATENCY:
            self.rule_out(key, step)
        else:
            self.banned.add(tuple(sorted(groups)))


@register_strategy("cprune", CPruneConfig)
class CPrune(Strategy):
    """Algorithm 1; the module's docstring says where this strategy differs.

    Attributes:
        decisions: What the strategy has learned so far.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.decisions = Decisions()

    def learn(self, event: Any) -> None:
        """See Strategy."""
        if isinstance(event, events.CountRuledOut):
            self.decisions.rule_out(event.key, event.step)
        elif isinstance(event, events.CandidateJudged):
            groups = tuple(event.removed)
            self.decisions.record(event.key, groups, event.step, event.decision)

    def propose(self, current: CurrentModel) -> Candidate | Stop:
        """See Strategy. Targets with the fewest visits come first, then the costliest."""
        if reason := self._stop_reason(current):
            return Stop(reason)
        for target, structure in self._ranked_targets(current):
            if candidate := self._step_that_pays(current, target, structure):
                return candidate
        return Stop("no task is left that could be pruned further")

    def judge(self, current: CurrentModel, candidate: Candidate, index: int) -> Verdict:
        """See Strategy. The latency gate comes first, since training takes longer than timing."""
        measurement = self.bench.measure(current, candidate, index)
        latency = (
            f"{measurement.current_ratio:.1%} of the current model's latency, side by side "
            f"({measurement.latency.median_ms:.4g} and {measurement.current_ms:.4g} ms)"
        )
        if measurement.current_ratio > self.settings.beta:
            return Verdict(events.REFUSED_LATENCY, latency, measurement, None)
        accuracy = self.bench.train(candidate, index)
        if accuracy < self.settings.alpha * current.accuracy:
            reason = f"accuracy {accuracy:.2%} < {self.settings.alpha:g} x {current.accuracy:.2%}"
            return Verdict(events.REFUSED_ACCURACY, reason, measurement, accuracy)
        reason = f"{latency}, accuracy {accuracy:.2%}"
        return Verdict(events.ACCEPTED, reason, measurement, accuracy)

    def _stop_reason(self, current: CurrentModel) -> str | None:
        lowest = self.settings.alpha * current.accuracy
        if lowest < self.required_accuracy:
            return (
                f"the next candidate's accuracy may fall to {lowest:.2%} "
                f"(alpha x {current.accuracy:.2%}), "
                f"below the required accuracy {self.required_accuracy:.2%}"
            )
        if current.latency_ratio <= self.target_ratio:
            return (
                f"the target is reached: {1 / current.latency_ratio:.3g}x as fast as the original"
            )
        if current.latency_ratio <= self.settings.min_latency_ratio:
            return f"the latency is {current.latency_ratio:.1%} of the original model's"
        return None

    def _ranked_targets(self, current: CurrentModel) -> list[tuple[Target, ProgramStructure]]:
        """Returns what may be pruned: targets with the fewest visits first, then the costliest."""
        targets: dict[str, tuple[Target, ProgramStructure]] = {}
        for cost in self.bench.task_costs(current):
            target = self.bench.target(cost.task, current)
            if target.reason is not None or target.groups in self.decisions.banned:
                continue
            if cost.structure is None:
                raise ConfigError(
                    f"config.strategy.name is 'cprune', which reads the structure of programs; the "
                    f"runtime {self.bench.runtime} does not expose programs. Choose another "
                    "strategy or the runtime tvm."
                )
            # Of the tasks that prune the same groups, the costliest comes first and stands for all.
            targets.setdefault(target.key, (target, cost.structure))
        visits = self.decisions.visits
        return sorted(targets.values(), key=lambda pair: visits.get(pair[0].key, 0))

    def _step_that_pays(
        self, current: CurrentModel, target: Target, structure: ProgramStructure
    ) -> Candidate | None:
        """Returns a candidate with the first step whose price passes the latency gate, or None."""
        bench, decisions = self.bench, self.decisions
        allowance = bench.removable(target.groups, current, self.original)
        # All steps share one ranking, since some criteria compute gradients of the model for it.
        ranking: dict[str, tuple[int, ...]] = {}
        while True:
            too_slow = decisions.too_slow.get(target.key, 0)
            step = next_step(structure, too_slow, allowance, bench.runtime.lanes)
            if step is None:
                return None
            if not ranking:
                ranking = bench.rank_units(current, target.groups, decisions.num_candidates)
            draft = bench.draft(current, least_units(ranking, step))
            price = bench.price(current, draft)
            if price.ratio <= self.settings.beta:
                task = target.task
                return Candidate(target.key, draft, step, task.name, task.layers, price)
            reason = f"priced at {price.ratio:.1%} of the latency of the current model's tasks"
            event = events.CountRuledOut(target.key, step, price.ratio, reason)
            self.learn(bench.run.journal.append(event))
            bench.progress.note(f"{target.key} -{step}: not proposed: {reason}")


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
