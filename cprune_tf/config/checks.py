"""The error of a configuration, and the check that raises it."""

from __future__ import annotations

from cprune_tf.errors import UserError


class ConfigError(UserError, ValueError):
    """Raised if a configuration cannot work; names the field, its value and the expected value."""


def require(ok: bool, field: str, received: object, expected: str) -> None:
    """Raises ConfigError unless a field is valid.

    Args:
        ok: Whether the field is valid.
        field: The field's dotted name below `config`.
        received: The field's value.
        expected: A description of valid values, which follows "expected".

    Raises:
        ConfigError: If `ok` is false.
    """
    if not ok:
        raise ConfigError(f"config.{field} is {received!r}; expected {expected}.")
