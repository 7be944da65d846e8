"""Performance-aware pruning in one shot (Radu et al., IISWC 2019).

Uniform pruning takes the same fraction of units from every group. On many devices that leaves
counts that are slower than larger ones, because programs work in tiles. So the staircase of each
group is measured, and the group keeps the "instructed" count instead: the most units that take no
longer than its uniform count.

The first candidate is the "uninstructed twin" with uniform counts. It is timed, so that the gain
is known, and never trained. The second has the instructed counts. It is timed, trained and
accepted if it is accurate enough.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any

from cprune_tf.config.checks import require
from cprune_tf.runs import events
from cprune_tf.strategies.base import Candidate, Stop, Verdict, least_units, ranked
from cprune_tf.strategies.planning.one_shot import OneShot, Plans, smallest_amount
from cprune_tf.strategies.registry import register_strategy

if typing.TYPE_CHECKING:
    from cprune_tf.latency.lab import LatencyLab
    from cprune_tf.latency.staircase import Staircase
    from cprune_tf.strategies.workbench import CurrentModel

# With a latency target, the ratio is found in so many steps, to this part of its range.
_MAX_RATIOS = 8
_RATIO_PARTS = 256
# Two counts whose latencies differ by less than this fraction are on the same plateau.
_TOLERANCE = 0.02


@dataclasses.dataclass(frozen=True)
class PerformanceAwareConfig:
    """How much goes, and how densely latency is measured.

    Attributes:
        ratio: The fraction (0..1) of each group's units that uniform pruning would remove. With a
            latency target, the smallest ratio that meets it is used instead.
        max_points: Maximum number of channel counts at which a group's staircase is measured.
    """

    ratio: float = 0.5
    max_points: int = 12

    def validate(self) -> None:
        """Raises ConfigError if a field is invalid."""
        field, ratio = "strategy.performance_aware.", self.ratio
        require(0 < ratio < 1, field + "ratio", ratio, "a number in (0, 1)")
        require(self.max_points >= 2, field + "max_points", self.max_points, "2 or more")


@dataclasses.dataclass(frozen=True)
class _Choice:
    """The counts of both candidates.

    Attributes:
        ratio: The fraction that uniform pruning removes.
        uniform: Units that uniform pruning keeps, by group.
        instructed: Units that are kept instead, by group; nowhere fewer.
        uniform_tasks: The latency of the tasks with uniform counts / the original's.
        instructed_tasks: The latency of the tasks with instructed counts / the original's.
    """

    ratio: float
    uniform: Mapping[str, int]
    instructed: Mapping[str, int]
    uniform_tasks: float
    instructed_tasks: float

    def describe(self, budget: float) -> str:
        """Says how the instructed counts differ, and if they miss a budget, what binds."""
        more = sum(self.instructed[name] > count for name, count in self.uniform.items())
        text = (
            f"{sum(self.instructed.values())} units instead of {sum(self.uniform.values())}, more "
            f"in {more} of {len(self.uniform)} groups"
        )
        if budget and self.instructed_tasks > budget:
            text += "; the target is not met: config.strategy.max_pruned_fraction binds"
        return text


@register_strategy("performance_aware", PerformanceAwareConfig)
class PerformanceAware(OneShot):
    """See the module's text.

    Attributes:
        twin_ratio: The uninstructed twin's latency / the original's; None if it was not judged.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.twin_ratio: float | None = None

    def learn(self, event: Any) -> None:
        """See Strategy."""
        super().learn(event)
        twin = isinstance(event, events.CandidateJudged) and event.accuracy is None
        if twin and event.measured is not None:
            self.twin_ratio = event.measured.median_ms / event.current_latency_ms

    def judge(self, current: CurrentModel, candidate: Candidate, index: int) -> Verdict:
        """See Strategy: the twin is only timed, the instructed counts must be accurate enough."""
        if index < len(self.planned()) - 1:
            measurement = self.bench.measure(current, candidate, index)
            reason = f"the uninstructed twin: {measurement} at uniform counts; it is only measured"
            return Verdict(events.REFUSED_LATENCY, reason, measurement, None)
        verdict = super().judge(current, candidate, index)
        if self.twin_ratio is None or verdict.measurement is None:
            return verdict
        gain = verdict.measurement.current_ratio / self.twin_ratio
        reason = f"{verdict.reason}; {gain:.1%} of the uninstructed twin's latency"
        return dataclasses.replace(verdict, reason=reason)

    def plan(self, current: CurrentModel, budget: float, attempt: int) -> Plans | Stop:
        """See OneShot."""
        names = tuple(group.name for group in current.channels.prunable)
        if not names:
            return Stop("no group may be pruned")
        choice = self._choose(current, names, budget)
        ratio = f"ratio {choice.ratio:.1%}"
        if not any(self._removed(current, choice.instructed).values()):
            return Stop(f"{ratio}: in no group are fewer units faster, down to the uniform count")
        ranking = ranked(self.bench.score_units(current, names, 0))
        # There is no twin where it would be the same model.
        keys = ["uninstructed", "instructed"]
        if choice.uniform == choice.instructed:
            keys.remove("uninstructed")
        reasons = {"uninstructed": ratio, "instructed": f"{ratio}: {choice.describe(budget)}"}
        counts = {"uninstructed": choice.uniform, "instructed": choice.instructed}
        tasks = {"uninstructed": choice.uniform_tasks, "instructed": choice.instructed_tasks}
        return tuple(
            events.CandidatePlanned(
                index,
                attempt,
                f"{key} at {choice.ratio:.1%}",
                self._units(current, ranking, counts[key]),
                tasks[key],
                reasons[key],
            )
            for index, key in enumerate(keys)
        )

    def _units(
        self,
        current: CurrentModel,
        ranking: Mapping[str, tuple[int, ...]],
        counts: Mapping[str, int],
    ) -> dict[str, tuple[int, ...]]:
        """The least important units, so that these counts remain."""
        return {
            name: least_units({name: ranking[name]}, num_removed)[name]
            for name, num_removed in self._removed(current, counts).items()
            if num_removed
        }

    def _removed(self, current: CurrentModel, counts: Mapping[str, int]) -> dict[str, int]:
        return {name: current.channels[name].num_channels - count for name, count in counts.items()}

    def _choose(self, current: CurrentModel, names: tuple[str, ...], budget: float) -> _Choice:
        """Measures what the counts depend on, and chooses them."""
        from cprune_tf.strategies.planning.options import measure_staircases

        with self.bench.lab(self.original) as lab:
            staircases = measure_staircases(self.bench, lab, names, self.settings.max_points)
            now_ms = lab.tasks_ms({})
            ratio = self.settings.ratio
            if budget:
                ratio = self._ratio_within(lab, current, staircases, now_ms * budget)
            uniform = self._uniform(current, names, ratio)
            instructed = {
                name: instructed_count(_with_count(lab, staircases[name], count), count)
                for name, count in uniform.items()
            }
            return _Choice(
                ratio,
                uniform,
                instructed,
                _tasks_ms(lab, uniform) / now_ms,
                _tasks_ms(lab, instructed) / now_ms,
            )

    def _uniform(
        self, current: CurrentModel, names: tuple[str, ...], ratio: float
    ) -> dict[str, int]:
        """The counts of uniform pruning, within config.strategy.max_pruned_fraction."""
        counts = {}
        for name in names:
            total = current.channels[name].num_channels
            fewest = total - self.bench.removable((name,), current, self.original)
            counts[name] = max(fewest, round(total * (1 - ratio)))
        return counts

    def _ratio_within(
        self,
        lab: LatencyLab,
        current: CurrentModel,
        staircases: Mapping[str, Staircase],
        budget_ms: float,
    ) -> float:
        """The smallest ratio whose instructed counts fit into a budget; the largest if none do."""
        most = self.bench.config.strategy.max_pruned_fraction
        with self.bench.progress.stage("Find the ratio", total=_MAX_RATIOS) as stage:

            def fits(part: int) -> bool:
                ratio = most * part / _RATIO_PARTS
                stage.update(stage.done + 1, f"uniform pruning by {ratio:.1%}")
                uniform = self._uniform(current, tuple(staircases), ratio)
                instructed = {
                    name: instructed_count(staircases[name], count)
                    for name, count in uniform.items()
                }
                return _tasks_ms(lab, instructed) <= budget_ms

            part = smallest_amount(fits, _RATIO_PARTS, _MAX_RATIOS)
        return most * (part or _RATIO_PARTS) / _RATIO_PARTS


