"""The lines of a journal: a header, followed by numbered and dated events of a schema."""

from __future__ import annotations

import dataclasses
import datetime
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol

from cprune_tf.errors import UserError
from cprune_tf.storage import codec

HEADER_KIND = "journal"
_RESERVED = ("seq", "time", "event")
# A journal without a header has format 1; later formats begin with a header that names them.
_UNNAMED_FORMAT = 1

Raw = dict[str, Any]
"""A line of a journal as parsed JSON."""
Upgrade = Callable[[Sequence[Raw]], Sequence[Raw]]
"""Converts lines to the next format, without a header; their "seq" is set afterwards."""


class JournalError(UserError, RuntimeError):
    """Raised if a journal cannot be read; names the file and the line."""


class Event(Protocol):
    """A frozen dataclass that a journal can hold."""

    kind: ClassVar[str]
    """The event's name in the journal's lines."""


@dataclasses.dataclass(frozen=True)
class Record:
    """An event with its number and time.

    Attributes:
        seq: The event's number in the journal; the header is 0.
        time: When the event was written, in UTC.
        event: The event.
    """

    seq: int
    time: datetime.datetime
    event: Any


@dataclasses.dataclass(frozen=True)
class Schema:
    """The events that a kind of journal can hold.

    Attributes:
        format: The format's number; it grows when older lines can no longer be read.
        events: The classes of events: frozen dataclasses with a `kind`.
        upgrades: Maps an older format to the function that converts its lines to the next format.
            A journal is refused if no chain of upgrades leads to `format`.
    """

    format: int
    events: tuple[type[Any], ...]
    upgrades: Mapping[int, Upgrade] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        kinds = [HEADER_KIND]
        for event in self.events:
            kind: str = getattr(event, "kind", HEADER_KIND)
            if not dataclasses.is_dataclass(event) or kind in kinds:
                raise ValueError(f"{event!r}: expected a dataclass with a kind of its own.")
            kinds.append(kind)
            field_names = {field.name for field in dataclasses.fields(event)}
            if reserved := field_names.intersection(_RESERVED):
                raise ValueError(
                    f"{event.__name__}.{reserved.pop()} is set by the journal itself; rename the "
                    "field."
                )

    def encode(self, seq: int, event: Any) -> Raw:
        """Converts an event to plain JSON types.

        Args:
            seq: The event's number.
            event: The event.

        Returns:
            The line, with the current time.

        Raises:
            TypeError: If the event's class is not in the schema, or a field cannot be converted.
        """
        if type(event) not in self.events:
            classes = ", ".join(cls.__name__ for cls in self.events)
            raise TypeError(f"{event!r} is no event of this journal; expected one of {classes}.")
        return {**_stamp(seq, event.kind), **codec.to_fields(event)}

    def decode(self, raw: Raw) -> Record:
        """Converts plain JSON types to an event.

        Args:
            raw: The line.

        Returns:
            The event with its number and time.

        Raises:
            ValueError: If the event's kind is not in the schema, or the fields do not fit it.
        """
        kind = raw["event"]
        cls = next((event for event in self.events if event.kind == kind), None)
        if cls is None:
            raise ValueError(f"the event {kind!r} is not known")
        fields = {name: value for name, value in raw.items() if name not in _RESERVED}
        event = codec.from_fields(cls, fields, kind)
        return Record(raw["seq"], _parse_time(raw.get("time")), event)


@dataclasses.dataclass(frozen=True)
class Decoded:
    """The contents of a journal.

    Attributes:
        records: The events, oldest first.
        upgraded: If the file has an older format: its lines in the current format, with the
            header. Otherwise empty.
        older_format: The file's format if its lines were upgraded; otherwise None.
    """

    records: tuple[Record, ...]
    upgraded: tuple[Raw, ...] = ()
    older_format: int | None = None


def header(schema: Schema, package_version: str) -> Raw:
    """Returns the first line of a new journal."""
    return {**_stamp(0, HEADER_KIND), "format": schema.format, "package": package_version}


