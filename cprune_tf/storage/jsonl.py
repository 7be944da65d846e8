"""Reads and repairs files of JSON lines; a killed process may leave the last line unfinished."""

from __future__ import annotations

import dataclasses
import io
import logging
import os
import pathlib
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")
_LOGGER = logging.getLogger(__name__)


class LineError(ValueError):
    """Raised if a line before the last one cannot be read.

    Attributes:
        number: The line's number, from 1.
        line: The line's bytes.
    """

    def __init__(self, number: int, line: bytes) -> None:
        super().__init__(f"line {number} cannot be read")
        self.number = number
        self.line = line


@dataclasses.dataclass(frozen=True)
class Lines(Generic[T]):
    """The contents of a file.

    Attributes:
        values: The parsed values of the whole lines, oldest first.
        torn: The bytes of an unfinished last line; b"" if there is none.
        valid_bytes: Length in bytes of the readable part of the file.
        is_closed: Whether the readable part ends with a line end; true for an empty file.
    """

    values: tuple[T, ...]
    torn: bytes
    valid_bytes: int
    is_closed: bool


def read(path: pathlib.Path, parse: Callable[[bytes], T]) -> Lines[T]:
    """Reads a file without changing it, even while another process writes to it.

    Args:
        path: The file.
        parse: Converts a line's bytes to a value; raises ValueError for an unfinished line.

    Returns:
        The file's contents.

    Raises:
        FileNotFoundError: If the file does not exist.
        LineError: If a line before the last one cannot be read.
    """
    data = path.read_bytes()
    lines = io.BytesIO(data).readlines()
    values: list[T] = []
    for number, line in enumerate(lines, start=1):
        try:
            values.append(parse(line))
        except ValueError as error:
            if number < len(lines):
                raise LineError(number, line) from error
            return Lines(tuple(values), line, len(data) - len(line), True)
    return Lines(tuple(values), b"", len(data), not data or data.endswith(b"\n"))


def repair(path: pathlib.Path, lines: Lines[T], keep_in: pathlib.Path | None = None) -> None:
    """Cuts off an unfinished last line, or ends a whole one, so that lines can be appended.

    Args:
        path: The file; no other process may write to it.
        lines: The file's contents, from `read`.
        keep_in: A file to append the unfinished line to; None discards the line.

    Raises:
        OSError: If a file cannot be written.
    """
    if lines.torn:
        if keep_in is not None:
            _append(keep_in, lines.torn.rstrip(b"\n") + b"\n")
        with path.open("r+b") as stream:
            stream.truncate(lines.valid_bytes)
            os.fsync(stream.fileno())
        _LOGGER.warning(
            "%s ended in an unfinished line of %d bytes; it was cut off%s.",
            path,
            len(lines.torn),
            f" and is kept in {keep_in.name}" if keep_in else "",
        )
    elif not lines.is_closed:
        # Only the line end is missing. Without it, the next line would be joined to this one.
        _append(path, b"\n")


def _append(path: pathlib.Path, data: bytes) -> None:
    with path.open("ab") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
