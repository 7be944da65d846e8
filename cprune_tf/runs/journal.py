"""The append-only record of a run: one JSON object a line, on the disk before anything goes on."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import io
import json
import logging
import os
import pathlib
import threading
from typing import Any

from cprune_tf.errors import UserError
from cprune_tf.storage import files, lock, plain

_RESERVED = ("seq", "time", "event")
_LOGGER = logging.getLogger(__name__)


class JournalError(UserError, RuntimeError):
    """A journal that cannot be read; names the file and the line."""


@dataclasses.dataclass(frozen=True)
class JournalContents:
    """What a journal file holds.

    Attributes:
        events: One dict a line, oldest first.
        torn: The bytes of a last line that was cut off while being written, or b"".
        valid_bytes: Length of the part of the file that can be read.
        ends_with_newline: Whether that part's last line is closed.
    """

    events: tuple[dict[str, Any], ...]
    torn: bytes
    valid_bytes: int
    ends_with_newline: bool


def read_events(path: str | os.PathLike[str]) -> tuple[dict[str, Any], ...]:
    """Reads a journal without locking or changing it, even while a run writes to it.

    Args:
        path: The journal file.

    Returns:
        Its events, oldest first, without a last line that was cut off.

    Raises:
        FileNotFoundError: Where there is no such file.
        JournalError: For a line in the middle that cannot be read.
    """
    return _read(pathlib.Path(path)).events


class Journal:
    """A journal file opened for writing by this process alone.

    Attributes:
        path: The file.
        repaired: What was cut off the end on opening because a killed process had left its last
            line unfinished ("" where nothing was); it is kept in `<path>.torn`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Opens a journal, making it where missing, and locks it.

        Args:
            path: The journal file.

        Raises:
            LockedError: Where another process has it open for writing.
            JournalError: For a line in the middle that cannot be read.
            StorageError: Where the file system refuses.
        """
        self.path = pathlib.Path(path)
        self._mutex = threading.Lock()
        self._lock = lock.FileLock(self.path.with_name(f"{self.path.name}.lock"))
        try:
            is_new = not self.path.exists()
            self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115 (closed by close())
            if is_new:
                files.sync_directory(self.path.parent)
            contents = _read(self.path)
            self._events = list(contents.events)
            self.repaired = self._repair(contents)
        except OSError as error:
            self._lock.release()
            raise files.storage_error(self.path, error) from error
        except BaseException:
            self._file.close()
            self._lock.release()
            raise

    def append(self, event: str, **fields: Any) -> dict[str, Any]:
        """Writes one event; when this returns, it is on the disk.

        Args:
            event: Its kind.
            **fields: What belongs to it: see `plain.to_plain` for what can be written.

        Returns:
            The event as it will be read back: "seq", "time" (UTC), "event" and the fields.

        Raises:
            ValueError: For a field named "seq", "time" or "event", or a closed journal.
            TypeError: For a field that is not data.
            StorageError: Where the file system refuses (a full disk); the journal is then as it
                was before the call.
        """
        taken = [name for name in _RESERVED if name in fields]
        if taken:
            raise ValueError(f"Journal field {taken[0]!r} is set by the journal itself; rename it.")
        with self._mutex:
            if self._file.closed:
                raise ValueError(f"{self.path} is closed; nothing can be appended to it.")
            record = {"seq": len(self._events), "time": _utc_now(), "event": event}
            record.update(plain.to_plain(fields))
            line = json.dumps(record, ensure_ascii=False, allow_nan=False)
            self._write(line.encode("utf-8") + b"\n")
            # What a later process will read, not what was passed in: tuples are lists by then.
            self._events.append(json.loads(line))
            return json.loads(line)

    def events(self, kind: str | None = None) -> tuple[dict[str, Any], ...]:
        """The events so far, oldest first.

        Args:
            kind: Only those of this kind.
        """
        with self._mutex:
            return tuple(e for e in self._events if kind is None or e["event"] == kind)

    def last(self, kind: str) -> dict[str, Any] | None:
        """The newest event of a kind, or None."""
        found = self.events(kind)
        return found[-1] if found else None

    def close(self) -> None:
        """Closes the file and gives up the lock; safe to call again."""
        with self._mutex:
            self._file.close()
            self._lock.release()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _write(self, data: bytes) -> None:
        length = os.fstat(self._file.fileno()).st_size
        try:
            written = 0
            while written < len(data):
                written += self._file.write(data[written:]) or 0
            os.fsync(self._file.fileno())
        except OSError as error:
            # Should even this fail, the next opening finds a torn last line and repairs it.
            with contextlib.suppress(OSError):
                os.ftruncate(self._file.fileno(), length)
            raise files.storage_error(self.path, error) from error

    def _repair(self, contents: JournalContents) -> str:
        if not contents.torn:
            if not contents.ends_with_newline:
                self._write(b"\n")
            return ""
        torn_path = self.path.with_name(f"{self.path.name}.torn")
        with open(torn_path, "ab") as torn_file:
            torn_file.write(contents.torn.rstrip(b"\n") + b"\n")
            torn_file.flush()
            os.fsync(torn_file.fileno())
        os.ftruncate(self._file.fileno(), contents.valid_bytes)
        os.fsync(self._file.fileno())
        _LOGGER.warning(
            "The last line of %s (%d bytes) was cut off while being written; moved to %s.",
            self.path,
            len(contents.torn),
            torn_path.name,
        )
        return contents.torn.decode("utf-8", "replace")


def _read(path: pathlib.Path) -> JournalContents:
    data = path.read_bytes()
    lines = io.BytesIO(data).readlines()
    events: list[dict[str, Any]] = []
    valid_bytes = 0
    for number, line in enumerate(lines, start=1):
        record = _parse(line)
        if record is None and number == len(lines):
            return JournalContents(tuple(events), line, valid_bytes, True)
        if record is None or record.get("seq") != len(events):
            raise JournalError(_complaint(path, number, line, record, len(events)))
        events.append(record)
        valid_bytes += len(line)
    return JournalContents(tuple(events), b"", valid_bytes, not data or data.endswith(b"\n"))


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and "event" in record else None


def _complaint(
    path: pathlib.Path, number: int, line: bytes, record: dict[str, Any] | None, expected: int
) -> str:
    if record is None:
        shown = line[:60].decode("utf-8", "replace").strip()
        what = f"is not a journal event: {shown!r}"
    else:
        what = f"has sequence number {record.get('seq')!r}; expected {expected}"
    return (
        f"{path}, line {number} {what}. The file was changed or damaged after it was written: "
        "restore it from a copy, or start a new run in another --workdir."
    )


def _utc_now() -> str:
    now = datetime.datetime.now(datetime.timezone.utc)
    return now.isoformat(timespec="milliseconds").replace("+00:00", "Z")
