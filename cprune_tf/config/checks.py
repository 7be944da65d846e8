"""The error of a configuration, and the check that raises it."""

from __future__ import annotations

from cprune_tf.errors import UserError


class ConfigError(UserError, ValueError):
    """A configuration that cannot work: says the field, what it holds and what it should hold."""


def require(ok: bool, field: str, received: object, expected: str) -> None:
    """Raises ConfigError unless a field can work.

    Args:
        ok: Whether it can.
        field: Its name below `config`.
        received: Its value.
        expected: What it should hold, in words.
    """
    if not ok:
        raise ConfigError(f"config.{field} is {received!r}; expected {expected}.")
