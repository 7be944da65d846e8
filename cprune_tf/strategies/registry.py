"""Which strategies there are, each with its own config.

Config files and flags need every strategy's fields before TensorFlow is imported, so a strategy's
module imports nothing heavy at its top: what is heavy belongs to the workbench.
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
    """A strategy that can be named in a config.

    Attributes:
        strategy: The class.
        config: Its own config, a frozen dataclass with a method `validate()`.
    """

    strategy: type[Strategy]
    config: type[Any]


_REGISTERED: dict[str, Registration] = {}


def register_strategy(name: str, config: type[Any]) -> Callable[[StrategyClass], StrategyClass]:
    """Makes a strategy known by name; decorates its class.

    Args:
        name: As in `config.strategy.name`; its own config is `config.strategy.NAME`.
        config: That config's class: a frozen dataclass whose fields have defaults, with a method
            `validate()` that raises ConfigError.

    Returns:
        The decorator.
    """

    def register(strategy: StrategyClass) -> StrategyClass:
        strategy.name = name
        _REGISTERED[name] = Registration(strategy, config)
        return strategy

    return register


def registered_strategies() -> Mapping[str, Registration]:
    """All strategies by name: those of this package and those registered elsewhere."""
    package = importlib.import_module("cprune_tf.strategies")
    for module in pkgutil.iter_modules(package.__path__):
        if not module.ispkg and module.name not in _NOT_STRATEGIES:
            importlib.import_module(f"cprune_tf.strategies.{module.name}")
    return dict(sorted(_REGISTERED.items()))