def instructed_count(staircase: Staircase, uniform: int) -> int:
    """Chooses the count that a group keeps instead of its uniform count.

    Args:
        staircase: The group's, measured.
        uniform: Number of units that uniform pruning would keep.

    Returns:
        The right edge of a plateau: the most units that take no longer than the staircase at the
        uniform count, as far as the difference is more than noise; never fewer than `uniform`.
    """
    limit_ms = staircase.latency_ms(uniform)
    edges = staircase.steps(_TOLERANCE)
    latencies_ms = {stair.count: stair.latency_ms for stair in staircase.stairs}
    return max(edge for edge in edges if (1 - _TOLERANCE) * latencies_ms[edge] <= limit_ms)


def _with_count(lab: LatencyLab, staircase: Staircase, count: int) -> Staircase:
    """Measures one more count of a staircase, so that a plateau's edge there is not overlooked."""
    from cprune_tf.latency.staircase import Stair

    if any(stair.count == count for stair in staircase.stairs):
        return staircase
    latency_ms = _tasks_ms(lab, {staircase.group: count}) - staircase.rest_ms
    stairs = (*staircase.stairs, Stair(count, latency_ms, 0.0, 0.0))
    return dataclasses.replace(
        staircase, stairs=tuple(sorted(stairs, key=lambda stair: stair.count))
    )


def _tasks_ms(lab: LatencyLab, counts: Mapping[str, int]) -> float:
    lab.measure(counts)
    return lab.tasks_ms(counts)
