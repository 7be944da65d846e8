"""Compares nested settings field by field."""

from __future__ import annotations

import dataclasses
from typing import Any

ABSENT = "(absent)"


@dataclasses.dataclass(frozen=True)
class Difference:
    """One field whose value differs between two nested mappings.

    Attributes:
        field: The field's dotted path.
        before: The value in the first mapping, or ABSENT.
        now: The value in the second mapping, or ABSENT.
    """

    field: str
    before: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.field}: was {_shown(self.before)}, is {_shown(self.now)}"


def compare(before: Any, now: Any) -> tuple[Difference, ...]:
    """Compares nested mappings of plain JSON types.

    Args:
        before: The first mapping.
        now: The second mapping.

    Returns:
        The fields that differ: in the order of the second mapping, followed by the fields that
        only the first mapping has.
    """
    old, new = flatten(before), flatten(now)
    names = [*new, *(name for name in old if name not in new)]
    pairs = ((name, old.get(name, ABSENT), new.get(name, ABSENT)) for name in names)
    return tuple(Difference(name, a, b) for name, a, b in pairs if a != b)


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Lists the leaves of nested mappings by their dotted paths.

    Args:
        value: Nested mappings. Any other value, including an empty mapping, is a leaf.
        prefix: The path of `value` itself.

    Returns:
        Dotted paths to leaves.
    """
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    leaves: dict[str, Any] = {}
    for key, item in value.items():
        leaves.update(flatten(item, f"{prefix}.{key}" if prefix else str(key)))
    return leaves


def _shown(value: Any) -> str:
    return value if value is ABSENT else repr(value)
