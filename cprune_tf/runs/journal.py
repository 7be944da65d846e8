"""An append-only journal: one JSON object a line, on the disk before the work continues."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import threading
from collections.abc import Iterator
from typing import Any, TypeVar

from cprune_tf.runs import environment
from cprune_tf.runs.records import (
    Event,
    JournalError,
    Raw,
    Record,
    Schema,
    complaint,
    decode_lines,
    header,
)
from cprune_tf.storage import codec, files, jsonl, lock

E = TypeVar("E", bound=Event)


def read_records(path: str | os.PathLike[str], schema: Schema) -> tuple[Record, ...]:
    """Reads a journal without locking or changing it, even while a run writes to it.

    Args:
        path: The journal file.
        schema: The events that the journal can hold.

    Returns:
        The events, oldest first. An unfinished last line is ignored.

    Raises:
        FileNotFoundError: If the file does not exist.
        JournalError: If the file has another format or an unreadable line.
    """
    path = pathlib.Path(path)
    return decode_lines(path, _read(path).values, schema).records


class Journal:
    """A journal file, open for writing by this process alone.

    Attributes:
        path: The journal file.
        schema: The events that the journal can hold.
        repaired: The unfinished last line that a killed process had left, which was cut off when
            the journal was opened and is kept in `<path>.torn`; "" if there was none.
    """

    def __init__(self, path: str | os.PathLike[str], schema: Schema) -> None:
        """Opens a journal and locks it.

        If the schema can upgrade the file's older format, the file is rewritten. The file before
        the upgrade is kept in `<path>.format<number>`.

        Args:
            path: The journal file; it is created if it does not exist.
            schema: The events that the journal can hold.

        Raises:
            LockedError: If another process has the journal open for writing.
            JournalError: If the file has another format or an unreadable line.
            StorageError: If the file cannot be written.
        """
        self.path = pathlib.Path(path)
        self.schema = schema
        self._mutex = threading.Lock()
        self._lock = lock.FileLock(self._beside("lock"))
        try:
            with _storage_errors(self.path):
                is_new = not self.path.exists()
                self.path.touch()
                if is_new:
                    files.sync_directory(self.path.parent)
                self.repaired, is_empty = self._load()
                self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115 (closed by close())
        except BaseException:
            self._lock.release()
            raise
        try:
            if is_empty:
                self._write(header(schema, environment.package_version()))
        except BaseException:
            self.close()
            raise

    @property
    def records(self) -> tuple[Record, ...]:
        """All events so far, with their numbers and times, oldest first."""
        with self._mutex:
            return tuple(self._records)

    def append(self, event: E) -> E:
        """Writes one event; when this returns, it is on the disk.

        Args:
            event: An instance of one of the schema's classes; see `plain.to_plain` for what its
                fields can hold.

        Returns:
            The event as a later process will read it.

        Raises:
            TypeError: If the event is of another class or a field does not have its type.
            ValueError: If the journal is closed.
            StorageError: If the event cannot be written, e.g. because the disk is full; the
                journal is then unchanged.
        """
        with self._mutex:
            if self._file.closed:
                raise ValueError(f"{self.path} is closed; nothing can be appended to it.")
            # The header is number 0.
            raw = self.schema.encode(len(self._records) + 1, event)
            try:
                # Decoded before it is written, so that no unreadable line gets into the file.
                record = self.schema.decode(json.loads(_line(raw)))
            except codec.CodecError as error:
                raise TypeError(f"{event!r} cannot be journalled: {error}") from error
            self._write(raw)
            self._records.append(record)
            appended: E = record.event
            return appended

    def events(self, kind: type[E]) -> tuple[E, ...]:
        """Returns the events of exactly this class (not of subclasses), oldest first."""
        with self._mutex:
            return tuple(r.event for r in self._records if type(r.event) is kind)

    def last(self, kind: type[E]) -> E | None:
        """Returns the newest event of exactly this class; None if there is none."""
        events = self.events(kind)
        return events[-1] if events else None

    def close(self) -> None:
        """Closes the file and releases the lock; calling it again does nothing."""
        with self._mutex:
            self._file.close()
            self._lock.release()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _beside(self, suffix: str) -> pathlib.Path:
        return self.path.with_name(f"{self.path.name}.{suffix}")

    def _load(self) -> tuple[str, bool]:
        """Reads and repairs the file.

        Returns:
            The unfinished last line that was cut off ("" if none), and whether the file is empty.
        """
        lines = _read(self.path)
        decoded = decode_lines(self.path, lines.values, self.schema)
        jsonl.repair(self.path, lines, keep_in=self._beside("torn"))
        if decoded.upgraded:
            before = self.path.read_bytes()
            files.write_bytes(self._beside(f"format{decoded.older_format}"), before)
            files.write_bytes(self.path, b"".join(map(_line, decoded.upgraded)))
        self._records = list(decoded.records)
        return lines.torn.decode("utf-8", "replace"), not lines.values

    def _write(self, raw: Raw) -> None:
        data = _line(raw)
        length = os.fstat(self._file.fileno()).st_size
        try:
            written = 0
            while written < len(data):
                written += self._file.write(data[written:]) or 0
            os.fsync(self._file.fileno())
        except OSError as error:
            # If even this fails, the next process to open the journal repairs its last line.
            with contextlib.suppress(OSError):
                os.ftruncate(self._file.fileno(), length)
            raise files.storage_error(self.path, error) from error


@contextlib.contextmanager
def _storage_errors(path: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except files.StorageError:
        raise
    except OSError as error:
        raise files.storage_error(path, error) from error


def _read(path: pathlib.Path) -> jsonl.Lines[Raw]:
    try:
        return jsonl.read(path, _parse)
    except jsonl.LineError as error:
        shown = error.line[:60].decode("utf-8", "replace").strip()
        problem = f"is not a journal event: {shown!r}"
        raise JournalError(complaint(path, error.number, problem)) from error


def _parse(line: bytes) -> Raw:
    raw: Any = json.loads(line)
    if not isinstance(raw, dict) or "event" not in raw:
        raise ValueError("not a journal event")
    return raw


def _line(raw: Raw) -> bytes:
    return json.dumps(raw, ensure_ascii=False, allow_nan=False).encode("utf-8") + b"\n"
