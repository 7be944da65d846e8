"""What all strategies share."""

from __future__ import annotations

import dataclasses

from cprune_tf.config.checks import require


@dataclasses.dataclass(frozen=True)
class StrategyConfig:
    """The CPrune loop's parameters, named as in the paper (ECCV 2022, Algorithm 1).

    Attributes:
        name: The strategy: "cprune".
        alpha: A candidate must keep this fraction of the current accuracy.
        beta: A candidate must be at most this fraction of the current latency.
        required_accuracy: The accuracy (0..1) below which the loop stops. 0: derived from
            max_accuracy_drop.
        max_accuracy_drop: With required_accuracy = 0: how far below the first accuracy the result
            may end, in absolute terms (0.01 = one percentage point).
        max_iterations: Candidates tried at most.
        min_latency_ratio: Stop when the latency is at most this fraction of the first.
        max_pruned_fraction: At most this fraction of a layer's original filters is removed.
        importance: "l1", "l2", "fpgm", "bn_scale", "taylor" or "random".
        metric: "top1" or "top5".
    """

    name: str = "cprune"
    alpha: float = 0.995
    beta: float = 0.99
    required_accuracy: float = 0.0
    max_accuracy_drop: float = 0.01
    max_iterations: int = 100
    min_latency_ratio: float = 0.1
    max_pruned_fraction: float = 0.8
    importance: str = "l1"
    metric: str = "top1"

    def validate(self) -> None:
        """Raises ConfigError where a field cannot work."""
        require(self.name == "cprune", "strategy.name", self.name, '"cprune"')
        require(0 < self.alpha <= 1, "strategy.alpha", self.alpha, "a number in (0, 1]")
        require(0 < self.beta <= 1, "strategy.beta", self.beta, "a number in (0, 1]")
        required = self.required_accuracy
        require(0 <= required < 1, "strategy.required_accuracy", required, "a number in [0, 1)")
        drop = self.max_accuracy_drop
        require(0 <= drop < 1, "strategy.max_accuracy_drop", drop, "a number in [0, 1)")
        iterations = self.max_iterations
        require(iterations >= 0, "strategy.max_iterations", iterations, "0 or more")
        ratio = self.min_latency_ratio
        require(0 <= ratio < 1, "strategy.min_latency_ratio", ratio, "a number in [0, 1)")
        fraction = self.max_pruned_fraction
        require(0 < fraction < 1, "strategy.max_pruned_fraction", fraction, "a number in (0, 1)")
        methods = ("l1", "l2", "fpgm", "bn_scale", "taylor", "random")
        require(
            self.importance in methods,
            "strategy.importance",
            self.importance,
            "one of " + ", ".join(methods),
        )
        require(self.metric in ("top1", "top5"), "strategy.metric", self.metric, "top1 or top5")
