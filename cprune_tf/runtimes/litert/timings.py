"""Keeps the measured latency of every workload in a file that survives a killed process."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from cprune_tf.errors import UserError
from cprune_tf.runs import Journal, Schema, differences
from cprune_tf.storage import codec

_NAME = "litert.jsonl"
_HASH_LENGTH = 10


class TimingsError(UserError, RuntimeError):
    """A file of latencies that were measured under other conditions; says what differs."""


@dataclasses.dataclass(frozen=True)
class TimingsOpened:
    """The first line: the conditions that the latencies hold for.

    Attributes:
        fingerprint: See `runtimes.Runtime.fingerprint`.
    """

    kind: ClassVar[str] = "opened"
    fingerprint: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Timing:
    """The latency of one workload, without what every call of LiteRT costs.

    Attributes:
        digest: The workload's digest.
        label: The workload in words.
        median_ms: The median in ms.
        q1_ms: The lower quartile in ms.
        q3_ms: The upper quartile in ms.
    """

    kind: ClassVar[str] = "timing"
    digest: str
    label: str
    median_ms: float
    q1_ms: float
    q3_ms: float

    def scaled(self, factor: float) -> Timing:
        """Returns the latency as it would be on a device that takes `factor` times as long."""
        return dataclasses.replace(
            self,
            median_ms=self.median_ms * factor,
            q1_ms=self.q1_ms * factor,
            q3_ms=self.q3_ms * factor,
        )


TIMING_EVENTS = Schema(1, (TimingsOpened, Timing))


class TimingStore:
    """A file of latencies, open for writing by this process alone.

    Args:
        path: The file; it is created if it does not exist.
        fingerprint: The conditions of this process's measurements, as JSON types.

    Raises:
        TimingsError: If the file's latencies were measured under other conditions.
        JournalError: If the file has another format or an unreadable line.
        LockedError: If another process has the file open.
        StorageError: If the file cannot be written.
    """

    def __init__(self, path: pathlib.Path, fingerprint: Mapping[str, Any]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._journal = Journal(path, TIMING_EVENTS)
        try:
            self._check(TimingsOpened(fingerprint))
        except BaseException:
            self._journal.close()
            raise
        self._timings = {timing.digest: timing for timing in self._journal.events(Timing)}

    @classmethod
    def open_in(
        cls, folder: os.PathLike[str] | str, fingerprint: Mapping[str, Any], *, shared: bool
    ) -> TimingStore:
        """Opens the file of a folder.

        Args:
            folder: The folder; `~` is the user's home.
            fingerprint: The conditions of this process's measurements, as JSON types.
            shared: Whether runs under any conditions share the folder; each has a file there.

        Returns:
            The store, to be closed by the caller.
        """
        path = pathlib.Path(folder).expanduser() / _NAME
        if shared:
            text = json.dumps(fingerprint, sort_keys=True)
            digest = hashlib.sha256(text.encode()).hexdigest()[:_HASH_LENGTH]
            path = path.with_stem(f"{path.stem}-{digest}")
        return cls(path, fingerprint)

    def __len__(self) -> int:
        return len(self._timings)

    def get(self, digest: str) -> Timing | None:
        """Returns the latency of a workload; None if it was never measured."""
        return self._timings.get(digest)

    def add(self, timings: Iterable[Timing]) -> None:
        """Writes latencies; when this returns, they are on the disk."""
        for timing in timings:
            self._timings[timing.digest] = self._journal.append(timing)

    def close(self) -> None:
        """Closes the file, so that other processes can open it for writing."""
        self._journal.close()

    def _check(self, expected: TimingsOpened) -> None:
        opened = self._journal.last(TimingsOpened)
        if opened is None:
            self._journal.append(expected)
            return
        # Both sides are compared as JSON types, since a tuple becomes a list in the file.
        changes = differences.compare(opened.fingerprint, codec.to_fields(expected)["fingerprint"])
        if changes:
            raise TimingsError(
                f"{self._journal.path} holds latencies that were measured under other conditions "
                f"({'; '.join(map(str, changes))}). Measure under the same conditions as before, "
                "or use another --workdir."
            )
