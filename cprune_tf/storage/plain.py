"""Converts results (dataclasses, numpy values, paths) to plain JSON types."""

from __future__ import annotations

import dataclasses
import enum
import math
import os
from collections.abc import Mapping, Set
from typing import Any

import numpy as np


def to_plain(value: Any) -> Any:
    """Converts a value to types that `json` writes and reads back unchanged.

    A number that is not finite becomes None, since JSON cannot express it. A report shows it as
    "not measured".

    Args:
        value: Nested mappings, sequences, sets, dataclasses, enums, paths, numpy scalars and
            arrays, and plain JSON types.

    Returns:
        Only dicts with string keys, lists, strings, numbers, booleans and None.

    Raises:
        TypeError: If the value holds any other type; names the type.
    """
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, enum.Enum):
        return to_plain(value.value)
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, np.ndarray):
        return to_plain(value.tolist())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return _plain_container(value)


def _plain_container(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {_plain_key(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    if isinstance(value, Set):
        return sorted(to_plain(item) for item in value)
    raise TypeError(
        f"A {type(value).__name__} cannot be written as JSON: {value!r}; expected numbers, "
        "strings, lists, mappings, dataclasses or numpy values."
    )


def _plain_key(key: Any) -> str:
    if isinstance(key, str):
        return key
    if isinstance(key, (int, np.integer)) and not isinstance(key, bool):
        return str(int(key))
    raise TypeError(f"A {type(key).__name__} cannot be a JSON key: {key!r}; expected a string.")
