"""The strategy CPrune (Kim et al., ECCV 2022, Algorithm 1).

The tasks of the current model are ranked by latency x weight. CPrune takes the highest task and
removes filters from all its subgraphs. The structure of the task's fastest program says how many;
this number is the step. The candidate must pass two gates:

1. Its latency is at most beta x that of the current model. Otherwise the task's step grows.
2. Its accuracy after short-term training is at least alpha x that of the current model. Otherwise
   the task is never pruned again.

A candidate that passes both gates becomes the current model, and its tasks are ranked anew.

By default (`search="transfer"`), this strategy differs from the authors' code in how it finds the
latency. A step is first priced: the current model's programs are transferred to its shapes, which
takes seconds and needs no search. A step whose price is too high is not proposed, and the next one
is priced at once. A proposed candidate is built and timed as a whole model, in turn with the
current model and the original. Only a candidate that passes both gates is tuned.

With `search="retune"`, every step is proposed, and every candidate is tuned before it is timed, as
in the authors' code. Nothing is priced by transfer.
"""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

from cprune_tf.config.checks import ConfigError, require
from cprune_tf.runs import events
from cprune_tf.strategies.base import Candidate, Stop, Strategy, Verdict, least_units
from cprune_tf.strategies.planning.options import measure_staircases
from cprune_tf.strategies.planning.steps import larger_as_fast, next_step
from cprune_tf.strategies.registry import register_strategy

if typing.TYPE_CHECKING:
    from cprune_tf.compiler.structure import ProgramStructure
    from cprune_tf.config import PruneConfig
    from cprune_tf.latency.staircase import Staircase
    from cprune_tf.strategies.workbench import CurrentModel, Hooks, Target

TRANSFER = "transfer"
RETUNE = "retune"
# At most so many counts of a group are measured for its staircase.
_STAIRCASE_POINTS = 12


