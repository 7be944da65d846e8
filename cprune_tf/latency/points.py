"""Keeps measured task latencies, by channel counts, in a file.

The file is a journal: each point is on the disk before the next one is measured. A killed process
loses no finished measurement, and the next process repeats none.
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
    """Raised if a file's points were measured under other conditions; says what differs."""


@dataclasses.dataclass(frozen=True)
class StoreOpened:
    """The first line of a store: the conditions that its latencies hold for.

    Attributes:
        fingerprint: The fingerprint of the runtime that measured; see
            `runtimes.Runtime.fingerprint`.
    """

    kind: ClassVar[str] = "opened"
    fingerprint: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class TaskPoint:
    """The measured latency of one task at one pair of channel counts.

    Attributes:
        family: The family of the task's sites; see `sites.Site`.
        counts: (input channels, output channels).
        latency_ms: Median duration of one call of the task's fastest program.
        spread_ms: Interquartile range of the samples.
    """

    kind: ClassVar[str] = "point"
    family: str
    counts: Counts
    latency_ms: float
    spread_ms: float


@dataclasses.dataclass(frozen=True)
class WholePoint:
    """The measured latency of a whole model, beside the sum of its tasks.

    Attributes:
        units: Number of units of every channel group.
        tasks_ms: Sum of the latencies of the model's subgraphs.
        whole_ms: Median latency of the built model.
    """

    kind: ClassVar[str] = "whole"
    units: Mapping[str, int]
    tasks_ms: float
    whole_ms: float


POINT_EVENTS = Schema(2, (StoreOpened, TaskPoint, WholePoint))
"""The events of a store's file. Format 1 had no header and named only a TVM target."""


class PointStore:
    """A file of points, open for writing by this process alone.

    Args:
        path: The file; it is created if it does not exist.
        fingerprint: The fingerprint of the runtime that measures, as JSON types; see
            `runtimes.Runtime.fingerprint`.

    Raises:
        PointStoreError: If the file holds points with another fingerprint.
        JournalError: If the file has another format or an unreadable line.
        LockedError: If another process has the file open.
        StorageError: If the file cannot be written.
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
        """Writes the fingerprint to a new file; refuses a file with another fingerprint."""
        opened = self._journal.last(StoreOpened)
        if opened is None:
            self._journal.append(expected)
            return
        # Both sides are compared as JSON types, since a tuple becomes a list in the file.
        fields = codec.to_fields(expected)["fingerprint"]
        changes = differences.compare(opened.fingerprint, fields)
        if changes:
            description = "; ".join(map(str, changes))
            raise PointStoreError(
                f"{self._journal.path} holds latencies that were measured under other conditions "
                f"({description}). Measure under the same conditions as before, or use another "
                "--workdir."
            )

    def __len__(self) -> int:
        return len(self._points)

    @property
    def points(self) -> tuple[TaskPoint, ...]:
        """All points, oldest first."""
        return tuple(self._points.values())

    @property
    def wholes(self) -> tuple[WholePoint, ...]:
        """The measurements of whole models, oldest first."""
        return tuple(self._wholes)

    def get(self, family: str, counts: Counts) -> TaskPoint | None:
        """Returns the point of a family at these counts; None if it was never measured."""
        return self._points.get((family, counts))

    def add(self, point: TaskPoint) -> None:
        """Writes a point; when this returns, it is on the disk.

        Raises:
            StorageError: If the point cannot be written.
        """
        self._keep(self._journal.append(point))

    def add_whole(self, whole: WholePoint) -> None:
        """Writes a whole model's latency; when this returns, it is on the disk.

        Raises:
            StorageError: If the point cannot be written.
        """
        self._wholes.append(self._journal.append(whole))

    def close(self) -> None:
        """Closes the file, so that other processes can open it for writing."""
        self._journal.close()

    def __enter__(self) -> PointStore:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _keep(self, point: TaskPoint) -> None:
        self._points[point.family, point.counts] = point
