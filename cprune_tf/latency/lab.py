"""Measures a model's tasks, and whole models, at other channel counts than it has.

Every channel assignment is rebuilt in Keras and compiled down to its tasks; what was not measured
before is priced by transfer and its fastest program timed again, so that a point is not merely the
luckiest of several short measurements.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cprune_tf import graph
from cprune_tf.compiler.profiling import ProgramTimer
from cprune_tf.compiler.session import CompilerSession
from cprune_tf.compiler.tasks import LoweredModel, Task
from cprune_tf.config import MeasureConfig
from cprune_tf.devices import Device, Latency, ModelFile
from cprune_tf.latency.points import PointStore, TaskPoint, WholePoint
from cprune_tf.latency.sites import Units, current_units, find_sites, tasks_by_site

OnTask = Callable[[Task], None]


class LatencyLab:
    """One model, one device, and all points measured for them.

    Args:
        model: The Keras model.
        lowered: The same as the compiler sees it; every task is tuned.
        channels: Its channel groups.
        session: The compiler.
        timer: Times programs again.
        store: Where points are kept.
    """

    def __init__(
        self,
        model: Any,
        lowered: LoweredModel,
        channels: graph.ChannelGraph,
        session: CompilerSession,
        timer: ProgramTimer,
        store: PointStore,
    ) -> None:
        self.model = model
        self.lowered = lowered
        self.channels = channels
        self.session = session
        self.store = store
        self._timer = timer
        self.units = current_units(channels)
        reduced = {group.name: group.num_channels - 1 for group in channels.prunable}
        self.sites = find_sites(lowered, self.lower(reduced), channels)

    def lower(self, keep: Units) -> LoweredModel:
        """The model with so many units in some groups, as the compiler sees it.

        Args:
            keep: Units by group; groups that are not named keep theirs.

        Raises:
            GraphError: For an unknown or protected group, or more units than there are.
        """
        return self.session.lower(resized(self.model, self.channels, keep))

    def full(self, keep: Units) -> dict[str, int]:
        """The units of all groups, those that are not named as they are."""
        return {**self.units, **keep}

    def missing(self, keep: Units) -> int:
        """How many tasks of an assignment were never measured."""
        units = self.full(keep)
        wanted = {(site.family, site.counts(units)) for site in self.sites}
        return sum(self.store.get(*one) is None for one in wanted)

    def measure(self, keep: Units, on_task: OnTask | None = None) -> int:
        """Measures what an assignment needs and nobody measured yet.

        Args:
            keep: Units by group; groups that are not named keep theirs.
            on_task: Called before each task that has to be measured.

        Returns:
            How many tasks were measured.

        Raises:
            TuningError: If no program of a task works.
            DeviceError: If the device fails.
        """
        number = self.missing(keep)
        if not number:
            return 0
        lowered = self.lower(keep)
        units = self.full(keep)
        tasks = tasks_by_site(lowered)
        wanted = [s for s in self.sites if self.store.get(s.family, s.counts(units)) is None]
        chosen = {tasks[site.key].key: tasks[site.key] for site in wanted}
        self.session.price(dataclasses.replace(lowered, tasks=tuple(chosen.values())), self.lowered)
        for site in wanted:
            counts = site.counts(units)
            if self.store.get(site.family, counts) is None:
                task = tasks[site.key]
                if on_task is not None:
                    on_task(task)
                self.store.add(_point(site.family, counts, self._timer.samples_ms(task)))
        return number

    def tasks_ms(self, keep: Units) -> float:
        """The sum of all measured tasks of an assignment.

        Raises:
            KeyError: If one was not measured.
        """
        units = self.full(keep)
        total = 0.0
        for site in self.sites:
            point = self.store.get(site.family, site.counts(units))
            if point is None:
                raise KeyError(f"{site.anchor} was not measured at {site.counts(units)} channels.")
            total += point.latency_ms
        return total

    def build(self, keep: Units, path: pathlib.Path) -> None:
        """Builds the library of an assignment with the fastest programs known, pricing first."""
        lowered = self.lower(keep)
        self.session.price(lowered, self.lowered)
        self.session.build(lowered, path)

    def calibrate(
        self,
        assignments: Sequence[Units],
        device: Device,
        measure: MeasureConfig,
        folder: pathlib.Path,
    ) -> None:
        """Times whole models, interleaved, to learn what they cost beyond their tasks.

        Args:
            assignments: Whole models to build; those timed before are not timed again.
            device: Where they run.
            measure: How they are timed.
            folder: Where the libraries go.
        """
        known = [dict(whole.units) for whole in self.store.wholes]
        wanted = [units for keep in assignments if (units := self.full(keep)) not in known]
        paths = [folder / f"calibration_{number}.so" for number in range(len(wanted))]
        for units, path in zip(wanted, paths, strict=True):
            keep = {name: units[name] for name in _prunable(self.channels)}
            self.measure(keep)
            self.build(keep, path)
        latencies = time_libraries(device, self.model, paths, measure)
        for units, latency in zip(wanted, latencies, strict=True):
            self.store.add_whole(WholePoint(units, self.tasks_ms(units), latency.median_ms))


def resized(model: Any, channels: graph.ChannelGraph, keep: Units) -> Any:
    """The model with so many units in some groups, the last ones removed; weights do not matter.

    Args:
        model: The Keras model.
        channels: Its groups.
        keep: Units by group.

    Raises:
        ValueError: For more units than there are, or none.
        GraphError: For an unknown or protected group.
    """
    removal = {}
    for name, count in keep.items():
        total = channels[name].num_channels
        if not 1 <= count <= total:
            raise ValueError(f"Group {name} was to keep {count} units; expected 1 to {total}.")
        if count < total:
            removal[name] = range(count, total)
    # Folding would add biases, and with them operators that the model did not have.
    return graph.rebuild(model, removal, graph=channels, fold_constants=False)


def time_libraries(
    device: Device, model: Any, paths: Sequence[pathlib.Path], measure: MeasureConfig
) -> tuple[Latency, ...]:
    """Times TVM libraries of models with this one's inputs, interleaved."""
    inputs = tuple(
        (str(tensor.dtype), (1, *(int(size) for size in tensor.shape[1:])))
        for tensor in model.inputs
    )
    models = [ModelFile(path.stem, "tvm", str(path), inputs) for path in paths]
    return device.time_models(models, measure.num_threads, measure)


def _prunable(channels: graph.ChannelGraph) -> tuple[str, ...]:
    return tuple(group.name for group in channels.prunable)


def _point(family: str, counts: tuple[int, int], samples_ms: Sequence[float]) -> TaskPoint:
    first, median, third = np.percentile(samples_ms, (25, 50, 75))
    return TaskPoint(family, counts, float(median), float(third - first))
