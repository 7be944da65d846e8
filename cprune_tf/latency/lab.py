"""Measures a model's tasks, and whole models, at channel counts other than its own.

For each channel assignment, the model is rebuilt in Keras and prepared by the runtime, which
divides it into tasks; a runtime that can resize its tasks needs no model. A task that was never
measured is priced and then timed once more. Without the second timing, a point would merely be the
luckiest of several short measurements.

A group may keep zero units where the branch that it lies in may vanish (`graph.vanishing`). The
sites of that branch cost nothing then. To prepare the other sites, the branch is left as it is in
the original, so that all subgraphs keep their keys. An operator that is fused with the branch but
does not belong to it (the sum, the activation behind it) is not counted.
"""

from __future__ import annotations

import math
import pathlib
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import numpy as np

from cprune_tf import graph
from cprune_tf.config import MeasureConfig
from cprune_tf.latency.points import PointStore, TaskPoint, WholePoint
from cprune_tf.latency.sites import (
    Counts,
    Site,
    Units,
    current_units,
    find_sites,
    tasks_by_site,
)
from cprune_tf.litert.resizing import Resize
from cprune_tf.runtimes import Runtime, RuntimeModel, RuntimeTask

# The programs of so many similar tasks are tried at new counts, the most similar task first.
_MAX_SIMILAR = 2

OnTask = Callable[[RuntimeTask], None]
_SiteTask = tuple[Site, Counts, RuntimeTask]


