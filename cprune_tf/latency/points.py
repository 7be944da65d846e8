"""Measured task latencies by channel counts, kept on disk point by point.

A journal: a killed process loses nothing that was measured, and the next one measures nothing
twice.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from cprune_tf.errors import UserError
from cprune_tf.latency.sites import Counts
from cprune_tf.runs import Journal

_VERSION = 1


class PointStoreError(UserError, RuntimeError):
    """A file of points that does not fit this device or version; says what differs."""


@dataclasses.dataclass(frozen=True)
class TaskPoint:
    """One task at one pair of channel counts.

    Attributes:
        family: Of its sites, see `sites.Site`.
        counts: (input channels, output channels).
        latency_ms: Median duration of one call of the fastest program found.
        spread_ms: Between the quartiles of its samples.
    """

    family: str
    counts: Counts
    latency_ms: float
    spread_ms: float


@dataclasses.dataclass(frozen=True)
class WholePoint:
    """A whole model against its tasks.

    Attributes:
        units: Units of every group.
        tasks_ms: Sum of its tasks.
        whole_ms: Median latency of the built library.
    """

    units: Mapping[str, int]
    tasks_ms: float
    whole_ms: float


class PointStore:
    """Points in a file, opened for writing by this process alone.

    Args:
        path: The file, made where missing.
        fingerprint: What the points hold for, see `Runtime.fingerprint`.

    Raises:
        PointStoreError: If the file holds another version's or another fingerprint's points.
        JournalError: If a line in its middle cannot be read.
        LockedError: If another process has it open.
    """

    def __init__(self, path: str | os.PathLike[str], *, fingerprint: Mapping[str, Any]) -> None:
        path = pathlib.Path(path)
        self._journal = Journal(path)
        header = {"version": _VERSION, **fingerprint}
        opened = self._journal.events("opened")
        if not opened:
            self._journal.append("opened", **header)
        elif (found := {name: opened[0].get(name) for name in header}) != header:
            self._journal.close()
            raise PointStoreError(
                f"{path} holds points of {found}; expected {header}. Use another --workdir."
            )
        self._points: dict[tuple[str, Counts], TaskPoint] = {}
        for event in self._journal.events("point"):
            self._keep(_task_point(event))
        self._wholes = [
            WholePoint(event["units"], event["tasks_ms"], event["whole_ms"])
            for event in self._journal.events("whole")
        ]

    def __len__(self) -> int:
        return len(self._points)

    @property
    def points(self) -> tuple[TaskPoint, ...]:
        """All points, oldest first."""
        return tuple(self._points.values())

    @property
    def wholes(self) -> tuple[WholePoint, ...]:
        """All whole models, oldest first."""
        return tuple(self._wholes)

    def get(self, family: str, counts: Counts) -> TaskPoint | None:
        """The point of a family at these counts, or None where it was not measured."""
        return self._points.get((family, counts))

    def add(self, point: TaskPoint) -> None:
        """Writes a point; when this returns, it is on the disk.

        Raises:
            StorageError: Where the file system refuses.
        """
        self._journal.append("point", **dataclasses.asdict(point))
        self._keep(point)

    def add_whole(self, whole: WholePoint) -> None:
        """Writes a whole model's latency; when this returns, it is on the disk.

        Raises:
            StorageError: Where the file system refuses.
        """
        self._journal.append("whole", **dataclasses.asdict(whole))
        self._wholes.append(whole)

    def close(self) -> None:
        """Lets other processes write."""
        self._journal.close()

    def __enter__(self) -> PointStore:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _keep(self, point: TaskPoint) -> None:
        self._points[point.family, point.counts] = point


def _task_point(event: Mapping[str, Any]) -> TaskPoint:
    inputs, outputs = event["counts"]
    return TaskPoint(event["family"], (inputs, outputs), event["latency_ms"], event["spread_ms"])