def decode_lines(path: pathlib.Path, lines: Sequence[Raw], schema: Schema) -> Decoded:
    """Reads all lines of a journal, upgrading those of an older format.

    Args:
        path: The file's path, for errors.
        lines: The file's lines; empty if nothing was written yet.
        schema: The events that the journal can hold.

    Returns:
        The decoded lines.

    Raises:
        JournalError: If the format cannot be read or a line does not fit the schema.
    """
    for index, raw in enumerate(lines):
        if raw.get("seq") != index:
            problem = f"has sequence number {raw.get('seq')!r}; expected {index}"
            raise JournalError(complaint(path, index + 1, problem))
    if not lines:
        return Decoded(())
    has_header = lines[0]["event"] == HEADER_KIND
    number = lines[0].get("format") if has_header else _UNNAMED_FORMAT
    if number == schema.format:
        return Decoded(_decode(path, lines[1:], schema))
    chain = _upgrades(number, schema)
    if chain is None:
        raise JournalError(_refusal(path, number, lines[0].get("package"), schema))
    events: Sequence[Raw] = lines[1:] if has_header else lines
    for upgrade in chain:
        events = upgrade(events)
    first = {**lines[0], "event": HEADER_KIND} if has_header else _undated(lines[0])
    upgraded = [{**first, "seq": 0, "format": schema.format}]
    upgraded += [{**raw, "seq": seq} for seq, raw in enumerate(events, start=1)]
    return Decoded(_decode(path, upgraded[1:], schema), tuple(upgraded), number)


def complaint(path: pathlib.Path, number: int, problem: str) -> str:
    """Writes an error text: what is wrong with a line, and what to do.

    Args:
        path: The journal file.
        number: The line's number, from 1.
        problem: The problem, as the continuation of a sentence that begins with "line 3".

    Returns:
        Whole sentences.
    """
    return (
        f"{path}, line {number} {problem}. The file was changed or damaged after it was written: "
        "restore it from a copy, or start a new run in another --workdir."
    )


def _decode(path: pathlib.Path, lines: Sequence[Raw], schema: Schema) -> tuple[Record, ...]:
    decoded = []
    for raw in lines:
        try:
            decoded.append(schema.decode(raw))
        except ValueError as error:
            problem = f"(event {raw['event']!r}) cannot be read: {error}"
            raise JournalError(complaint(path, raw["seq"] + 1, problem)) from error
    return tuple(decoded)


def _upgrades(number: Any, schema: Schema) -> list[Upgrade] | None:
    """Returns the upgrades from a format to the schema's format; None if one is missing."""
    if not isinstance(number, int) or number >= schema.format:
        return None
    steps = [schema.upgrades.get(step) for step in range(number, schema.format)]
    upgrades = [step for step in steps if step is not None]
    return upgrades if len(upgrades) == len(steps) else None


def _refusal(path: pathlib.Path, number: Any, package_version: Any, schema: Schema) -> str:
    writer = f" (written by version {package_version} of this package)" if package_version else ""
    return (
        f"{path} is a journal of format {number}{writer}; this version reads format "
        f"{schema.format}. Finish the work with the version that began it, or choose another "
        "--workdir."
    )


def _undated(first: Raw) -> Raw:
    """Makes a header for a journal without one, with the time of the journal's first event."""
    return {"seq": 0, "time": first.get("time"), "event": HEADER_KIND, "package": "unknown"}


def _stamp(seq: int, kind: str) -> Raw:
    now = datetime.datetime.now(datetime.timezone.utc)
    time = now.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {"seq": seq, "time": time, "event": kind}


def _parse_time(text: Any) -> datetime.datetime:
    if not isinstance(text, str):
        raise ValueError(f"time: expected a string, received {text!r}")
    time = datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
    if time.tzinfo is None:
        raise ValueError(f"time: expected one with a time zone, received {text!r}")
    return time
