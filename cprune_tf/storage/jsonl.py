"""Files of one JSON value a line whose last line a killed process may have left unfinished."""

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
    """A line before the last one that cannot be read.

    Attributes:
        number: Of the line, from 1.
        line: Its bytes.
    """

    def __init__(self, number: int, line: bytes) -> None:
        super().__init__(f"line {number} cannot be read")
        self.number = number
        self.line = line


@dataclasses.dataclass(frozen=True)
class Lines(Generic[T]):
    """What a file holds.

    Attributes:
        values: One for each whole line, oldest first.
        torn: The bytes of a last line that was cut off while being written, or b"".
        valid_bytes: Length of the part of the file that can be read.
        is_closed: Whether that part ends with a line end; true for an empty file.
    """

    values: tuple[T, ...]
    torn: bytes
    valid_bytes: int
    is_closed: bool


def read(path: pathlib.Path, parse: Callable[[bytes], T]) -> Lines[T]:
    """Reads a file without changing it, even while another process writes to it.

    Args:
        path: The file.
        parse: Makes a value of a line's bytes; raises ValueError for a line that is not whole.

    Returns:
        Its lines.

    Raises:
        FileNotFoundError: Where there is no such file.
        LineError: For a line before the last one that cannot be read.
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
    """Cuts an unfinished last line off, or closes a whole one, so that lines can be added.

    Args:
        path: The file, which no other process may write to.
        lines: What it holds.
        keep_in: A file that the bytes of the unfinished line are added to; None: they are lost.

    Raises:
        OSError: Where the file system refuses.
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
            f" and kept in {keep_in.name}" if keep_in else "",
        )
    elif not lines.is_closed:
        # Whole but for its end: the next line would be glued to it.
        _append(path, b"\n")


def _append(path: pathlib.Path, data: bytes) -> None:
    with path.open("ab") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
