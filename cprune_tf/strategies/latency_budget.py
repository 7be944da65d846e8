"""Global pruning under a latency budget, in rounds.

Each round lowers the latency that the model may take, and asks which channel counts of all groups
together keep the most importance within it. The answer is exact: a mixed-integer linear program
(planning/allocation.py). What a site costs at its groups' counts is measured on the device, or
predicted from what was measured; a solution is measured before it is believed
(planning/planner.py). What keeping a unit is worth comes from the loss: coupled first-order Taylor
scores, calibrated between groups by a short sensitivity scan (planning/sensitivity.py). Then the
model is rebuilt, timed whole in turn with the current one, and trained for a short time; a soft
start (workbench/soft_start.py) may come before that. A round whose accuracy is too low is taken
back, and the next one goes half as far.

A group may also lose all its units, where the residual branch that it lies in may vanish
(planning/depth.py): the model then loses depth.

Every accepted round is a point of the run's front of latency and accuracy.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Mapping
from typing import Any, ClassVar

from cprune_tf.config.checks import ConfigError, require
from cprune_tf.config.training import SoftStartConfig
from cprune_tf.runs import events
from cprune_tf.strategies.base import Candidate, Stop, Strategy, Verdict, least_units, ranked
from cprune_tf.strategies.registry import register_strategy

if typing.TYPE_CHECKING:
    from cprune_tf.accuracy import AccuracyGate, Evaluation
    from cprune_tf.config import PruneConfig
    from cprune_tf.importance.registry import Array
    from cprune_tf.strategies.planning.allocation import GroupOptions
    from cprune_tf.strategies.planning.depth import Depth
    from cprune_tf.strategies.planning.planner import Plan, Planner, PlannerConfig
    from cprune_tf.strategies.workbench import CurrentModel, Hooks

    # Scores of the units by group, and the counts of each group with their values.
    Valuation = tuple[dict[str, Array], list[GroupOptions]]

# A plan is corrected when the whole model takes so much more of the current latency than planned.
_TOLERATED_EXCESS = 0.03
_MAX_PLANS_PER_ROUND = 3
# What a round must gain to be worth its training.
_LEAST_GAIN = 0.02


@dataclasses.dataclass(frozen=True)
class LatencyBudgetConfig:
    """How the budget falls, and what a round may cost in accuracy.

    Attributes:
        num_rounds: With a target: the budget falls geometrically from the original's latency to
            the target in so many rounds. A refused round adds some.
        round_ratio: Without a target: each round may take this fraction of the current latency.
        smallest_cut: Pruning ends when a round would cut the latency by less than this fraction.
        round_slack: A round may end this far (0..1) below the required accuracy, since long-term
            training follows. If the result then still misses it, an earlier round is delivered.
        max_options: Maximum number of channel counts that a group is given to choose from.
        solver_time_sec: The solver stops after this long with the best counts so far.
        depth: A group may lose all its units where the branch that it is in may disappear,
            whatever `config.strategy.max_pruned_fraction` says.
        soft_start: Before units are removed, the current model is trained with a growing penalty
            on them.
    """

    # What these settings are called below config.strategy; a strategy that inherits them says it.
    section: ClassVar[str] = "latency_budget"
    num_rounds: int = 4
    round_ratio: float = 0.75
    smallest_cut: float = 0.04
    round_slack: float = 0.005
    max_options: int = 8
    solver_time_sec: float = 60.0
    depth: bool = True
    soft_start: SoftStartConfig = dataclasses.field(default_factory=SoftStartConfig)

    def validate(self) -> None:
        """Raises ConfigError where a field cannot work."""
        field = f"strategy.{self.section}."
        require(self.num_rounds >= 1, field + "num_rounds", self.num_rounds, "1 or more")
        ratio, cut = self.round_ratio, self.smallest_cut
        require(0 < ratio < 1, field + "round_ratio", ratio, "a number in (0, 1)")
        require(0 < cut < 1, field + "smallest_cut", cut, "a number in (0, 1)")
        slack = self.round_slack
        require(0 <= slack < 1, field + "round_slack", slack, "a number in [0, 1)")
        require(self.max_options >= 2, field + "max_options", self.max_options, "2 or more")
        limit = self.solver_time_sec
        require(limit > 0, field + "solver_time_sec", limit, "a positive number")
        self.soft_start.validate(field + "soft_start")


@register_strategy("latency_budget", LatencyBudgetConfig)
class LatencyBudget(Strategy):
    """See the module's text.

    Attributes:
        num_candidates: Candidates judged so far.
        least_ratio: The next round may take at least this fraction of the current latency: an
            accuracy refusal halves the way that was too far.
        refused: Numbers of units by group whose removal was refused for accuracy since the last
            acceptance.
        num_too_slow: Candidates refused for latency since the last acceptance: the next one goes so
            many rounds further.
    """

    default_importance = "coupled_taylor"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.num_candidates = 0
        self.least_ratio = 0.0
        self.refused: list[dict[str, int]] = []
        self.num_too_slow = 0
        # The same for all plans of a round.
        self._valuation: Valuation | None = None

    @classmethod
    def check(cls, config: PruneConfig, hooks: Hooks) -> None:
        """See Strategy: a soft start needs training that can add its penalty."""
        soft: SoftStartConfig = getattr(config.strategy, cls.name).soft_start
        if not soft.epochs:
            return
        field = f"strategy.{cls.name}.soft_start."
        if hooks.soft_start is None:
            raise ConfigError(
                f"config.{field}epochs is {soft.epochs}; expected 0 where your own "
                "short_term_train or the optimizer of your compiled model trains the candidates: "
                "these add no penalty to the loss. Set it to 0, or leave training to "
                "config.training.short_term."
            )
        from cprune_tf.training.unit_penalty import largest_factor

        fit = config.training.short_term
        largest = largest_factor(fit.learning_rate, fit.momentum)
        require(
            soft.penalty < largest,
            field + "penalty",
            soft.penalty,
            f"less than {largest:.3g}, where training with the learning_rate "
            f"({fit.learning_rate:g}) and momentum ({fit.momentum:g}) of "
            "config.training.short_term would diverge",
        )

    def learn(self, event: Any) -> None:
        """See Strategy."""
        if not isinstance(event, events.CandidateJudged):
            return
        self.num_candidates += 1
        self._valuation = None
        if event.decision == events.ACCEPTED:
            self.num_too_slow = 0
            self.refused.clear()
        elif event.decision == events.REFUSED_LATENCY:
            self.num_too_slow += 1
        else:
            self.least_ratio = max(self.least_ratio, math.sqrt(self._refused_ratio(event)))
            self.refused.append(dict(event.removed))

    def _refused_ratio(self, event: events.CandidateJudged) -> float:
        """How much of the current latency a candidate took that was refused for accuracy."""
        assert event.measured is not None  # It was timed before it was trained.
        return event.measured.median_ms / event.current_latency_ms

    def propose(self, current: CurrentModel) -> Candidate | Stop:
        """See Strategy: the best plan for the next budget, timed whole and corrected if it lies."""
        ratio = self._next_ratio(current)
        if isinstance(ratio, Stop):
            return ratio
        correction, last = 1.0, None
        for attempt in range(_MAX_PLANS_PER_ROUND):
            planned = self._planned(current, ratio, correction, attempt)
            if isinstance(planned, Stop):
                return planned
            if last is not None and planned.removed == last.removed:
                break  # The smallest counts are reached.
            last = planned
            candidate = self.planned_candidate(current, planned)
            measurement = self.bench.measure(current, candidate, self.num_candidates)
            if measurement.current_ratio <= ratio * (1 + _TOLERATED_EXCESS):
                break
            correction *= ratio / measurement.current_ratio
        return candidate

    def judge(self, current: CurrentModel, candidate: Candidate, index: int) -> Verdict:
        """See Strategy: faster than the current model, and accurate enough after training."""
        measurement = self.bench.measure(current, candidate, index)
        latency = str(measurement)
        if measurement.current_ratio > 1 - _LEAST_GAIN:
            return Verdict(events.REFUSED_LATENCY, latency, measurement, None)
        gate = self.accuracy_gate(self.with_slack(self.settings.round_slack))
        evaluation, softly = self._trained(current, candidate, index, gate)
        if shortfall := gate.shortfall(evaluation):
            reason = f"{shortfall}, at {latency}{softly}: the next round goes half as far"
            return Verdict(events.REFUSED_ACCURACY, reason, measurement, evaluation)
        reason = f"{latency}, {evaluation.text(self.metric)}{softly}"
        return Verdict(events.ACCEPTED, reason, measurement, evaluation)

    def _trained(
        self, current: CurrentModel, candidate: Candidate, index: int, gate: AccuracyGate
    ) -> tuple[Evaluation, str]:
        """Trains and evaluates a candidate; also its soft start in words, "" without one."""
        softly = ""
        if self.settings.soft_start.epochs:
            started = self.bench.soft_start(current, candidate, index, self.settings.soft_start)
            softly = f", {started}"
        return self.bench.train(candidate, index, gate), softly

    def _next_ratio(self, current: CurrentModel) -> float | Stop:
        """The latency that the next round may take / the current model's."""
        target, settings = self.target_ratio, self.settings
        reached = current.latency_ratio
        if target and reached <= target * (1 + _TOLERATED_EXCESS / 2):
            return Stop(f"the target is reached: {1 / reached:.3g}x as fast as the original")
        whole_round = target ** (1 / settings.num_rounds) if target else settings.round_ratio
        ratio = max(whole_round ** (1 + self.num_too_slow), self.least_ratio, target / reached)
        if ratio > 1 - settings.smallest_cut and ratio > target / reached:
            return self._accuracy_binds(current)
        return float(ratio)

    def _accuracy_binds(self, current: CurrentModel) -> Stop:
        target = self.target_ratio
        missing = f"; the target of {1 / target:.3g}x is not reached" if target else ""
        return Stop(
            "a round that loses less would cut the latency by less than "
            f"{self.settings.smallest_cut:.0%}: {self.metric.word} binds at "
            f"{1 / current.latency_ratio:.3g}x{missing}"
        )

    def _planned(
        self, current: CurrentModel, ratio: float, correction: float, attempt: int
    ) -> events.CandidatePlanned | Stop:
        """A plan for the next budget: an interrupted session's, or a new one, journalled."""
        known = self._planned_before(attempt)
        if known is not None:
            return known
        planned = self._plan(current, ratio, correction, attempt)
        return planned if isinstance(planned, Stop) else self.bench.run.journal.append(planned)

    def _planned_before(self, attempt: int) -> events.CandidatePlanned | None:
        """The plan of the next candidate that the journal has; None if there is none."""
        for event in self.bench.run.journal.events(events.CandidatePlanned):
            if (event.index, event.attempt) == (self.num_candidates, attempt):
                return event
        return None

    def _plan(
        self, current: CurrentModel, ratio: float, correction: float, attempt: int
    ) -> events.CandidatePlanned | Stop:
        """Solves for the counts of the next budget and chooses the units that go."""
        from cprune_tf.strategies.planning.depth import Depth
        from cprune_tf.strategies.planning.planner import Planner

        bench = self.bench
        depth = Depth(
            self.original.channels,
            current.channels,
            bench.config.protect,
            allowed=self.settings.depth,
        )
        with bench.lab(self.original) as lab:
            planner = Planner(lab, self._planner_config(), depth)
            if self._valuation is None:
                self._valuation = self._valued(current, planner, depth)
            scores, groups = self._valuation
            now_ms = self._tasks_ms(planner, depth.units)
            with bench.progress.stage(f"Plan round {self.num_candidates + 1}") as stage:

                def report(plan: Plan) -> None:
                    stage.update(text=_describe(plan, now_ms))

                plan = planner.plan(groups, now_ms * ratio * correction, report)
        least = plan.tasks_ms / now_ms
        if least > max(ratio, 1 - self.settings.smallest_cut):
            return Stop(
                f"the counts that are left can take no less than {least:.1%} of the current "
                "model's tasks: config.strategy.max_pruned_fraction binds"
            )
        units = depth.units
        removal = {
            now: units[name] - plan.counts[name]
            for now, name in depth.original_of.items()
            if plan.counts.get(name, units[name]) < units[name]
        }
        if not removal:
            return Stop("no smaller counts are left that are faster")
        if removal in self.refused:
            # The larger budget found nothing better than what lost too much accuracy.
            milder = math.sqrt(ratio)
            if milder > 1 - self.settings.smallest_cut:
                return self._accuracy_binds(current)
            return self._plan(current, milder, correction, attempt)
        ranking = ranked(scores)
        return events.CandidatePlanned(
            index=self.num_candidates,
            attempt=attempt,
            key=f"budget {ratio * current.latency_ratio:.1%} of the original",
            removed={
                name: least_units({name: ranking[name]}, count)[name]
                for name, count in removal.items()
            },
            ratio=plan.tasks_ms / now_ms,
            reason=_describe(plan, now_ms) + _without(plan, depth),
        )

    def _planner_config(self) -> PlannerConfig:
        from cprune_tf.strategies.planning.planner import PlannerConfig

        return PlannerConfig(
            time_limit_sec=self.settings.solver_time_sec, seed=self.bench.config.seed
        )

    def _tasks_ms(self, planner: Planner, counts: Mapping[str, int]) -> float:
        """What the current model's subgraphs take, on the planner's scale."""
        return planner.tasks_ms(counts)

    def _options(self, planner: Planner) -> dict[str, tuple[int, ...]]:
        """The counts that each group may take: right edges of its staircase in the original."""
        from cprune_tf.strategies.planning.options import measure_staircases, staircase_options

        most = self.settings.max_options
        names = tuple(group.name for group in planner.lab.channels.prunable)
        staircases = measure_staircases(self.bench, planner.lab, names, most)
        return {name: staircase_options(one, most) for name, one in staircases.items()}

    def _valued(self, current: CurrentModel, planner: Planner, depth: Depth) -> Valuation:
        """What each unit is worth, and what keeping each count is worth, by the loss.

        The scores are by the current model's groups, the counts by the original's.
        """
        from cprune_tf.strategies.planning import sensitivity
        from cprune_tf.strategies.planning.options import remaining

        bench = self.bench
        found = remaining(self._options(planner), depth.units, depth.vanishing)
        # Groups of a single unit are not measured, but may vanish.
        found |= {name: (0, depth.units[name]) for name in depth.vanishing if name not in found}
        options = {now: found[name] for now, name in depth.original_of.items() if name in found}
        scores = bench.score_units(current, tuple(options), self.num_candidates)
        removed = {
            name: sensitivity.scanned_removals(counts)
            for name, counts in options.items()
            if len(counts) > 1
        }
        model, data = bench.labelled(current)
        with bench.progress.stage("Scan sensitivity", total=len(removed)) as stage:
            scanned = sensitivity.scan(
                model, current.channels, ranked(scores), removed, data, stage.progress
            )
        values = sensitivity.kept_values(scores, scanned, options)
        return scores, _choices(found, values, depth)


