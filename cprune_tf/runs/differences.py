"""Field-by-field comparison of nested settings."""

from __future__ import annotations

import dataclasses
from typing import Any

ABSENT = "(absent)"


@dataclasses.dataclass(frozen=True)
class Difference:
    """One field that two nested mappings do not agree on.

    Attributes:
        field: Dotted path.
        before: The first one's value, or ABSENT.
        now: The second one's value, or ABSENT.
    """

    field: str
    before: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.field}: was {_shown(self.before)}, is {_shown(self.now)}"


def compare(before: Any, now: Any) -> tuple[Difference, ...]:
    """Compares nested mappings of plain JSON types.

    Args:
        before: The first one.
        now: The second one.

    Returns:
        The fields that differ, in the order of the second, then what only the first has.
    """
    old, new = flatten(before), flatten(now)
    names = [*new, *(name for name in old if name not in new)]
    pairs = ((name, old.get(name, ABSENT), new.get(name, ABSENT)) for name in names)
    return tuple(Difference(name, a, b) for name, a, b in pairs if a != b)


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Names every leaf of nested mappings by its dotted path.

    Args:
        value: Nested mappings; anything else, an empty mapping too, is a leaf.
        prefix: Path of `value` itself.

    Returns:
        Dotted path to leaf.
    """
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    leaves: dict[str, Any] = {}
    for key, item in value.items():
        leaves.update(flatten(item, f"{prefix}.{key}" if prefix else str(key)))
    return leaves


def _shown(value: Any) -> str:
    return value if value is ABSENT else repr(value)