class LatencyLab:
    """One model, one runtime on one device, and all points measured for them.

    Args:
        model: The Keras model.
        prepared: The same model as the runtime sees it, with every task tuned.
        channels: The model's channel groups.
        runtime: The runtime that measures; it must stay open while the lab is used.
        store: The store that keeps the measured points.
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
        self._reduced_units = self.full(reduced)
        reduced_model = self.prepare(reduced)
        self.sites = find_sites(prepared, reduced_model, channels)
        self._sites_without: dict[frozenset[str], tuple[Site, ...]] = {}
        self._task_at = tasks_by_site(prepared)
        self._reduced_task_at = tasks_by_site(reduced_model)
        # The tasks that this lab has measured, whose programs may fit others of their family.
        self._measured_tasks: dict[str, dict[Counts, RuntimeTask]] = {}
        for site in self.sites:
            self._remember(site, site.counts(self.units), self._task_at[site.key])

    def prepare(self, keep: Units) -> RuntimeModel:
        """Prepares the model with fewer units in some groups, without measuring it.

        Args:
            keep: Number of units to keep, by group; groups that are not named keep all.

        Returns:
            The smaller model as the runtime sees it.

        Raises:
            GraphError: If a group is unknown or protected.
            ValueError: If a count is above the group's number of units, or below 1 in a group that
                may not vanish.
        """
        return self.runtime.prepare(resized(self.model, self.channels, keep))

    def full(self, keep: Units) -> dict[str, int]:
        """Returns the number of units of every group: from `keep` if named, else the model's."""
        return {**self.units, **keep}

    def sites_at(self, units: Units) -> tuple[Site, ...]:
        """Returns the sites that exist with so many units: those of vanished branches do not.

        Args:
            units: Number of units by group; groups that are not named keep all.
        """
        absent = frozenset(name for name, count in units.items() if not count)
        if absent and absent not in self._sites_without:
            flat = self.channels.propagation.flat
            gone = {call.name for call in flat.calls}
            gone -= self.channels.vanishing(absent).surviving_layers(flat)
            left = tuple(site for site in self.sites if site.anchor not in gone)
            self._sites_without[absent] = left
        return self._sites_without[absent] if absent else self.sites

    def missing(self, keep: Units) -> int:
        """Returns how many tasks of an assignment were never measured."""
        units = self.full(keep)
        return len({(site.family, site.counts(units)) for site in self._unmeasured(units)})

    def measure(
        self,
        keep: Units,
        on_task: OnTask | None = None,
        only: Collection[tuple[str, Counts]] | None = None,
    ) -> int:
        """Measures the tasks of an assignment that were never measured.

        Args:
            keep: Number of units to keep, by group; groups that are not named keep all. With 0, the
                sites that vanish with the group are skipped.
            on_task: Called before each task that has to be measured.
            only: (family, channel counts) of the tasks to measure; None for all.

        Returns:
            How many tasks were measured.

        Raises:
            TuningError: If no program of a task works.
            DeviceError: If the device fails.
        """
        units = self.full(keep)
        sites = [
            site
            for site in self._unmeasured(units)
            if only is None or (site.family, site.counts(units)) in only
        ]
        if not sites:
            return 0
        model = self.prepared
        tasks = self._resized_tasks(sites, units)
        if tasks is None:
            model = self.prepare({name: count for name, count in keep.items() if count})
            task_at = tasks_by_site(model)
            tasks = [(site, site.counts(units), task_at[site.key]) for site in sites]
        return self._measure_tasks(model, tasks, on_task)

    def measure_together(self, assignments: Iterable[Units], on_task: OnTask | None = None) -> int:
        """Measures many assignments in turn if the runtime needs no models for that.

        Otherwise nothing is measured: `measure` prepares a model for each assignment.

        Args:
            assignments: Number of units to keep by group, as for `measure`.
            on_task: Called before each task that has to be measured.

        Returns:
            How many tasks were measured.

        Raises:
            DeviceError: If the device fails.
        """
        tasks: list[_SiteTask] = []
        for keep in assignments:
            units = self.full(keep)
            tasks += self._resized_tasks(self._unmeasured(units), units) or ()
        return self._measure_tasks(self.prepared, tasks, on_task) if tasks else 0

    def _resized_tasks(self, sites: Sequence[Site], units: Units) -> list[_SiteTask] | None:
        """Returns the tasks of sites at other numbers of units, made without a model.

        Returns:
            The tasks; None if the runtime needs a model for one of them.
        """
        tasks: list[_SiteTask] = []
        for site in sites:
            own = self._task_at[site.key]
            counts = [site.counts(one) for one in (self.units, self._reduced_units, units)]
            task = (
                own
                if counts[-1] == counts[0]
                else self.runtime.resized_task(
                    own, self._reduced_task_at[site.key], Resize(*counts)
                )
            )
            if task is None:
                return None
            tasks.append((site, counts[-1], task))
        return tasks

    def _measure_tasks(
        self, model: RuntimeModel, tasks: Sequence[_SiteTask], on_task: OnTask | None
    ) -> int:
        """Measures tasks and keeps their points.

        Args:
            model: A model from the runtime; its own tasks do not matter.
            tasks: The sites, their channel counts, and their tasks at these counts.
            on_task: Called before each task that has to be measured.

        Returns:
            How many tasks were measured; the sites of a family share them.
        """
        unpriced = {task.key: task for _, _, task in tasks}
        sources = [task for site, counts, _ in tasks for task in self._similar(site, counts)]
        current = self.runtime.part(self.prepared, [*sources, *self.prepared.tasks])
        self.runtime.price(self.runtime.part(model, unpriced.values()), current)
        measured = 0
        for site, counts, task in tasks:
            self._remember(site, counts, task)
            # This loop may already have measured another site of the same family.
            if self.store.get(site.family, counts) is None:
                if on_task is not None:
                    on_task(task)
                self.store.add(_point(site.family, counts, self.runtime.samples_ms(task)))
                measured += 1
        return measured

    def tasks_ms(self, keep: Units) -> float:
        """Sums the measured latencies of all subgraphs of an assignment, in milliseconds.

        Raises:
            KeyError: If a task was not measured.
        """
        units = self.full(keep)
        total = 0.0
        for site in self.sites_at(units):
            point = self.store.get(site.family, site.counts(units))
            if point is None:
                raise KeyError(
                    f"{site.anchor} was not measured at {site.counts(units)} channels; call "
                    "measure first."
                )
            total += point.latency_ms
        return total

    def build(self, keep: Units, path: pathlib.Path) -> None:
        """Prices an assignment and builds the file that would be deployed.

        Args:
            keep: Number of units to keep, by group; groups that are not named keep all.
            path: The file to write; its name must end in the runtime's suffix.
        """
        candidate = self.prepare(keep)
        self.runtime.price(candidate, self.prepared)
        self.runtime.build(candidate, path)

    def calibrate(
        self, assignments: Sequence[Units], measure: MeasureConfig, folder: pathlib.Path
    ) -> None:
        """Times whole models, interleaved, to learn what they cost beyond their tasks.

        Args:
            assignments: Channel assignments of the models to build; models that were timed before
                are not timed again.
            measure: How the models are timed. Its number of threads is ignored in favour of the
                runtime's.
            folder: The folder that the built models are written to.
        """
        timed_before = [dict(whole.units) for whole in self.store.wholes]
        assigned_units = [self.full(keep) for keep in assignments]
        untimed = [units for units in assigned_units if units not in timed_before]
        suffix = self.runtime.suffix
        paths = [folder / f"calibration_{number}{suffix}" for number in range(len(untimed))]
        for units, path in zip(untimed, paths, strict=True):
            keep = {group.name: units[group.name] for group in self.channels.prunable}
            self.measure(keep)
            self.build(keep, path)
        latencies = self.runtime.time(paths, self.model, measure)
        for units, latency in zip(untimed, latencies, strict=True):
            self.store.add_whole(WholePoint(units, self.tasks_ms(units), latency.median_ms))

    def _remember(self, site: Site, counts: Counts, task: RuntimeTask) -> None:
        self._measured_tasks.setdefault(site.family, {})[counts] = task

    def _similar(self, site: Site, counts: Counts) -> list[RuntimeTask]:
        """Returns the measured tasks of a site's family whose counts are nearest."""

        def distance(other: Counts) -> float:
            return sum(abs(math.log(a / b)) for a, b in zip(other, counts, strict=True))

        measured = self._measured_tasks.get(site.family, {})
        nearest = sorted(measured, key=lambda other: (distance(other), other))
        return [measured[other] for other in nearest[:_MAX_SIMILAR]]

    def _unmeasured(self, units: Units) -> list[Site]:
        """Returns the sites that have no point at these numbers of units."""
        sites = self.sites_at(units)
        return [s for s in sites if self.store.get(s.family, s.counts(units)) is None]


def resized(model: Any, channels: graph.ChannelGraph, keep: Units) -> Any:
    """Rebuilds a model with fewer units in some groups.

    The last units of each group are removed: latency does not depend on which units go.

    Args:
        model: The Keras model.
        channels: The model's channel groups.
        keep: Number of units to keep, by group; groups that are not named keep all.

    Returns:
        The smaller Keras model.

    Raises:
        ValueError: If a count is above the group's number of units, or below 1 in a group that may
            not vanish.
        GraphError: If a group is unknown or protected, or if groups may not vanish together.
    """
    removal = {}
    for name, count in keep.items():
        total = channels[name].num_channels
        least = 0 if count == 0 and channels[name] in channels.removable_whole else 1
        if not least <= count <= total:
            raise ValueError(f"Group {name} cannot keep {count} units; expected 1 to {total}.")
        if count < total:
            removal[name] = range(count, total)
    # Folding constants would add biases, and so operators that the model did not have.
    return graph.rebuild(model, removal, graph=channels, fold_constants=False)


def _point(family: str, counts: tuple[int, int], samples_ms: Sequence[float]) -> TaskPoint:
    first, median, third = np.percentile(samples_ms, (25, 50, 75))
    return TaskPoint(family, counts, float(median), float(third - first))