def _choices(
    options: Mapping[str, tuple[int, ...]],
    values_now: Mapping[str, tuple[float, ...]],
    depth: Depth,
) -> list[GroupOptions]:
    """The counts and their values by the original's groups; others keep the units they have."""
    from cprune_tf.strategies.planning.allocation import GroupOptions

    values = {depth.original_of[now]: worth for now, worth in values_now.items()}
    absent = {name: values[name][0] for name in depth.vanishing}
    parts = depth.shared_values(absent)
    groups = []
    for name, units in depth.units.items():
        if name not in values:
            if not units:
                groups.append(GroupOptions(name, (0,), (0.0,)))
            elif name in options:
                groups.append(GroupOptions(name, (units,), (0.0,)))
            continue
        worth = values[name]
        if name in parts:
            worth = (parts[name], *worth[1:])
        groups.append(GroupOptions(name, options[name], worth))
    return groups


def _without(plan: Plan, depth: Depth) -> str:
    """The branches that a plan leaves out, in words; "" if there are none."""
    names = depth.branches([name for name, count in plan.counts.items() if not count])
    if not names:
        return ""
    return f", without the branch{'es' if len(names) > 1 else ''} of {', '.join(names)}"


def _describe(plan: Plan, now_ms: float) -> str:
    return (
        f"{plan.tasks_ms / now_ms:.1%} of the current tasks, solution {plan.num_solutions} "
        f"({plan.solver_sec:.2g} s of solving, gap {plan.gap:.1g}), "
        f"{plan.num_measured} tasks measured"
    )
