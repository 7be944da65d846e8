"""Registers strategies by name, each with its own config.

Config files and flags need the config fields of every strategy before TensorFlow is imported. So
a strategy's module must not import TensorFlow, Keras or TVM at its top; the workbench does the work
that needs them.
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import typing
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

if typing.TYPE_CHECKING:
    from cprune_tf.strategies.base import Strategy

_NOT_STRATEGIES = ("base", "registry")

StrategyClass = TypeVar("StrategyClass", bound="type[Strategy]")


@dataclasses.dataclass(frozen=True)
class Registration:
    """A strategy that a config can name.

    Attributes:
        strategy: The strategy's class.
        config: The class of the strategy's own config: a frozen dataclass with a method
            `validate()`. None if it has none.
    """

    strategy: type[Strategy]
    config: type[Any] | None


_REGISTERED: dict[str, Registration] = {}


def register_strategy(
    name: str, config: type[Any] | None
) -> Callable[[StrategyClass], StrategyClass]:
    """Registers the decorated class as a strategy.

    Args:
        name: The strategy's name, as in `config.strategy.name`. The strategy's own config is
            `config.strategy.NAME`.
        config: The class of that config: a frozen dataclass whose fields have defaults, with a
            method `validate()` that raises ConfigError. None for a strategy that is made of
            others and has their configs.

    Returns:
        The decorator; it returns the class with its attribute `name` set.
    """

    def register(strategy: StrategyClass) -> StrategyClass:
        strategy.name = name
        _REGISTERED[name] = Registration(strategy, config)
        return strategy

    return register


def registered_strategies() -> Mapping[str, Registration]:
    """Returns all strategies by name: those of this package and those registered elsewhere."""
    package = importlib.import_module("cprune_tf.strategies")
    for module in pkgutil.iter_modules(package.__path__):
        if not module.ispkg and module.name not in _NOT_STRATEGIES:
            importlib.import_module(f"cprune_tf.strategies.{module.name}")
    return dict(sorted(_REGISTERED.items()))
