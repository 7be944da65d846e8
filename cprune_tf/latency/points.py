"""Measured task latencies by channel counts, kept on disk point by point.

A journal: a killed process loses nothing that was measured, and the next one measures nothing
twice.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any, ClassVar

from cprune_tf.errors import UserError
from cprune_tf.latency.sites import Counts
from cprune_tf.runs import Journal, Schema, differences
from cprune_tf.storage import codec


class PointStoreError(UserError, RuntimeError):
    """A file of points that were measured otherwise than this runtime does; says what differs."""


@dataclasses.dataclass(frozen=True)
class StoreOpened:
    """The first line of a store.

    Attributes:
        fingerprint: What its latencies hold for, see `runtimes.Runtime.fingerprint`.
    """

    kind: ClassVar[str] = "opened"
    fingerprint: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class TaskPoint:
    """One task at one pair of channel counts.

    Attributes:
        family: Of its sites, see `sites.Site`.
        counts: (input channels, output channels).
        latency_ms: Median duration of one call of the fastest program found.
        spread_ms: Between the quartiles of its samples.
    """

    kind: ClassVar[str] = "point"
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

    kind: ClassVar[str] = "whole"
    units: Mapping[str, int]
    tasks_ms: float
    whole_ms: float


POINT_EVENTS = Schema(2, (StoreOpened, TaskPoint, WholePoint))
"""What a store's file holds. Format 1 had no header and knew TVM's targets only."""


class PointStore:
    """Points in a file, opened for writing by this process alone.

    Args:
        path: The file, made where missing.
        fingerprint: What the latencies hold for, as JSON types: see `runtimes.Runtime.fingerprint`.

    Raises:
        PointStoreError: If the file holds points with another fingerprint.
        JournalError: If the file is of another format, or a line of it cannot be read.
        LockedError: If another process has it open.
        StorageError: If the file system refuses.
    """

    def __init__(self, path: str | os.PathLike[str], fingerprint: Mapping[str, Any]) -> None:
        self._journal = Journal(path, POINT_EVENTS)
        try:
            self._check(StoreOpened(fingerprint))
        except BaseException:
            self._journal.close()
            raise
        self._points: dict[tuple[str, Counts], TaskPoint] = {}
        for point in self._journal.events(TaskPoint):
            self._keep(point)
        self._wholes = list(self._journal.events(WholePoint))

    def _check(self, expected: StoreOpened) -> None:
        """Refuses points of another fingerprint; writes it where the file is new."""
        opened = self._journal.last(StoreOpened)
        if opened is None:
            self._journal.append(expected)
            return
        # As both are in JSON: tuples are lists there.
        fields = codec.to_fields(expected)["fingerprint"]
        changes = differences.compare(opened.fingerprint, fields)
        if changes:
            listed = "; ".join(map(str, changes))
            raise PointStoreError(
                f"{self._journal.path} holds latencies that were measured otherwise ({listed}). "
                "Measure as before, or use another --workdir."
            )

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
        self._keep(self._journal.append(point))

    def add_whole(self, whole: WholePoint) -> None:
        """Writes a whole model's latency; when this returns, it is on the disk.

        Raises:
            StorageError: Where the file system refuses.
        """
        self._wholes.append(self._journal.append(whole))

    def close(self) -> None:
        """Lets other processes write."""
        self._journal.close()

    def __enter__(self) -> PointStore:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _keep(self, point: TaskPoint) -> None:
        self._points[point.family, point.counts] = point
