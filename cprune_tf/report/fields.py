"""Reads fields of journal events; what is missing or of another kind is None or empty."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from cprune_tf.report import types


def number(record: Mapping[str, Any], name: str) -> float | None:
    """A finite number, or None."""
    value = record.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if math.isfinite(value) else None


def integer(record: Mapping[str, Any], name: str) -> int | None:
    """A whole number, or None."""
    value = number(record, name)
    return None if value is None else round(value)


def text(record: Mapping[str, Any], name: str) -> str | None:
    """A string that is not empty, or None."""
    value = record.get(name)
    return value if isinstance(value, str) and value else None


def texts(record: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """The strings of a list."""
    value = record.get(name)
    return tuple(str(item) for item in value) if isinstance(value, (list, tuple)) else ()


def mapping(record: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A mapping."""
    value = record.get(name)
    return dict(value) if isinstance(value, Mapping) else {}


def mappings(record: Mapping[str, Any], name: str) -> tuple[dict[str, Any], ...]:
    """The mappings of a list."""
    value = record.get(name)
    if not isinstance(value, (list, tuple)):
        return ()
    return tuple(dict(item) for item in value if isinstance(item, Mapping))


def counts(record: Mapping[str, Any], name: str) -> dict[str, int]:
    """A mapping to whole numbers; a list counts as its length."""
    found = {}
    for key, value in mapping(record, name).items():
        if isinstance(value, (list, tuple)):
            found[key] = len(value)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            found[key] = round(value)
    return found


def latency(record: Mapping[str, Any], name: str) -> types.Latency | None:
    """A latency, or None where it has no median."""
    value = mapping(record, name)
    median_ms = number(value, "median_ms")
    if median_ms is None:
        return None
    return types.Latency(
        median_ms=median_ms,
        q1_ms=number(value, "q1_ms"),
        q3_ms=number(value, "q3_ms"),
        min_ms=number(value, "min_ms"),
        count=integer(value, "count"),
        num_threads=integer(value, "num_threads"),
        processor=text(mapping(value, "conditions"), "processor") or "",
    )
