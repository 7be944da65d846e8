"""Latency-budgeted pruning that asks the device as little as it can.

In the spirit of RB-CPrune (Kim et al., IEEE TMC 2025): a model of latency decides, not a search.
The rounds are those of `latency_budget`, with three differences:

- The counts that a group may take are those that keep the filter tiles of its fast programs; no
  staircase is measured. A few random channel assignments are measured instead, and a surface
  fitted to them predicts all other tasks.
- A plan is believed where the surface is sure. Only tasks that it is unsure of are measured.
- A candidate is trained first. Only if it is accurate enough are its programs transferred and the
  whole model timed. Each reason compares the prediction with that time.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import ClassVar

from cprune_tf.config.checks import require
from cprune_tf.runs import events
from cprune_tf.strategies.base import Candidate, Stop, Verdict, num_units
from cprune_tf.strategies.latency_budget import LatencyBudget, LatencyBudgetConfig
from cprune_tf.strategies.registry import register_strategy

if typing.TYPE_CHECKING:
    from cprune_tf.latency.lab import LatencyLab
    from cprune_tf.strategies.planning.planner import Planner, PlannerConfig
    from cprune_tf.strategies.workbench import CurrentModel


@dataclasses.dataclass(frozen=True)
class PredictiveConfig(LatencyBudgetConfig):
    """The fields of `latency_budget`, and how much is measured.

    Attributes:
        num_assignments: Random channel assignments that are measured before the first plan.
        trusted_deviation: A prediction is believed up to this relative standard deviation (0..1).
    """

    section: ClassVar[str] = "predictive"
    num_assignments: int = 3
    trusted_deviation: float = 0.15

    def validate(self) -> None:
        """Raises ConfigError where a field cannot work."""
        super().validate()
        field = f"strategy.{self.section}."
        count, deviation = self.num_assignments, self.trusted_deviation
        require(count >= 1, field + "num_assignments", count, "1 or more")
        require(0 < deviation < 1, field + "trusted_deviation", deviation, "a number in (0, 1)")


@register_strategy("predictive", PredictiveConfig)
class Predictive(LatencyBudget):
    """See the module's text."""

    def propose(self, current: CurrentModel) -> Candidate | Stop:
        """See Strategy: the best plan for the next budget, as predicted."""
        ratio = self._next_ratio(current)
        if isinstance(ratio, Stop):
            return ratio
        planned = self._planned(current, ratio, 1.0, 0)
        if isinstance(planned, Stop):
            return planned
        draft = self.bench.draft(current, dict(planned.removed))
        return Candidate(planned.key, draft, num_units(planned.removed))

    def judge(self, current: CurrentModel, candidate: Candidate, index: int) -> Verdict:
        """See Strategy: accurate enough after training, then faster than the current model."""
        planned = self._planned_before(0)
        assert planned is not None  # It was journalled before it was proposed.
        predicted = f"predicted: {planned.ratio:.1%} of the current model's latency"
        gate = self.accuracy_gate(self.with_slack(self.settings.round_slack))
        evaluation, softly = self._trained(current, candidate, index, gate)
        if shortfall := gate.shortfall(evaluation):
            reason = f"{shortfall}{softly}; {predicted}; not timed"
            return Verdict(events.REFUSED_ACCURACY, reason, None, evaluation)
        self.bench.price(current, candidate.draft)
        measurement = self.bench.measure(current, candidate, index)
        error = planned.ratio / measurement.current_ratio - 1
        latency = f"{measurement}; {predicted}, {error:+.1%}"
        if measurement.current_ratio > 1 - self.settings.smallest_cut / 2:
            return Verdict(events.REFUSED_LATENCY, latency, measurement, evaluation)
        reason = f"{latency}; {evaluation.text(self.metric)}{softly}"
        return Verdict(events.ACCEPTED, reason, measurement, evaluation)

    def _refused_ratio(self, event: events.CandidateJudged) -> float:
        """As predicted, since what is refused for accuracy is not timed."""
        planned = [
            one.ratio
            for one in self.bench.run.journal.events(events.CandidatePlanned)
            if one.index == event.index
        ]
        return planned[-1]

    def _tasks_ms(self, planner: Planner, counts: Mapping[str, int]) -> float:
        """As predicted, so that nothing is measured for it."""
        return planner.predict(counts)

    def _planner_config(self) -> PlannerConfig:
        config = super()._planner_config()
        return dataclasses.replace(config, trusted_deviation=self.settings.trusted_deviation)

    def _options(self, planner: Planner) -> dict[str, tuple[int, ...]]:
        """The counts that keep the filter tiles of fast programs, from a few measurements."""
        from cprune_tf.latency.prediction import spread_assignments

        lab, bench = planner.lab, self.bench
        smallest = 1 - bench.config.strategy.max_pruned_fraction
        assignments = spread_assignments(
            lab.channels,
            self.settings.num_assignments,
            multiple=bench.runtime.lanes,
            smallest=smallest,
            seed=bench.config.seed,
        )
        with bench.progress.stage("Measure a few assignments", total=len(assignments)) as stage:
            for number, keep in enumerate(assignments):
                stage.update(number, f"{lab.missing(keep)} tasks")
                lab.measure(keep)
            stage.update(len(assignments))
        return {
            group.name: self._counts(lab, group.name, group.num_channels)
            for group in lab.channels.prunable
        }

    def _counts(self, lab: LatencyLab, name: str, total: int) -> tuple[int, ...]:
        from cprune_tf.latency.sampling import structure_counts

        least = max(1, total - int(total * self.bench.config.strategy.max_pruned_fraction))
        lanes = self.bench.runtime.lanes
        vectors = range(lanes * (total // lanes), 0, -lanes)
        # The counts of larger tiles come first.
        counts = [n for n in (*structure_counts(lab, lab.channels[name]), *vectors) if n >= least]
        chosen = dict.fromkeys(counts)
        kept = sorted({total, *list(chosen)[: self.settings.max_options - 1]})
        return tuple(kept)
