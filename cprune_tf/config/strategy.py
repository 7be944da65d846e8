"""The configuration of the strategies: shared fields, and one field for each strategy."""

from __future__ import annotations

import dataclasses
import functools
import math

from cprune_tf.accuracy import Metric
from cprune_tf.accuracy.metric import MODES
from cprune_tf.config.checks import ConfigError, require
from cprune_tf.importance.registry import criterion_names
from cprune_tf.strategies.registry import registered_strategies


@dataclasses.dataclass(frozen=True)
class StrategyConfig:
    """The settings that all strategies share.

    The settings of the strategy NAME alone are in `config.strategy.NAME`.

    Attributes:
        name: The strategy's name, e.g. "latency_budget"; see docs/strategies.md.
        required_accuracy: The accuracy (0..1) that the result must have, or the value of another
            metric: at least, or at most if it is minimised. 0: it is derived from
            max_accuracy_drop.
        max_accuracy_drop: If required_accuracy is 0: how far the result's accuracy may be below the
            original's, in absolute terms (0.01 = one percentage point). Of a metric that is no
            accuracy: by which part of the original's value the result's may be worse. Slacks of
            strategies are meant in the same way.
        max_iterations: Maximum number of candidates.
        max_pruned_fraction: Maximum fraction of a layer's original filters that is removed, unless
            the layer disappears as a whole with its branch (`latency_budget.depth`).
        importance: The criterion that chooses the filters to remove, e.g. "l1"; see
            cprune_tf.importance. Empty: the strategy's own choice.
        importance_batches: Number of training batches that criteria and sensitivity look at.
        target_speedup: Pruning ends when the result is this many times as fast as the original;
            0: no such target.
        target_latency_ms: Pruning ends when the result takes no more than this; 0: no such target.
        metric: What models are judged by: "top1" or "top5" for a classifier with integer or
            one-hot labels; otherwise the name of a metric that the model was compiled with, or
            "loss" (docs/tasks.md). Where the caller's own function evaluates, a name for reports.
        metric_mode: Which values of the metric are better: "max": higher ones; "min": lower ones;
            "auto": lower ones if the name says so, as "mean_absolute_error" and "loss" do.
        gate_error_rate: The evaluation of a candidate ends as soon as its refusal is certain but
            for this probability (0..1); 0: all images that decide are evaluated. See
            `accuracy.refusal`. A caller's own evaluation is always run whole.
        gate_confidence: A candidate passes only if the one-sided lower confidence bound of its
            accuracy is high enough too, with this confidence (e.g. 0.95). The bound follows from
            the paired difference from the original. 0: the accuracy alone decides.
    """

    name: str = "latency_budget"
    required_accuracy: float = 0.0
    max_accuracy_drop: float = 0.01
    max_iterations: int = 100
    max_pruned_fraction: float = 0.8
    importance: str = ""
    importance_batches: int = 8
    target_speedup: float = 0.0
    target_latency_ms: float = 0.0
    metric: str = "top1"
    metric_mode: str = "auto"
    gate_error_rate: float = 0.01
    gate_confidence: float = 0.0

    @property
    def judged_by(self) -> Metric:
        """What models are judged by."""
        return Metric.named(self.metric, self.metric_mode)

    def validate(self) -> None:
        """Raises ConfigError if a field is invalid."""
        strategies = registered_strategies()
        require(
            self.name in strategies,
            "strategy.name",
            self.name,
            "one of " + ", ".join(strategies),
        )
        self._validate_metric()
        drop = self.max_accuracy_drop
        require(0 <= drop < 1, "strategy.max_accuracy_drop", drop, "a number in [0, 1)")
        iterations = self.max_iterations
        require(iterations >= 0, "strategy.max_iterations", iterations, "0 or more")
        fraction = self.max_pruned_fraction
        require(0 < fraction < 1, "strategy.max_pruned_fraction", fraction, "a number in (0, 1)")
        criteria = criterion_names()
        require(
            self.importance in ("", *criteria),
            "strategy.importance",
            self.importance,
            "one of " + ", ".join(criteria) + ", or empty for the strategy's own choice",
        )
        count = self.importance_batches
        require(count >= 1, "strategy.importance_batches", count, "1 or more")
        self._validate_targets()
        rate, confidence = self.gate_error_rate, self.gate_confidence
        require(0 <= rate < 1, "strategy.gate_error_rate", rate, "a number in [0, 1)")
        require(
            confidence == 0 or 0.5 <= confidence < 1,
            "strategy.gate_confidence",
            confidence,
            "0 or a number in [0.5, 1)",
        )
        for name, registration in strategies.items():
            if registration.config is not None:
                getattr(self, name).validate()

    def _validate_metric(self) -> None:
        require(
            bool(self.metric),
            "strategy.metric",
            self.metric,
            "top1, top5 or the name of a metric that the model was compiled with",
        )
        mode, required = self.metric_mode, self.required_accuracy
        modes = MODES if not self.judged_by.is_rank else MODES[:2]
        require(mode in modes, "strategy.metric_mode", mode, "one of " + ", ".join(modes))
        expected = "a number in [0, 1)" if self.judged_by.is_accuracy else "a finite number"
        fits = 0 <= required < 1 if self.judged_by.is_accuracy else math.isfinite(required)
        require(fits, "strategy.required_accuracy", required, expected)

    def _validate_targets(self) -> None:
        speedup, latency_ms = self.target_speedup, self.target_latency_ms
        require(speedup == 0 or speedup > 1, "strategy.target_speedup", speedup, "0 or more than 1")
        require(latency_ms >= 0, "strategy.target_latency_ms", latency_ms, "0 or more")
        if speedup and latency_ms:
            raise ConfigError(
                f"config.strategy.target_speedup is {speedup:g} and target_latency_ms is "
                f"{latency_ms:g}; expected only one of them. Set the other to 0."
            )


def strategy_config_class() -> type[StrategyConfig]:
    """Returns a StrategyConfig class with a field for the config of each registered strategy."""
    configs = {
        name: registration.config
        for name, registration in registered_strategies().items()
        if registration.config is not None
    }
    return _with_strategy_fields(tuple(configs.items()))


@functools.cache
def _with_strategy_fields(configs: tuple[tuple[str, type], ...]) -> type[StrategyConfig]:
    fields = [(name, config, dataclasses.field(default_factory=config)) for name, config in configs]
    return dataclasses.make_dataclass(
        "StrategyConfig", fields, bases=(StrategyConfig,), frozen=True
    )


def default_strategy() -> StrategyConfig:
    """Returns the default settings of all strategies."""
    return strategy_config_class()()
