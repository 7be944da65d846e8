"""The whole model's latency for any channel assignment, from measured tasks; nothing is run.

A task that was measured at these very counts has its measured latency; the latencies of other tasks
come from the surface that was fitted to all points. What the whole model costs beyond its tasks
(the runtime's calls, caches that other tasks have filled) was learned from a few whole models.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from cprune_tf.graph import ChannelGraph
from cprune_tf.latency.lab import LatencyLab
from cprune_tf.latency.points import TaskPoint, WholePoint
from cprune_tf.latency.sites import Counts, Site, Units
from cprune_tf.latency.surface import Query, Surface, Vector

# A spread between quartiles, in standard deviations of a normal distribution.
_QUARTILES = 1.349
# One task of a model at channel counts: its family and the counts.
TaskKey = tuple[str, Counts]


@dataclasses.dataclass(frozen=True)
class TaskPrediction:
    """One subgraph's part of a prediction.

    Attributes:
        layers: The Keras layers it computes.
        counts: (input channels, output channels).
        latency_ms: Of one call.
        uncertainty_ms: One standard deviation.
        measured: Whether it was measured at these counts.
    """

    layers: tuple[str, ...]
    counts: Counts
    latency_ms: float
    uncertainty_ms: float
    measured: bool


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a whole model is expected to take.

    Attributes:
        latency_ms: Tasks and runtime overhead.
        uncertainty_ms: One standard deviation.
        per_task: Its subgraphs, in no particular order.
    """

    latency_ms: float
    uncertainty_ms: float
    per_task: tuple[TaskPrediction, ...]


@dataclasses.dataclass(frozen=True)
class Overhead:
    """What whole models cost beyond their tasks.

    Attributes:
        constant_ms: In every inference.
        per_task_ms: For every millisecond of tasks.
        deviation: Relative standard deviation of the whole models that it was learned from.
    """

    constant_ms: float
    per_task_ms: float
    deviation: float

    def whole_ms(self, tasks_ms: float) -> float:
        """The latency of a model whose tasks take so long."""
        return max(tasks_ms * (1 + self.per_task_ms) + self.constant_ms, 0.0)


def fit_overhead(wholes: Sequence[WholePoint]) -> Overhead:
    """Learns the overhead from whole models.

    Args:
        wholes: Measured models; from three on, a line is fitted to them.

    Returns:
        No overhead for no model; a constant one for one or two.
    """
    if not wholes:
        return Overhead(0.0, 0.0, 0.0)
    tasks = np.array([whole.tasks_ms for whole in wholes])
    measured = np.array([whole.whole_ms for whole in wholes])
    if len(wholes) < 3:
        constant, slope = float(np.median(measured - tasks)), 0.0
    else:
        # Relative errors count: small models are worth as much as large ones.
        slope, constant = np.polyfit(tasks, measured - tasks, 1, w=1 / measured)
    errors = (tasks * (1 + slope) + constant) / measured - 1
    freedom = max(len(wholes) - 2, 1)
    return Overhead(float(constant), float(slope), math.sqrt(float((errors**2).sum()) / freedom))