@dataclasses.dataclass(frozen=True)
class CPruneConfig:
    """The parameters of Algorithm 1, named as in the paper, and options that go beyond it.

    Attributes:
        alpha: A candidate must keep at least this fraction of the current model's accuracy.
        beta: A candidate may take at most this fraction of the current model's latency.
        min_latency_ratio: Pruning stops when the latency is at most this fraction of the original
            model's.
        search: How the latency of a step is found. TRANSFER: the current model's programs price
            it, and only what passes is proposed. RETUNE: every step is proposed, and tuned with
            config.tuning.trials_per_task before it is timed, as in the paper.
        halve_after_refusal: Beyond the paper: a target whose accuracy was refused is tried again
            with half as many filters. It is banned only if that is none, or known to be too slow.
        skip_by_staircase: Beyond the paper: a step is ruled out without a price if the target's
            measured staircases show that a larger count is as fast.
    """

    alpha: float = 0.995
    beta: float = 0.99
    min_latency_ratio: float = 0.1
    search: str = TRANSFER
    halve_after_refusal: bool = False
    skip_by_staircase: bool = False

    def validate(self) -> None:
        """Raises ConfigError if a field is invalid."""
        require(0 < self.alpha <= 1, "strategy.cprune.alpha", self.alpha, "a number in (0, 1]")
        require(0 < self.beta <= 1, "strategy.cprune.beta", self.beta, "a number in (0, 1]")
        ratio = self.min_latency_ratio
        require(0 <= ratio < 1, "strategy.cprune.min_latency_ratio", ratio, "a number in [0, 1)")
        known = (TRANSFER, RETUNE)
        expected = f"one of {', '.join(known)}"
        require(self.search in known, "strategy.cprune.search", self.search, expected)


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
        halve: Whether a target is tried with half as many filters before it is banned.
        too_inaccurate: For each set of groups that is tried again, the number of filters whose
            removal was refused for accuracy last. Only half as many may go.
    """

    num_candidates: int = 0
    banned: set[tuple[str, ...]] = dataclasses.field(default_factory=set)
    too_slow: dict[str, int] = dataclasses.field(default_factory=dict)
    visits: dict[str, int] = dataclasses.field(default_factory=dict)
    halve: bool = False
    too_inaccurate: dict[tuple[str, ...], int] = dataclasses.field(default_factory=dict)

    def rule_out(self, key: str, step: int) -> None:
        """Records that removing `step` filters from each group of a target is too slow."""
        self.too_slow[key] = max(step, self.too_slow.get(key, 0))

    def record(
        self,
        key: str,
        groups: tuple[str, ...],
        step: int,
        decision: str,
        is_visit: bool = True,
    ) -> None:
        """Records the decision on a candidate.

        Args:
            key: The target's key.
            groups: Names of the groups that were pruned.
            step: Number of filters removed from each group.
            decision: events.ACCEPTED, REFUSED_LATENCY or REFUSED_ACCURACY.
            is_visit: Whether other targets are tried before this one again if it was refused.
        """
        self.num_candidates += 1
        if decision == events.ACCEPTED:
            self.visits.clear()
            return
        self.visits[key] = self.visits.get(key, 0) + is_visit
        names = tuple(sorted(groups))
        if decision == events.REFUSED_LATENCY:
            self.rule_out(key, step)
        elif self.halve and step // 2 > self.too_slow.get(key, 0):
            self.too_inaccurate[names] = step
        else:
            self.banned.add(names)


@register_strategy("cprune", CPruneConfig)
class CPrune(Strategy):
    """Algorithm 1; the module's docstring says where this strategy differs.

    Attributes:
        decisions: What the strategy has learned so far.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.decisions = Decisions(halve=self.settings.halve_after_refusal)
        self._measured_staircases: dict[str, Staircase] | None = None

    def learn(self, event: Any) -> None:
        """See Strategy."""
        if isinstance(event, events.CountRuledOut):
            self.decisions.rule_out(event.key, event.step)
        elif isinstance(event, events.CandidateJudged):
            groups = tuple(event.removed)
            # A step that is tuned and too slow is like one that its price rules out: the target's
            # next step is tried at once. So both searches take the same way.
            retuned = self.settings.search == RETUNE
            is_visit = not (retuned and event.decision == events.REFUSED_LATENCY)
            self.decisions.record(event.key, groups, event.step, event.decision, is_visit)

    @classmethod
    def check(cls, config: PruneConfig, hooks: Hooks) -> None:
        """See Strategy: it needs a runtime that exposes its programs."""
        from cprune_tf.runtimes.registry import find_runtime  # which imports the config

        if not find_runtime(config.runtime, config.precision).exposes_programs:
            raise ConfigError(
                f"config.strategy.name is 'cprune', which reads the structure of programs; the "
                f"runtime {config.runtime} {config.precision} does not expose programs. Choose "
                "another strategy or the runtime tvm."
            )

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
        tuned = ""
        if self.settings.search == RETUNE:
            price = self.bench.tune_candidate(current, candidate, index)
            tuned = f"; its tuned tasks take {price.ratio:.1%} of the current model's"
        measurement = self.bench.measure(current, candidate, index)
        latency = (
            f"{measurement.current_ratio:.1%} of the current model's latency, side by side "
            f"({measurement.latency.median_ms:.4g} and {measurement.current_ms:.4g} ms){tuned}"
        )
        if measurement.current_ratio > self.settings.beta:
            return Verdict(events.REFUSED_LATENCY, latency, measurement, None)
        gate = self.accuracy_gate(self.metric.scaled(current.accuracy, self.settings.alpha))
        evaluation = self.bench.train(candidate, index, gate)
        if shortfall := gate.shortfall(evaluation):
            known = self.metric.text(current.accuracy)
            reason = f"{shortfall} ({self.settings.alpha:g} x {known})"
            return Verdict(events.REFUSED_ACCURACY, reason, measurement, evaluation)
        reason = f"{latency}, {evaluation.text(self.metric)}"
        return Verdict(events.ACCEPTED, reason, measurement, evaluation)

    def _stop_reason(self, current: CurrentModel) -> str | None:
        metric = self.metric
        lowest = metric.scaled(current.accuracy, self.settings.alpha)
        if lowest < self.required_accuracy:
            return (
                f"the next candidate's {metric.word} may be {metric.text(lowest)} (alpha x "
                f"{metric.text(current.accuracy)}), which misses the required "
                f"{metric.text(self.required_accuracy)}"
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
            assert cost.structure is not None  # `check` refused a runtime without them
            # Of the tasks that prune the same groups, the costliest comes first and stands for all.
            targets.setdefault(target.key, (target, cost.structure))
        visits = self.decisions.visits
        return sorted(targets.values(), key=lambda pair: visits.get(pair[0].key, 0))

    def _step_that_pays(
        self, current: CurrentModel, target: Target, structure: ProgramStructure
    ) -> Candidate | None:
        """Returns a candidate with the first step that nothing rules out, or None.

        In a search by transfer, the price rules out what does not pass the latency gate.
        """
        bench, settings, task = self.bench, self.settings, target.task
        # All steps share one ranking, since some criteria compute gradients of the model for it.
        ranking: dict[str, tuple[int, ...]] = {}
        while (step := self._next_step(current, target, structure)) is not None:
            if settings.skip_by_staircase and self._skipped(current, target, step):
                continue
            if not ranking:
                ranking = bench.rank_units(current, target.groups, self.decisions.num_candidates)
            draft = bench.draft(current, least_units(ranking, step))
            if settings.search == RETUNE:
                return Candidate(target.key, draft, step, task.name, task.layers)
            price = bench.price(current, draft)
            if price.ratio <= settings.beta:
                return Candidate(target.key, draft, step, task.name, task.layers, price)
            reason = f"priced at {price.ratio:.1%} of the latency of the current model's tasks"
            self._rule_out(target.key, step, price.ratio, reason)
        return None

    def _next_step(
        self, current: CurrentModel, target: Target, structure: ProgramStructure
    ) -> int | None:
        """The target's next step: at most half of what was refused for accuracy."""
        allowance = self.bench.removable(target.groups, current, self.original)
        too_slow = self.decisions.too_slow.get(target.key, 0)
        step = next_step(structure, too_slow, allowance, self.bench.runtime.lanes)
        refused = self.decisions.too_inaccurate.get(target.groups)
        if step is None or refused is None:
            return step
        step = min(step, refused // 2)
        return step if step > too_slow else None

    def _rule_out(self, key: str, step: int, ratio: float, reason: str) -> None:
        event = events.CountRuledOut(key, step, ratio, reason)
        self.learn(self.bench.run.journal.append(event))
        self.bench.progress.note(f"{key} -{step}: not proposed: {reason}")

    def _skipped(self, current: CurrentModel, target: Target, step: int) -> bool:
        """Whether the staircases of all the target's groups rule a step out; journals it if so."""
        ratios, reasons = [], []
        for name in target.groups:
            units = current.channels[name].num_channels
            found = larger_as_fast(self._staircases()[name], units - step, units)
            if found is None:
                return False
            larger, ratio = found
            ratios.append(ratio)
            reasons.append(f"{name} with {larger} units is as fast as with {units - step}")
        reason = f"by its staircase, {'; '.join(reasons)}"
        self._rule_out(target.key, step, min(ratios), reason)
        return True

    def _staircases(self) -> dict[str, Staircase]:
        """The staircases of the original's groups, measured when they are first needed."""
        if self._measured_staircases is None:
            names = tuple(group.name for group in self.original.channels.prunable)
            with self.bench.lab(self.original) as lab:
                self._measured_staircases = measure_staircases(
                    self.bench, lab, names, _STAIRCASE_POINTS
                )
        return self._measured_staircases
