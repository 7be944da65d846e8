"""Predicts the whole model's latency for any channel assignment, without running anything.

A task that was measured at exactly the requested counts keeps its measured latency. The latencies
of all other tasks come from a surface fitted to all points. What the whole model costs beyond its
tasks (the runtime's calls, caches that other tasks have filled) is learned from a few measured
whole models.
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

# The interquartile range of a normal distribution, in standard deviations.
_QUARTILES = 1.349
# (family, channel counts): identifies a task at given counts.
TaskKey = tuple[str, Counts]


@dataclasses.dataclass(frozen=True)
class TaskPrediction:
    """One subgraph's part of a prediction.

    Attributes:
        layers: The Keras layers that the subgraph computes.
        counts: (input channels, output channels).
        latency_ms: The latency of one call, measured or predicted.
        uncertainty_ms: One standard deviation of `latency_ms`.
        measured: Whether the task was measured at these counts.
    """

    layers: tuple[str, ...]
    counts: Counts
    latency_ms: float
    uncertainty_ms: float
    measured: bool


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The predicted latency of a whole model.

    Attributes:
        latency_ms: The latency of all tasks plus the runtime's overhead.
        uncertainty_ms: One standard deviation of `latency_ms`.
        per_task: The part of each subgraph, in no particular order.
    """

    latency_ms: float
    uncertainty_ms: float
    per_task: tuple[TaskPrediction, ...]


@dataclasses.dataclass(frozen=True)
class Overhead:
    """The time that whole models take beyond their tasks.

    Attributes:
        constant_ms: Overhead of every inference.
        per_task_ms: Additional overhead in milliseconds for each millisecond of tasks.
        deviation: Relative standard deviation of the measured whole models from this formula.
    """

    constant_ms: float
    per_task_ms: float
    deviation: float

    def whole_ms(self, tasks_ms: float) -> float:
        """Returns the latency in milliseconds of a model whose tasks take `tasks_ms`."""
        return max(tasks_ms * (1 + self.per_task_ms) + self.constant_ms, 0.0)


def fit_overhead(wholes: Sequence[WholePoint]) -> Overhead:
    """Learns the overhead from whole models.

    Args:
        wholes: Measured whole models.

    Returns:
        No overhead without models, a constant overhead for one or two models, and a line fitted
        to three or more.
    """
    if not wholes:
        return Overhead(0.0, 0.0, 0.0)
    tasks = np.array([whole.tasks_ms for whole in wholes])
    measured = np.array([whole.whole_ms for whole in wholes])
    if len(wholes) < 3:
        constant, slope = float(np.median(measured - tasks)), 0.0
    else:
        # The weights make errors relative, so that small models count as much as large ones.
        slope, constant = np.polyfit(tasks, measured - tasks, 1, w=1 / measured)
    errors = (tasks * (1 + slope) + constant) / measured - 1
    freedom = max(len(wholes) - 2, 1)
    return Overhead(float(constant), float(slope), math.sqrt(float((errors**2).sum()) / freedom))


class LatencyPredictor:
    """Predicts the latency of one model at any channel assignment.

    Args:
        sites: The model's sites.
        units: Number of units of every channel group of the model.
        points: Measured tasks; points of families that the model does not have are ignored.
        overhead: The overhead of whole models.
        seed: The seed for fitting the surface; see `Surface`.

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
        model_points = [point for point in points if point.family in by_family]
        if not model_points:
            raise ValueError(
                f"None of {len(points)} measured points belongs to this model; measure some first."
            )
        self._points = {(point.family, point.counts): point for point in model_points}
        queries = [
            Query(point.family, point.counts, by_family[point.family].flops(point.counts))
            for point in model_points
        ]
        self._surface = Surface(queries, [point.latency_ms for point in model_points], seed=seed)

    @classmethod
    def from_lab(cls, lab: LatencyLab, *, seed: int = 0) -> LatencyPredictor:
        """Makes a predictor from everything that a lab has measured."""
        overhead = fit_overhead(lab.store.wholes)
        return cls(lab.sites, lab.units, lab.store.points, overhead, seed=seed)

    def predict_ms(self, keep: Units) -> Prediction:
        """Predicts the latency of the model with fewer units in some groups.

        Args:
            keep: Number of units to keep, by group; groups that are not named keep all.

        Returns:
            The whole model's latency, with the part of each subgraph.

        Raises:
            KeyError: If a group is unknown.
            ValueError: If a count is below 1 or above the group's number of units.
        """
        units = self._checked(keep)
        calls = Counter((site.family, site.counts(units)) for site in self._sites)
        latency_ms, covariance = self._tasks(list(calls))
        # Errors of subgraphs that share a task do not average out, so each task is counted with
        # the number of its calls.
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

    def predict_tasks(self, keys: Sequence[TaskKey]) -> tuple[Vector, Vector]:
        """Predicts the latency of single tasks; a task that was measured keeps its latency.

        Args:
            keys: (family, channel counts) of tasks of the model.

        Returns:
            The latencies of one call in milliseconds, and their relative standard deviations, each
            float64 [len(keys)].
        """
        latency_ms, covariance = self._tasks(keys)
        return latency_ms, np.sqrt(np.maximum(np.diag(covariance), 0.0))

    def _tasks(self, keys: Sequence[TaskKey]) -> tuple[Vector, Vector]:
        """Returns the tasks' latencies in ms and the covariance of their logarithms."""
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
                    f"No channel group is called {name!r}; expected one of "
                    f"{', '.join(self._units)}."
                )
            if not 1 <= count <= self._units[name]:
                raise ValueError(
                    f"Group {name} cannot keep {count} units; expected 1 to {self._units[name]}."
                )
        return {**self._units, **keep}


def spread_assignments(
    channels: ChannelGraph, count: int, *, multiple: int = 4, smallest: float = 0.25, seed: int = 0
) -> tuple[dict[str, int], ...]:
    """Chooses channel assignments that together cover many counts of every group and group pair.

    The assignments form a Latin hypercube: each group's range is divided into `count` parts, and
    exactly one assignment falls into each part.

    Args:
        channels: The model's channel groups; only the prunable ones vary.
        count: Number of assignments.
        multiple: Numbers of units are multiples of this, in groups of at least twice as many units.
        smallest: The smallest fraction (0..1) of its units that a group keeps.
        seed: The seed for choosing the assignments.

    Returns:
        For each assignment, the number of units of each prunable group.
    """
    from scipy.stats import qmc

    groups = channels.prunable
    if not groups or count < 1:
        return ()
    positions = qmc.LatinHypercube(len(groups), rng=np.random.default_rng(seed)).random(count)
    assignments = []
    for row in positions:
        keep = {}
        for group, position in zip(groups, row, strict=True):
            step = multiple if group.num_channels >= 2 * multiple else 1
            maximum = group.num_channels // step
            minimum = max(1, math.ceil(smallest * maximum))
            keep[group.name] = step * (minimum + int(position * (maximum - minimum + 1)))
        assignments.append(keep)
    return tuple(assignments)
