"""A small schema with two older formats, for the tests of the journal."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar

from cprune_tf.runs import records


@dataclasses.dataclass(frozen=True)
class Note:
    kind: ClassVar[str] = "note"
    text: str


@dataclasses.dataclass(frozen=True)
class LoudNote(Note):
    kind: ClassVar[str] = "loud_note"


@dataclasses.dataclass(frozen=True)
class Made:
    kind: ClassVar[str] = "made"
    name: str
    removed: Mapping[str, tuple[int, ...]]
    ratio: float


@dataclasses.dataclass(frozen=True)
class Step:
    kind: ClassVar[str] = "step"
    number: int
    filler: str = ""


@dataclasses.dataclass(frozen=True)
class Unlisted:
    kind: ClassVar[str] = "unlisted"
    text: str


@dataclasses.dataclass(frozen=True)
class Reserved:
    kind: ClassVar[str] = "reserved"
    time: float


def _rename_words(lines: Sequence[records.Raw]) -> list[records.Raw]:
    renamed = []
    for line in lines:
        fields = dict(line)
        if "words" in fields:
            fields["text"] = fields.pop("words")
        renamed.append(fields)
    return renamed


def _add_ratio(lines: Sequence[records.Raw]) -> list[records.Raw]:
    return [{**line, "ratio": 1.0} if line["event"] == "made" else line for line in lines]


SCHEMA = records.Schema(3, (Note, LoudNote, Made, Step), upgrades={1: _rename_words, 2: _add_ratio})
