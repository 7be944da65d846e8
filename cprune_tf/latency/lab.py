"""Measures a model's tasks, and whole models, at other channel counts than it has.

Every channel assignment is rebuilt in Keras and prepared by the runtime, which says what its tasks
are. A task that was not measured before is priced, and then timed once more, so that a point is not
merely the luckiest of several short measurements.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cprune_tf import graph
from cprune_tf.config import MeasureConfig
from cprune_tf.latency.points import PointStore, TaskPoint, WholePoint
from cprune_tf.latency.sites import Site, Units, current_units, find_sites, tasks_by_site
from cprune_tf.runtimes import Runtime, RuntimeModel, RuntimeTask

OnTask = Callable[[RuntimeTask], None]


class LatencyLab:
    """One model, one runtime on one device, and all points measured for them.

    Args:
        model: The Keras model.
        prepared: The same model as the runtime sees it; every task is tuned.
        channels: Its channel groups.
        runtime: What measures; open as long as the lab is used.
        store: Where points are kept.
    """

    def __init__(
        self,
        model: Any,
        prepared: RuntimeModel,
        channels: graph.ChannelGraph,
        runtime: Runtime,
        store: PointStore,
    ) -> None:
        self.model = model
        self.prepared = prepared
        self.channels = channels
        self.runtime = runtime
        self.store = store
        self.units = current_units(channels)
        reduced = {group.name: group.num_channels - 1 for group in channels.prunable}
        self.sites = find_sites(prepared, self.prepare(reduced), channels)

    def prepare(self, keep: Units) -> RuntimeModel:
        """The model with so many units in some groups, as the runtime sees it.

        Args:
            keep: Units by group; groups that are not named keep theirs.

        Raises:
            GraphError: For an unknown or protected group.
            ValueError: For more units than there are, or none.
        """
        return self.runtime.prepare(resized(self.model, self.channels, keep))

    def full(self, keep: Units) -> dict[str, int]:
        """The units of all groups, those that are not named as they are."""
        return {**self.units, **keep}

    def missing(self, keep: Units) -> int:
        """How many tasks of an assignment were never measured."""
        units = self.full(keep)
        return len({(site.family, site.counts(units)) for site in self._unmeasured(units)})

    def measure(self, keep: Units, on_task: OnTask | None = None) -> int:
        """Measures the tasks of an assignment that were never measured.

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
        units = self.full(keep)
        candidate = self.prepare(keep)
        task_at = tasks_by_site(candidate)
        sites = self._unmeasured(units)
        unpriced = {task_at[site.key].key: task_at[site.key] for site in sites}
        self.runtime.price(self.runtime.part(candidate, unpriced.values()), self.prepared)
        for site in sites:
            counts = site.counts(units)
            # Another site of the family may have been measured in this loop.
            if self.store.get(site.family, counts) is None:
                task = task_at[site.key]
                if on_task is not None:
                    on_task(task)
                self.store.add(_point(site.family, counts, self.runtime.samples_ms(task)))
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
        """Prices an assignment and builds the file that would be deployed.

        Args:
            keep: Units by group; groups that are not named keep theirs.
            path: The file; ends in the runtime's suffix.
        """
        candidate = self.prepare(keep)
        self.runtime.price(candidate, self.prepared)
        self.runtime.build(candidate, path)

    def calibrate(
        self, assignments: Sequence[Units], measure: MeasureConfig, folder: pathlib.Path
    ) -> None:
        """Times whole models, interleaved, to learn what they cost beyond their tasks.

        Args:
            assignments: Whole models to build; those timed before are not timed again.
            measure: How they are timed, but for the number of threads: that is the runtime's.
            folder: Where the built models go.
        """
        timed_before = [dict(whole.units) for whole in self.store.wholes]
        untimed = [u for keep in assignments if (u := self.full(keep)) not in timed_before]
        suffix = self.runtime.suffix
        paths = [folder / f"calibration_{number}{suffix}" for number in range(len(untimed))]
        for units, path in zip(untimed, paths, strict=True):
            keep = {group.name: units[group.name] for group in self.channels.prunable}
            self.measure(keep)
            self.build(keep, path)
        latencies = self.runtime.time(paths, self.model, measure)
        for units, latency in zip(untimed, latencies, strict=True):
            self.store.add_whole(WholePoint(units, self.tasks_ms(units), latency.median_ms))

    def _unmeasured(self, units: Units) -> list[Site]:
        """The sites without a point where all groups have so many units."""
        return [s for s in self.sites if self.store.get(s.family, s.counts(units)) is None]


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


def _point(family: str, counts: tuple[int, int], samples_ms: Sequence[float]) -> TaskPoint:
    first, median, third = np.percentile(samples_ms, (25, 50, 75))
    return TaskPoint(family, counts, float(median), float(third - first))
