"""Measures a model's tasks, and whole models, at channel counts other than its own.

For each channel assignment, the model is rebuilt in Keras and prepared by the runtime, which
divides it into tasks. A task that was never measured is priced and then timed once more. Without
the second timing, a point would merely be the luckiest of several short measurements.

A group may keep zero units where the branch that it lies in may vanish (`graph.vanishing`). The
sites of that branch cost nothing then. To prepare the other sites, the branch is left as it is in
the original, so that all subgraphs keep their keys. An operator that is fused with the branch but
does not belong to it (the sum, the activation behind it) is not counted.
"""

from __future__ import annotations

import math
import pathlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from cprune_tf import graph
from cprune_tf.config import MeasureConfig
from cprune_tf.latency.points import PointStore, TaskPoint, WholePoint
from cprune_tf.latency.sites import (
    Counts,
    Site,
    SiteKey,
    Units,
    current_units,
    find_sites,
    tasks_by_site,
)
from cprune_tf.runtimes import Runtime, RuntimeModel, RuntimeTask

# The programs of so many similar tasks are tried at new counts, the most similar task first.
_MAX_SIMILAR = 2

OnTask = Callable[[RuntimeTask], None]


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
        self.sites = find_sites(prepared, self.prepare(reduced), channels)
        self._sites_without: dict[frozenset[str], tuple[Site, ...]] = {}
        # The tasks that this lab has measured, whose programs may fit others of their family.
        self._measured_tasks: dict[str, dict[Counts, RuntimeTask]] = {}
        self._remember(self.sites, tasks_by_site(prepared), self.units)

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
        candidate = self.prepare({name: count for name, count in keep.items() if count})
        task_at = tasks_by_site(candidate)
        unpriced = {task_at[site.key].key: task_at[site.key] for site in sites}
        sources = [task for site in sites for task in self._similar(site, site.counts(units))]
        current = self.runtime.part(self.prepared, [*sources, *self.prepared.tasks])
        self.runtime.price(self.runtime.part(candidate, unpriced.values()), current)
        self._remember(sites, task_at, units)
        for site in sites:
            counts = site.counts(units)
            # This loop may already have measured another site of the same family.
            if self.store.get(site.family, counts) is None:
                task = task_at[site.key]
                if on_task is not None:
                    on_task(task)
                self.store.add(_point(site.family, counts, self.runtime.samples_ms(task)))
        return len({(site.family, site.counts(units)) for site in sites})

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

    def _remember(
        self, sites: Sequence[Site], task_at: Mapping[SiteKey, RuntimeTask], units: Units
    ) -> None:
        for site in sites:
            self._measured_tasks.setdefault(site.family, {})[site.counts(units)] = task_at[site.key]

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
