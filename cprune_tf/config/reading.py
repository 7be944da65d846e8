"""Builds configurations from nested mappings: config files, flags and `config.json`."""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Mapping
from typing import Any

import ml_collections

from cprune_tf.config.checks import ConfigError
from cprune_tf.config.run import PruneConfig
from cprune_tf.config.strategy import StrategyConfig, strategy_config_class


def default_config() -> ml_collections.ConfigDict:
    """Returns the default configuration, as the starting point of a config file."""
    return PruneConfig().to_config_dict()


def from_mapping(values: Mapping[str, Any] | ml_collections.ConfigDict) -> PruneConfig:
    """Builds and validates a PruneConfig from nested fields.

    Args:
        values: Nested fields; missing fields keep their defaults.

    Returns:
        The validated config.

    Raises:
        ConfigError: If a field is unknown, has the wrong type or an invalid value.
    """
    if isinstance(values, ml_collections.ConfigDict):
        values = values.to_dict()
    return typing.cast(PruneConfig, _build(PruneConfig, values, "")).validate()


def text_lists(cls: type = PruneConfig, prefix: str = "") -> tuple[str, ...]:
    """Returns the dotted names of all fields that are lists of texts, e.g. "data.class_names".

    Args:
        cls: The class of a config.
        prefix: What its fields' names begin with.
    """
    names: list[str] = []
    for name, kind in typing.get_type_hints(cls).items():
        if dataclasses.is_dataclass(_resolved(kind)):
            names += text_lists(_resolved(kind), f"{prefix}{name}.")
        elif kind == tuple[str, ...]:
            names.append(f"{prefix}{name}")
    return tuple(names)


def _build(cls: type, values: Mapping[str, Any], prefix: str) -> Any:
    hints = typing.get_type_hints(cls)
    field_names = {field.name for field in dataclasses.fields(cls)}
    arguments = {}
    for name, value in values.items():
        if name not in field_names:
            similar_name = _similar_field(name, cls)
            hint = f" Did you mean config.{prefix}{similar_name}?" if similar_name else ""
            parent = f"config.{prefix}".rstrip(".")
            raise ConfigError(
                f"config.{prefix}{name} is not a field; {parent} has "
                f"{', '.join(sorted(field_names))}.{hint}"
            )
        arguments[name] = _convert(hints[name], value, f"{prefix}{name}")
    return cls(**arguments)


def _similar_field(name: str, cls: type) -> str:
    """Returns the field that was probably meant, or "".

    This is a field with a similar name, or a field of a nested config with the same name.
    """
    fields = [field.name for field in dataclasses.fields(cls)]
    if close := difflib.get_close_matches(name, sorted(fields), n=1):
        return close[0]
    hints = typing.get_type_hints(cls)
    for outer in fields:
        kind = _resolved(hints[outer])
        if dataclasses.is_dataclass(kind) and name in {f.name for f in dataclasses.fields(kind)}:
            return f"{outer}.{name}"
    return ""


def _resolved(kind: Any) -> Any:
    """Returns a field's type; StrategyConfig gets a field for each registered strategy."""
    return strategy_config_class() if kind is StrategyConfig else kind


def _convert(kind: Any, value: Any, field: str) -> Any:
    kind = _resolved(kind)
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise ConfigError(f"config.{field} is {value!r}; expected a mapping of fields.")
        return _build(typing.cast(type, kind), value, f"{field}.")
    if typing.get_origin(kind) is tuple:
        if isinstance(value, str) or not isinstance(value, (tuple, list)):
            value = (value,)
        item_kind = typing.get_args(kind)[0]
        if item_kind is str and len(value) == 1 and isinstance(value[0], str):
            # A command line's --config.protect=a,b may arrive as one text.
            value = [item.strip() for item in value[0].split(",") if item.strip()]
        return tuple(_convert(item_kind, item, field) for item in value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ConfigError(
            f"config.{field} is {value!r} ({type(value).__name__}); expected {kind.__name__}."
        )
    return value
