"""The strategy PatDNN (Niu et al., ASPLOS 2020): weights go, in patterns, and filters stay.

One candidate is made of the current model. It is trained towards patterns and connectivity
(section 4.2: ADMM), projected on both at once, and trained once more with its zeros kept; so does
long-term training. Accuracy alone decides: patterns make a model faster only where something
computes with them, so the latency is measured and reported as it is, and refuses nothing.

Two baselines train equally long: "one_shot" projects first and trains what stays, and
"straight_through" computes with projected weights and trains all of them.

The training towards patterns is journalled when it ends, with its weights on the disk, and keeps a
checkpoint with its dual variables after each epoch. So a resumed run repeats one epoch at most.
"""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

from cprune_tf.config.checks import ConfigError, require
from cprune_tf.runs import events
from cprune_tf.strategies.base import Candidate, Draft, Measurement, Stop, Strategy, Verdict
from cprune_tf.strategies.registry import register_strategy

if typing.TYPE_CHECKING:
    from cprune_tf.config import PruneConfig
    from cprune_tf.graph import ChannelGraph
    from cprune_tf.sparse import SparseSettings
    from cprune_tf.strategies.workbench import CurrentModel, Hooks
    from cprune_tf.training.pattern_training import TowardsPatterns

METHODS = ("admm", "one_shot", "straight_through")
# The key of the candidate that has patterns.
PATTERNS_KEY = "patterns"

_FIELD = "strategy.patdnn."


@dataclasses.dataclass(frozen=True)
class PatDnnConfig:
    """How a model gets patterns.

    Attributes:
        method: How weights come to patterns: "admm", or for comparison "one_shot" or
            "straight_through".
        num_patterns: The number of patterns for each kernel size; PatDNN has 6, 8 or 12.
        num_entries: The number of entries that a pattern keeps of a 3x3 kernel; other sizes keep
            the same share.
        connectivity_rate: All kernels of a layer / those that stay; 1: all stay.
        layer_rates: Other rates, as "PATTERN=RATE" with a layer-name pattern (fnmatch); the first
            that matches counts.
        block_size: Filters that share their kernels and patterns; 1 is PatDNN's form, with which
            TVM gains least.
        layer_block_sizes: Other sizes, as "PATTERN=SIZE".
        spare_first: Whether all kernels of the first convolution stay; it gets patterns all the
            same.
        pointwise: Whether layers with kernels of 1x1, which have no patterns, lose kernels.
        epochs: Epochs of the training towards patterns.
        learning_rate: Its constant learning rate. All else is that of `config.training.short_term`.
        rho: ADMM's pull in each stage; the stages are equally long. Empty: three stages that fit
            the learning rate and the length of an epoch.
        accuracy_slack: The candidate may end this far (0..1) below the required accuracy, since
            long-term training follows.
    """

    method: str = "admm"
    num_patterns: int = 8
    num_entries: int = 4
    connectivity_rate: float = 3.6
    layer_rates: tuple[str, ...] = ()
    block_size: int = 4
    layer_block_sizes: tuple[str, ...] = ()
    spare_first: bool = True
    pointwise: bool = False
    epochs: int = 30
    learning_rate: float = 0.01
    rho: tuple[float, ...] = ()
    accuracy_slack: float = 0.02

    def validate(self) -> None:
        """Raises ConfigError if a field is invalid."""
        expected = "one of " + ", ".join(METHODS)
        require(self.method in METHODS, _FIELD + "method", self.method, expected)
        count, entries = self.num_patterns, self.num_entries
        require(count >= 1, _FIELD + "num_patterns", count, "1 or more")
        require(1 <= entries <= 9, _FIELD + "num_entries", entries, "1 to 9")
        rate, size = self.connectivity_rate, self.block_size
        require(rate >= 1, _FIELD + "connectivity_rate", rate, "1 or more")
        require(size >= 1, _FIELD + "block_size", size, "1 or more")
        _overrides(_FIELD + "layer_rates", self.layer_rates)
        for pattern, number in _overrides(_FIELD + "layer_block_sizes", self.layer_block_sizes):
            whole = "whole numbers after the equals signs"
            given = f"{pattern}={number:g}"
            require(number.is_integer(), _FIELD + "layer_block_sizes", given, whole)
        require(self.epochs >= 0, _FIELD + "epochs", self.epochs, "0 or more")
        learning_rate, slack = self.learning_rate, self.accuracy_slack
        require(learning_rate > 0, _FIELD + "learning_rate", learning_rate, "a positive number")
        rising = all(rho > 0 for rho in self.rho) and list(self.rho) == sorted(self.rho)
        require(rising, _FIELD + "rho", self.rho, "positive numbers that do not fall, or none")
        require(0 <= slack < 1, _FIELD + "accuracy_slack", slack, "a number in [0, 1)")

    def sparse_settings(self, protect: tuple[str, ...]) -> SparseSettings:
        """Returns how layers become sparse.

        Args:
            protect: Layer-name patterns of layers that stay dense.
        """
        from cprune_tf.sparse import SparseSettings

        return SparseSettings(
            num_patterns=self.num_patterns,
            entries_of_nine=self.num_entries,
            connectivity_rate=self.connectivity_rate,
            layer_rates=_overrides(_FIELD + "layer_rates", self.layer_rates),
            block_size=self.block_size,
            layer_block_sizes=_overrides(_FIELD + "layer_block_sizes", self.layer_block_sizes),
            spare_first=self.spare_first,
            pointwise=self.pointwise,
            protect=protect,
        )