class LatencyPredictor:
    """Predicts any channel assignment of one model.

    Args:
        sites: Of the model.
        units: Units of all its groups.
        points: Measured tasks; those of other models' families are not looked at.
        overhead: Of whole models.
        seed: See `Surface`.

    Raises:
        ValueError: If no point belongs to the model.
    """

    def __init__(
        self,
        sites: Sequence[Site],
        units: Units,
        points: Sequence[TaskPoint],
        overhead: Overhead,
        *,
        seed: int = 0,
    ) -> None:
        self._sites = tuple(sites)
        self._units = dict(units)
        self._overhead = overhead
        by_family = {site.family: site for site in self._sites}
        own = [point for point in points if point.family in by_family]
        if not own:
            raise ValueError(
                f"None of {len(points)} measured points belongs to this model; measure some first."
            )
        self._points = {(point.family, point.counts): point for point in own}
        queries = [
            Query(point.family, point.counts, by_family[point.family].flops(point.counts))
            for point in own
        ]
        self._surface = Surface(queries, [point.latency_ms for point in own], seed=seed)

    @classmethod
    def from_lab(cls, lab: LatencyLab, *, seed: int = 0) -> LatencyPredictor:
        """A predictor from everything a lab has measured."""
        overhead = fit_overhead(lab.store.wholes)
        return cls(lab.sites, lab.units, lab.store.points, overhead, seed=seed)

    def predict_ms(self, keep: Units) -> Prediction:
        """Predicts the model with so many units in some groups.

        Args:
            keep: Units by group; groups that are not named keep theirs.

        Returns:
            The whole latency, with what each subgraph contributes.

        Raises:
            KeyError: For an unknown group.
            ValueError: For a count that the group cannot have.
        """
        units = self._checked(keep)
        calls = Counter((site.family, site.counts(units)) for site in self._sites)
        latency_ms, covariance = self._tasks(list(calls))
        # Subgraphs that share a task share its error.
        weights = np.array(list(calls.values())) * latency_ms
        tasks_ms = float(weights.sum())
        whole_ms = self._overhead.whole_ms(tasks_ms)
        variance = float(weights @ covariance @ weights) * (1 + self._overhead.per_task_ms) ** 2
        variance += (self._overhead.deviation * whole_ms) ** 2
        index = {key: number for number, key in enumerate(calls)}
        parts = []
        for site in self._sites:
            counts = site.counts(units)
            i = index[site.family, counts]
            deviation = float(latency_ms[i]) * math.sqrt(max(float(covariance[i, i]), 0.0))
            measured = (site.family, counts) in self._points
            parts.append(
                TaskPrediction(site.layers, counts, float(latency_ms[i]), deviation, measured)
            )
        return Prediction(whole_ms, math.sqrt(max(variance, 0.0)), tuple(parts))

    def _tasks(self, keys: Sequence[TaskKey]) -> tuple[Vector, Vector]:
        """Latencies of tasks and the covariance of their logarithms."""
        by_family = {site.family: site for site in self._sites}
        queries = [
            Query(family, counts, by_family[family].flops(counts)) for family, counts in keys
        ]
        estimate = self._surface.estimate(queries)
        latency_ms, covariance = estimate.latency_ms.copy(), estimate.log_covariance.copy()
        for i, key in enumerate(keys):
            if (point := self._points.get(key)) is not None:
                latency_ms[i] = point.latency_ms
                covariance[i, :] = covariance[:, i] = 0.0
                covariance[i, i] = (point.spread_ms / _QUARTILES / point.latency_ms) ** 2
        return latency_ms, covariance

    def _checked(self, keep: Units) -> dict[str, int]:
        for name, count in keep.items():
            if name not in self._units:
                raise KeyError(
                    f"No channel group is called {name!r}; there are {', '.join(self._units)}."
                )
            if not 1 <= count <= self._units[name]:
                raise ValueError(
                    f"Group {name} was to keep {count} units; expected 1 to {self._units[name]}."
                )
        return {**self._units, **keep}


def spread_assignments(
    channels: ChannelGraph, count: int, *, multiple: int = 4, smallest: float = 0.25, seed: int = 0
) -> tuple[dict[str, int], ...]:
    """Channel assignments that together cover many counts of every group, and of pairs of groups.

    A Latin hypercube: each group's range is cut in `count` parts, and each part is met once.

    Args:
        channels: The model's groups; the prunable ones vary.
        count: Assignments.
        multiple: Units are multiples of it (where a group has so many).
        smallest: The least fraction of its units that a group keeps.
        seed: Of the choice.

    Returns:
        Units by group; those of protected groups are not named.
    """
    from scipy.stats import qmc

    groups = channels.prunable
    if not groups or count < 1:
        return ()
    places = qmc.LatinHypercube(len(groups), rng=np.random.default_rng(seed)).random(count)
    assignments = []
    for row in places:
        keep = {}
        for group, place in zip(groups, row, strict=True):
            step = multiple if group.num_channels >= 2 * multiple else 1
            most = group.num_channels // step
            least = max(1, math.ceil(smallest * most))
            keep[group.name] = step * (least + int(place * (most - least + 1)))
        assignments.append(keep)
    return tuple(assignments)
