"""The fields that all strategies share, and each strategy's own below its name."""

from __future__ import annotations

import dataclasses
import functools

from cprune_tf.config.checks import require
from cprune_tf.importance.registry import criterion_names
from cprune_tf.strategies.registry import registered_strategies


@dataclasses.dataclass(frozen=True)
class StrategyConfig:
    """What all strategies share; `config.strategy.NAME` holds what is the strategy NAME's own.

    Attributes:
        name: The strategy, e.g. "cprune".
        required_accuracy: The accuracy (0..1) that the result must have. 0: it is derived from
            max_accuracy_drop.
        max_accuracy_drop: With required_accuracy = 0: how far below the first accuracy the result
            may end, in absolute terms (0.01 = one percentage point).
        max_iterations: Candidates tried at most.
        max_pruned_fraction: At most this fraction of a layer's original filters is removed.
        importance: The criterion that says which filters go first, e.g. "l1"; see
            cprune_tf.importance.
        metric: "top1" or "top5".
    """

    name: str = "cprune"
    required_accuracy: float = 0.0
    max_accuracy_drop: float = 0.01
    max_iterations: int = 100
    max_pruned_fraction: float = 0.8
    importance: str = "l1"
    metric: str = "top1"

    def validate(self) -> None:
        """Raises ConfigError where a field cannot work."""
        strategies = registered_strategies()
        require(
            self.name in strategies,
            "strategy.name",
            self.name,
            "one of " + ", ".join(strategies),
        )
        required = self.required_accuracy
        require(0 <= required < 1, "strategy.required_accuracy", required, "a number in [0, 1)")
        drop = self.max_accuracy_drop
        require(0 <= drop < 1, "strategy.max_accuracy_drop", drop, "a number in [0, 1)")
        iterations = self.max_iterations
        require(iterations >= 0, "strategy.max_iterations", iterations, "0 or more")
        fraction = self.max_pruned_fraction
        require(0 < fraction < 1, "strategy.max_pruned_fraction", fraction, "a number in (0, 1)")
        criteria = criterion_names()
        require(
            self.importance in criteria,
            "strategy.importance",
            self.importance,
            "one of " + ", ".join(criteria),
        )
        require(self.metric in ("top1", "top5"), "strategy.metric", self.metric, "top1 or top5")
        for name in strategies:
            getattr(self, name).validate()


def strategy_config_class() -> type[StrategyConfig]:
    """StrategyConfig with a field for each registered strategy, which holds its own config."""
    configs = {name: one.config for name, one in registered_strategies().items()}
    return _with_own_configs(tuple(configs.items()))


@functools.cache
def _with_own_configs(configs: tuple[tuple[str, type], ...]) -> type[StrategyConfig]:
    fields = [(name, config, dataclasses.field(default_factory=config)) for name, config in configs]
    return dataclasses.make_dataclass(
        "StrategyConfig", fields, bases=(StrategyConfig,), frozen=True
    )


def default_strategy() -> StrategyConfig:
    """All strategies' defaults."""
    return strategy_config_class()()