def _overrides(field: str, texts: tuple[str, ...]) -> tuple[tuple[str, float], ...]:
    """Reads "PATTERN=NUMBER" texts; raises ConfigError."""
    found = []
    for text in texts:
        pattern, _, number = text.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            value = 0.0
        expected = "texts such as 'stage3_*=2', with a layer-name pattern and a number from 1 on"
        require(bool(pattern) and value >= 1, field, text, expected)
        found.append((pattern, value))
    return tuple(found)


@register_strategy("patdnn", PatDnnConfig)
class PatDnn(Strategy):
    """See the module's text.

    Attributes:
        is_judged: Whether the candidate with patterns was judged.
    """

    aims_at_latency = False
    removes_only_filters = False

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        # Also where another strategy goes before.
        self.settings: PatDnnConfig = self.bench.config.strategy.patdnn  # type: ignore[attr-defined]
        self.is_judged = False

    @classmethod
    def check(cls, config: PruneConfig, hooks: Hooks) -> None:
        """See Strategy: no target of latency, and training that keeps zeros."""
        strategy = config.strategy
        for name in ("target_speedup", "target_latency_ms"):
            require(
                not getattr(strategy, name),
                f"strategy.{name}",
                getattr(strategy, name),
                "0 with the strategy patdnn, which removes weights until accuracy binds and is "
                "not led by latency; the strategy 'latency_budget+patdnn' takes filters to a "
                "target first",
            )
        cls.check_training(config, hooks)

    @classmethod
    def check_training(cls, config: PruneConfig, hooks: Hooks) -> None:
        """Checks that the run's training can pull weights to patterns and keep zeros.

        Args:
            config: The config of the run, validated.
            hooks: The functions that train and evaluate models.

        Raises:
            ConfigError: It cannot.
        """
        if hooks.patterns is None:
            raise ConfigError(
                f"config.strategy.name is {config.strategy.name!r}; expected a strategy that "
                "removes filters where your own short_term_train or long_term_train, or the "
                "optimizer of your compiled model, trains: these keep no zeros. Choose another "
                "strategy, or leave training to config.training."
            )
        if config.training.distribute:
            raise ConfigError(
                f"config.training.distribute is {config.training.distribute!r}; expected '' with "
                f"the strategy {config.strategy.name}, whose trainings run on one device."
            )
        from cprune_tf.training.pattern_training import largest_rho

        settings: PatDnnConfig = config.strategy.patdnn  # type: ignore[attr-defined]
        largest = largest_rho(settings.learning_rate, config.training.short_term.momentum)
        require(
            settings.method != "admm" or max(settings.rho, default=0.0) < largest,
            _FIELD + "rho",
            settings.rho,
            f"numbers below {largest:.3g}, from which on training diverges at the learning rate "
            f"{settings.learning_rate:g} and momentum {config.training.short_term.momentum:g}",
        )

    @classmethod
    def check_model(cls, config: PruneConfig, model: Any, channels: ChannelGraph) -> None:
        """See Strategy: some layer can get patterns, and each override is for such a layer."""
        from cprune_tf import sparse

        own: PatDnnConfig = config.strategy.patdnn  # type: ignore[attr-defined]
        settings = own.sparse_settings(config.protect)
        names = sparse.sparse_layers(model, settings)
        if not names:
            raise ConfigError(
                f"The model {model.name!r} has no layer that could get patterns; expected a "
                "trainable Conv2D or DepthwiseConv2D with kernels larger than 1x1 that "
                "config.protect does not name, or config.strategy.patdnn.pointwise."
            )
        for pattern in sparse.unmatched(model, settings):
            raise ConfigError(
                f"config.strategy.patdnn has an override for {pattern!r}, which matches no layer "
                f"that gets patterns; expected some of {', '.join(names)}."
            )

    def learn(self, event: Any) -> None:
        """See Strategy."""
        self.is_judged |= isinstance(event, events.CandidateJudged)

    def propose(self, current: CurrentModel) -> Candidate | Stop:
        """See Strategy: the current model itself, once."""
        if self.is_judged:
            return Stop("the patterns were judged")
        # Its latency is not predicted: it depends on weights that are not known yet.
        return Candidate(PATTERNS_KEY, self.bench.draft(current, {}), 0)

    def judge(self, current: CurrentModel, candidate: Candidate, index: int) -> Verdict:
        """See Strategy: accurate enough after training, whatever its latency."""
        patterns = self.bench.train_patterns(current, candidate, index, self._towards(current))
        gate = self.accuracy_gate(self.with_slack(self.settings.accuracy_slack))
        evaluation = self.bench.train(candidate, index, gate)
        if shortfall := gate.shortfall(evaluation):
            reason = f"{shortfall}, with {patterns}"
            return Verdict(events.REFUSED_ACCURACY, reason, None, evaluation)
        measurement = self._measured(current, candidate, index)
        reason = f"{evaluation.text(self.metric)}, {measurement}; {patterns}"
        return Verdict(events.ACCEPTED, reason, measurement, evaluation)

    def _towards(self, current: CurrentModel) -> TowardsPatterns:
        from cprune_tf.sparse import plan_constraints
        from cprune_tf.training.pattern_training import TowardsPatterns

        own, config = self.settings, self.bench.config
        settings = own.sparse_settings(config.protect)
        constraints = plan_constraints(current.model, settings)
        return TowardsPatterns(own.method, constraints, own.epochs, own.learning_rate, own.rho)

    def _measured(self, current: CurrentModel, candidate: Candidate, index: int) -> Measurement:
        """Times the trained candidate: what a kernel costs may depend on its weights."""
        model = candidate.draft.model
        draft = Draft(candidate.draft.removal, model, self.bench.runtime.prepare(model))
        trained = dataclasses.replace(
            candidate, draft=draft, price=self.bench.price(current, draft)
        )
        return self.bench.measure(current, trained, index)
