"""The configuration of a pruning run: typed, frozen, and convertible to an ml_collections dict.

Command lines and `configs/*.py` speak `ml_collections.ConfigDict` (so that any field can be
overridden by a flag); everything inside the package reads the frozen dataclasses below, which are
validated once, before any expensive work.
"""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Mapping
from typing import Any

import ml_collections

# What the weights in a TVM library can be stored as.
WEIGHT_TYPES = ("float32", "float16", "bfloat16")


class ConfigError(ValueError):
    """A configuration that cannot work: says the field, what it holds and what it should hold."""


def _require(ok: bool, field: str, received: object, expected: str) -> None:
    if not ok:
        raise ConfigError(f"config.{field} is {received!r}; expected {expected}.")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where images come from and how they become the model's input.

    Attributes:
        name: "fashion_mnist_subset" (embedded), "keras:cifar10" (keras.datasets), "tfds:NAME",
            a path to an `.npz`, a path to an image folder, or "module:function".
        batch_size: Images in a training batch.
        mean: Subtracted from the raw 0..255 pixels, one value or one per channel.
        std: What the difference is divided by, one value or one per channel.
        augment: Random shift and horizontal flip while training.
        max_train: Use at most this many training images (0: all).
        max_test: Use at most this many test images (0: all).
    """

    name: str = "fashion_mnist_subset"
    batch_size: int = 64
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (255.0,)
    augment: bool = True
    max_train: int = 0
    max_test: int = 0

    def validate(self) -> None:
        """Raises ConfigError where a field cannot work."""
        _require(bool(self.name), "data.name", self.name, "a data set's name or path")
        _require(self.batch_size > 0, "data.batch_size", self.batch_size, "a positive number")
        _require(all(s > 0 for s in self.std), "data.std", self.std, "positive numbers")
        _require(self.max_train >= 0, "data.max_train", self.max_train, "0 (all) or more")
        _require(self.max_test >= 0, "data.max_test", self.max_test, "0 (all) or more")


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
        _require(self.name == "cprune", "strategy.name", self.name, '"cprune"')
        _require(0 < self.alpha <= 1, "strategy.alpha", self.alpha, "a number in (0, 1]")
        _require(0 < self.beta <= 1, "strategy.beta", self.beta, "a number in (0, 1]")
        required = self.required_accuracy
        _require(0 <= required < 1, "strategy.required_accuracy", required, "a number in [0, 1)")
        drop = self.max_accuracy_drop
        _require(0 <= drop < 1, "strategy.max_accuracy_drop", drop, "a number in [0, 1)")
        iterations = self.max_iterations
        _require(iterations >= 0, "strategy.max_iterations", iterations, "0 or more")
        ratio = self.min_latency_ratio
        _require(0 <= ratio < 1, "strategy.min_latency_ratio", ratio, "a number in [0, 1)")
        fraction = self.max_pruned_fraction
        _require(0 < fraction < 1, "strategy.max_pruned_fraction", fraction, "a number in (0, 1)")
        methods = ("l1", "l2", "fpgm", "bn_scale", "taylor", "random")
        _require(
            self.importance in methods,
            "strategy.importance",
            self.importance,
            "one of " + ", ".join(methods),
        )
        _require(self.metric in ("top1", "top5"), "strategy.metric", self.metric, "top1 or top5")


@dataclasses.dataclass(frozen=True)
class FitConfig:
    """One training phase: SGD with momentum and decoupled weight decay, constant or cosine rate.

    Attributes:
        epochs: Passes over the training images.
        learning_rate: The first rate.
        momentum: Of SGD.
        weight_decay: L2 coefficient on kernels.
        schedule: "constant" or "cosine" (to zero).
        max_steps_per_epoch: Shorten an epoch to this many batches (0: the whole set).
        distill: Weight of the original model's softened outputs in the loss (0: none).
    """

    epochs: int = 5
    learning_rate: float = 1e-4
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: str = "constant"
    max_steps_per_epoch: int = 0
    distill: float = 0.0

    def validate(self, where: str) -> None:
        """Raises ConfigError where a field cannot work."""
        _require(self.epochs >= 0, f"{where}.epochs", self.epochs, "0 or more")
        rate = self.learning_rate
        _require(rate > 0, f"{where}.learning_rate", rate, "a positive number")
        _require(0 <= self.momentum < 1, f"{where}.momentum", self.momentum, "a number in [0, 1)")
        decay = self.weight_decay
        _require(decay >= 0, f"{where}.weight_decay", decay, "0 or more")
        schedules = ("constant", "cosine")
        _require(
            self.schedule in schedules, f"{where}.schedule", self.schedule, "constant or cosine"
        )
        steps = self.max_steps_per_epoch
        _require(steps >= 0, f"{where}.max_steps_per_epoch", steps, "0 (all) or more")
        _require(0 <= self.distill <= 1, f"{where}.distill", self.distill, "a number in [0, 1]")


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """Short-term training of each candidate, long-term training of the result.

    Attributes:
        short_term: After each candidate that passed the latency gate.
        long_term: Once, at the end.
    """

    short_term: FitConfig = FitConfig()
    long_term: FitConfig = FitConfig(epochs=100)

    def validate(self) -> None:
        """Raises ConfigError where a field cannot work."""
        self.short_term.validate("training.short_term")
        self.long_term.validate("training.long_term")


@dataclasses.dataclass(frozen=True)
class TuningConfig:
    """How much the compiler may search.

    Attributes:
        trials_per_task: Measured programs for each task of the first model.
        trials_per_accepted_task: Measured programs each task of an accepted candidate ends with;
            0: it keeps the transferred ones.
        final_trials_per_task: Measured programs each task of the final model ends with, at least.
        trials_per_round: Programs built and measured together; 0: 16 for each build process, 128
            at most.
        population_size: Of the evolutionary search.
        max_tuning_sec: A call of the tuner starts no further round after this long, once every
            task has had its first; 0: no limit.
        stop_within: Tuning ends when all rounds that are left are together expected to make the
            model less than this fraction faster; 0: no limit. What a round gains is expected from
            the rounds before it.
        max_rounds_without_gain: A task gets no more rounds after this many in a row that made it
            less than 1 % faster; 0: no limit.
        warm_start: Programs of earlier runs that new tasks start from: "shipped": those that come
            with the package, where there are some for the processor; a folder `tuning` of an
            earlier run; or "": none. They are only starting points: all are measured again.
        database: A folder of measured programs that several runs share, for any devices: what one
            run measured, no other measures again. Only one run at a time measures for a device
            there. "": each run has its own, in its folder `tuning`.
        programs_per_task: Structurally distinct programs that are transferred to a pruned shape.
        build_timeout_sec: For one program.
        run_timeout_sec: For one program's measurement.
        num_build_workers: Build processes; 0: one per core.
    """

    trials_per_task: int = 64
    trials_per_accepted_task: int = 32
    final_trials_per_task: int = 128
    trials_per_round: int = 0
    population_size: int = 64
    max_tuning_sec: float = 0.0
    stop_within: float = 0.0
    max_rounds_without_gain: int = 2
    warm_start: str = "shipped"
    database: str = ""
    programs_per_task: int = 5
    build_timeout_sec: float = 30.0
    run_timeout_sec: float = 30.0
    num_build_workers: int = 0

    def validate(self) -> None:
        """Raises ConfigError where a field cannot work."""
        for name in (
            "trials_per_task",
            "population_size",
            "programs_per_task",
            "build_timeout_sec",
            "run_timeout_sec",
        ):
            value = getattr(self, name)
            _require(value > 0, f"tuning.{name}", value, "a positive number")
        for name in (
            "trials_per_accepted_task",
            "final_trials_per_task",
            "trials_per_round",
            "max_tuning_sec",
            "max_rounds_without_gain",
            "num_build_workers",
        ):
            value = getattr(self, name)
            _require(value >= 0, f"tuning.{name}", value, "0 or more")
        _require(
            0 <= self.stop_within < 1, "tuning.stop_within", self.stop_within, "0 or more, below 1"
        )


@dataclasses.dataclass(frozen=True)
class MeasureConfig:
    """How a whole-model latency is measured: warm-up, then samples until stable.

    Attributes:
        num_threads: Threads the model is tuned, gated and compared with.
        warmup_ms: Running time thrown away at first.
        min_samples: Samples at least.
        max_time_sec: Samples stop then, for each of the models compared.
        stable_fraction: Samples stop when the median of both halves differs by less.
        cores: What to run on: "": all cores; "little", "middle" or "big": that kind of the device's
            cores; or numbers, e.g. "4-7".
        max_temperature_celsius: Above it, a device is left to cool down while models are timed; 0:
            never.
    """

    num_threads: int = 1
    warmup_ms: float = 100.0
    min_samples: int = 30
    max_time_sec: float = 2.0
    stable_fraction: float = 0.01
    cores: str = ""
    max_temperature_celsius: float = 0.0

    def validate(self) -> None:
        """Raises ConfigError where a field cannot work."""
        limit = self.max_temperature_celsius
        _require(limit >= 0, "measure.max_temperature_celsius", limit, "0 or more")
        for name in ("num_threads", "min_samples", "max_time_sec", "stable_fraction"):
            value = getattr(self, name)
            _require(value > 0, f"measure.{name}", value, "a positive number")
        _require(self.warmup_ms >= 0, "measure.warmup_ms", self.warmup_ms, "0 or more")


@dataclasses.dataclass(frozen=True)
class PruneConfig:
    """Everything a pruning run is decided by.

    Attributes:
        model: An embedded model's name or a path to a `.keras` / `.h5` file.
        device: "local", "rpc://HOST:PORT?key=KEY", "tracker://HOST:PORT?key=KEY" or "adb:SERIAL",
            with options, e.g. "local?gpu=cuda"; see docs/devices.md.
        frontend: How the compiler reads the model: "keras", or "tflite" as a second opinion (needs
            the `tflite` package).
        weights: What TVM libraries store weights as: "float32", or "float16" or "bfloat16" for half
            the size. It computes in float32 all the same.
        protect: Layer-name patterns (fnmatch) whose filters are never removed.
        seed: Of every random choice.
        data: See DataConfig.
        strategy: See StrategyConfig.
        training: See TrainingConfig.
        tuning: See TuningConfig.
        measure: See MeasureConfig.
    """

    model: str = "resnet8_fashion"
    device: str = "local"
    frontend: str = "keras"
    weights: str = "float32"
    protect: tuple[str, ...] = ()
    seed: int = 0
    data: DataConfig = DataConfig()
    strategy: StrategyConfig = StrategyConfig()
    training: TrainingConfig = TrainingConfig()
    tuning: TuningConfig = TuningConfig()
    measure: MeasureConfig = MeasureConfig()

    def validate(self) -> PruneConfig:
        """Returns self, or raises ConfigError naming the first field that cannot work."""
        _require(bool(self.model), "model", self.model, "a model's name or path")
        _require(bool(self.device), "device", self.device, "a device, e.g. 'local'")
        frontends = ("keras", "tflite")
        _require(self.frontend in frontends, "frontend", self.frontend, "keras or tflite")
        _require(
            self.weights in WEIGHT_TYPES,
            "weights",
            self.weights,
            "one of " + ", ".join(WEIGHT_TYPES),
        )
        for part in (self.data, self.strategy, self.training, self.tuning, self.measure):
            part.validate()
        return self

    def to_config_dict(self) -> ml_collections.ConfigDict:
        """The same fields as a mutable ConfigDict, for config files and flags."""
        return ml_collections.ConfigDict(dataclasses.asdict(self))

    def to_json_dict(self) -> dict[str, Any]:
        """The same fields as plain JSON types."""
        return typing.cast(dict[str, Any], _plain(dataclasses.asdict(self)))


def default_config() -> ml_collections.ConfigDict:
    """The defaults, for a config file to start from."""
    return PruneConfig().to_config_dict()


def from_mapping(values: Mapping[str, Any] | ml_collections.ConfigDict) -> PruneConfig:
    """Builds and validates a PruneConfig from nested fields.

    Args:
        values: Nested mapping; missing fields keep their default.

    Returns:
        The validated config.

    Raises:
        ConfigError: For an unknown field, a wrong type or a value that cannot work.
    """
    if isinstance(values, ml_collections.ConfigDict):
        values = values.to_dict()
    return typing.cast(PruneConfig, _build(PruneConfig, values, "")).validate()


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return value


def _build(cls: type, values: Mapping[str, Any], prefix: str) -> Any:
    hints = typing.get_type_hints(cls)
    known = {field.name for field in dataclasses.fields(cls)}
    arguments = {}
    for name, value in values.items():
        if name not in known:
            close = difflib.get_close_matches(name, sorted(known), n=1)
            hint = f" Did you mean config.{prefix}{close[0]}?" if close else ""
            raise ConfigError(
                f"config.{prefix}{name} is not a field; config.{prefix.rstrip('.')} has "
                f"{', '.join(sorted(known))}.{hint}"
            )
        arguments[name] = _convert(hints[name], value, f"{prefix}{name}")
    return cls(**arguments)


def _convert(kind: Any, value: Any, field: str) -> Any:
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise ConfigError(f"config.{field} is {value!r}; expected a mapping of fields.")
        return _build(typing.cast(type, kind), value, f"{field}.")
    if typing.get_origin(kind) is tuple:
        if isinstance(value, str) or not isinstance(value, (tuple, list)):
            value = (value,)
        item_kind = typing.get_args(kind)[0]
        return tuple(_convert(item_kind, item, field) for item in value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ConfigError(
            f"config.{field} is {value!r} ({type(value).__name__}); expected {kind.__name__}."
        )
    return value
