"""Everything that a pruning run is decided by."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

import ml_collections

from cprune_tf.config.checks import require
from cprune_tf.config.data import DataConfig
from cprune_tf.config.measure import MeasureConfig
from cprune_tf.config.strategy import StrategyConfig, default_strategy
from cprune_tf.config.training import TrainingConfig
from cprune_tf.config.tuning import TuningConfig
from cprune_tf.storage.plain import to_plain

# What the weights in a TVM library can be stored as.
WEIGHT_TYPES = ("float32", "float16", "bfloat16")


@dataclasses.dataclass(frozen=True)
class PruneConfig:
    """Everything a pruning run is decided by.

    Attributes:
        model: An embedded model's name or a path to a `.keras` / `.h5` file.
        device: "local", "rpc://HOST:PORT?key=KEY", "tracker://HOST:PORT?key=KEY" or "adb:SERIAL",
            with options, e.g. "local?gpu=cuda"; see docs/devices.md.
        runtime: What latencies are measured with and the result is deployed in: "tvm".
        precision: What the runtime computes in: "float32".
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
    runtime: str = "tvm"
    precision: str = "float32"
    frontend: str = "keras"
    weights: str = "float32"
    protect: tuple[str, ...] = ()
    seed: int = 0
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    strategy: StrategyConfig = dataclasses.field(default_factory=default_strategy)
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)
    tuning: TuningConfig = dataclasses.field(default_factory=TuningConfig)
    measure: MeasureConfig = dataclasses.field(default_factory=MeasureConfig)

    def validate(self) -> PruneConfig:
        """Returns self, or raises ConfigError naming the first field that cannot work."""
        require(bool(self.model), "model", self.model, "a model's name or path")
        require(bool(self.device), "device", self.device, "a device, e.g. 'local'")
        require(bool(self.runtime), "runtime", self.runtime, "a runtime, e.g. 'tvm'")
        require(bool(self.precision), "precision", self.precision, "a precision, e.g. 'float32'")
        frontends = ("keras", "tflite")
        require(self.frontend in frontends, "frontend", self.frontend, "keras or tflite")
        require(
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
        return typing.cast(dict[str, Any], to_plain(dataclasses.asdict(self)))
