"""CPrune (Kim et al., ECCV 2022, Algorithm 1).

Rank the tasks of the current model by latency x weight. Take the highest; remove as many filters
from all its subgraphs as its fastest program's structure says. Gate 1: the candidate's latency is
at most beta x the current; otherwise the task's step grows. Gate 2: after short-term training its
accuracy is at least alpha x the current; otherwise it is never pruned again. A candidate that
passes both becomes the current model, and the ranking starts anew.

Where this differs from the authors' code: a step is first priced by transferring the current
model's programs to its shapes (seconds, no search). A step whose price is too high is not proposed;
the next one is priced at once. What is proposed is built and timed whole, in turn with the current
model and the original; only what passes both gates is tuned.
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
        alpha: A candidate must keep this fraction of the current accuracy.
        beta: A candidate must take at most this fraction of the current latency.
        min_latency_ratio: Pruning stops when the latency is at most this fraction of the first.
    """

    alpha: float = 0.995
    beta: float = 0.99
    min_latency_ratio: float = 0.1

    def validate(self) -> None:
        """Raises ConfigError where a field cannot work."""
        require(0 < self.alpha <= 1, "strategy.cprune.alpha", self.alpha, "a number in (0, 1]")
        require(0 < self.beta <= 1, "strategy.cprune.beta", self.beta, "a number in (0, 1]")
        ratio = self.min_latency_ratio
        require(0 <= ratio < 1, "strategy.cprune.min_latency_ratio", ratio, "a number in [0, 1)")


@dataclasses.dataclass
class Decisions:
    """What the loop knows besides the current model; rebuilt from the journal on resume.

    Attributes:
        num_candidates: Candidates judged so far.
        banned: Sets of groups whose accuracy refusal ended their pruning.
        too_slow: By target: the most filters whose removal was refused for latency, by the price or
            by the gate; the next visit removes more.
        visits: By target: refusals since the last acceptance; they order the next visits.
    """

    num_candidates: int = 0
    banned: set[tuple[str, ...]] = dataclasses.field(default_factory=set)
    too_slow: dict[str, int] = dataclasses.field(default_factory=dict)
    visits: dict[str, int] = dataclasses.field(default_factory=dict)

    def rule_out(self, key: str, step: int) -> None:
        """Notes that removing so many filters does not pay."""
        self.too_slow[key] = max(step, self.too_slow.get(key, 0))

    def record(self, key: str, groups: tuple[str, ...], step: int, decision: str) -> None:
        """Notes the decision on a candidate.

        Args:
            key: Of the target.
            groups: Names of the groups that were pruned.
            step: Filters removed from each.
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
    """Algorithm 1; see the module's text for what differs.

    Attributes:
        decisions: What it knows besides the current model.
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
        """See Strategy: the costliest target with the fewest visits that has a step which pays."""
        if reason := self._stop_reason(current):
            return Stop(reason)
        for target, structure in self._ranked_targets(current):
            if candidate := self._step_that_pays(current, target, structure):
                return candidate
        return Stop("no task is left that could be pruned further")

    def judge(self, current: CurrentModel, candidate: Candidate, index: int) -> Verdict:
        """See Strategy: both gates, the cheaper question first."""
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
                f"another candidate may fall to {lowest:.2%} (alpha x {current.accuracy:.2%}), "
                f"below the required accuracy {self.required_accuracy:.2%}"
            )
        if current.latency_ratio <= self.settings.min_latency_ratio:
            return f"the latency is {current.latency_ratio:.1%} of the first"
        return None

    def _ranked_targets(self, current: CurrentModel) -> list[tuple[Target, ProgramStructure]]:
        """What may be pruned: fewest visits since the last acceptance first, then costliest."""
        targets: dict[str, tuple[Target, ProgramStructure]] = {}
        for cost in self.bench.task_costs(current):
            target = self.bench.target(cost.task, current)
            if target.reason is not None or target.groups in self.decisions.banned:
                continue
            if cost.structure is None:
                raise ConfigError(
                    f"config.strategy.name is 'cprune', which reads the structure of programs; the "
                    f"runtime {self.bench.runtime} shows none. Choose another strategy, or the "
                    "runtime tvm."
                )
            # A costlier task may stand for the same groups already.
            targets.setdefault(target.key, (target, cost.structure))
        visits = self.decisions.visits
        return sorted(targets.values(), key=lambda pair: visits.get(pair[0].key, 0))

    def _step_that_pays(
        self, current: CurrentModel, target: Target, structure: ProgramStructure
    ) -> Candidate | None:
        """The first step of a target whose price passes the latency gate; None where none does."""
        bench, decisions = self.bench, self.decisions
        allowance = bench.removable(target.groups, current, self.original)
        # The same for every step: some criteria differentiate the model for it.
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
            reason = f"priced at {price.ratio:.1%} of the current model's tasks"
            event = events.CountRuledOut(target.key, step, price.ratio, reason)
            self.learn(bench.run.journal.append(event))
            bench.progress.note(f"{target.key} -{step}: not proposed: {reason}")


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
