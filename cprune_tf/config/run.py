"""The configuration of a whole pruning run."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

import ml_collections

from cprune_tf.config.checks import require
from cprune_tf.config.data import DataConfig
from cprune_tf.config.deploy import DeployConfig
from cprune_tf.config.measure import MeasureConfig
from cprune_tf.config.quantization import QuantizationConfig
from cprune_tf.config.shapes import read_input_shape
from cprune_tf.config.strategy import StrategyConfig, default_strategy
from cprune_tf.config.tfmot import TfmotConfig
from cprune_tf.config.training import TrainingConfig
from cprune_tf.config.tuning import TuningConfig
from cprune_tf.storage.plain import to_plain

# The dtypes in which a TVM library can store weights.
WEIGHT_TYPES = ("float32", "float16", "bfloat16")
# The precisions of `.tflite` files.
TFLITE_PRECISIONS = ("float32", "float16", "int8")


@dataclasses.dataclass(frozen=True)
class PruneConfig:
    """The configuration of a pruning run.

    Attributes:
        model: An embedded model's name or a path to a `.keras` / `.h5` file.
        unsafe_lambda: Whether the Python code of Lambda layers in the model's file may run, with
            all your rights; only for a file whose maker you trust. See docs/models.md.
        input_shape: The sizes to which inputs of a model for any size are fixed, without the batch:
            "224,224,3", or "image=224,224,3;vector=8" by the names of several inputs; "": the sizes
            of the model. See docs/models.md.
        device: The device: "local", "rpc://HOST:PORT?key=KEY", "tracker://HOST:PORT?key=KEY" or
            "adb:SERIAL", with options, e.g. "local?gpu=cuda"; see docs/devices.md.
        runtime: The runtime that measures latencies and that the result is deployed in: "tvm" or
            "litert".
        precision: The precision that the runtime computes in: "float32"; for LiteRT also "float16"
            (weights of half the size), or "int8": then the int8 file's accuracy decides. See
            docs/int8.md.
        compared_precisions: Precisions of further `.tflite` files, which are made of the original
            and of the result and compared at the end: "float32", "float16", "int8".
        frontend: How the compiler reads the model: "keras", or "tflite" as a second opinion (needs
            the `tflite` package).
        weights: The dtype in which TVM libraries store weights: "float32", or "float16" or
            "bfloat16" for half the size. TVM computes in float32 with each of them.
        protect: Layer-name patterns (fnmatch) whose filters are never removed.
        seed: The seed of every random choice.
        dry_run: Whether all stages are tried with as little work as possible before the run begins,
            so that whatever a conversion, the device or training refuses is refused at once.
        ray_address: The Ray cluster on which trainings that don't depend on each other run side by
            side: "HOST:PORT" of its head, "auto", or "local" for a new one on this machine. "":
            they run one after the other in this process. A run may go on with another one.
        data: Where images come from and how they are preprocessed.
        strategy: How candidates are chosen and judged.
        training: How candidates and the result are trained.
        tuning: How much the compiler searches.
        measure: How latencies are measured.
        tfmot: How much the baseline TFMOT prunes; only `tools/compare.py` uses it.
        quantization: How int8 files are made.
        deploy: What the folder for the device holds.
    """

    model: str = "resnet8_fashion"
    unsafe_lambda: bool = False
    input_shape: str = ""
    device: str = "local"
    runtime: str = "tvm"
    precision: str = "float32"
    compared_precisions: tuple[str, ...] = ("float32",)
    frontend: str = "keras"
    weights: str = "float32"
    protect: tuple[str, ...] = ()
    seed: int = 0
    dry_run: bool = True
    ray_address: str = ""
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    strategy: StrategyConfig = dataclasses.field(default_factory=default_strategy)
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)
    tuning: TuningConfig = dataclasses.field(default_factory=TuningConfig)
    measure: MeasureConfig = dataclasses.field(default_factory=MeasureConfig)
    tfmot: TfmotConfig = dataclasses.field(default_factory=TfmotConfig)
    quantization: QuantizationConfig = dataclasses.field(default_factory=QuantizationConfig)
    deploy: DeployConfig = dataclasses.field(default_factory=DeployConfig)

    @property
    def makes_int8(self) -> bool:
        """Whether the run makes int8 files, to decide with or to compare at the end."""
        return "int8" in (self.precision, *self.compared_precisions)

    def validate(self) -> PruneConfig:
        """Returns self, or raises ConfigError that names the first invalid field."""
        require(bool(self.model), "model", self.model, "a model's name or path")
        read_input_shape(self.input_shape)
        require(bool(self.device), "device", self.device, "a device, e.g. 'local'")
        require(bool(self.runtime), "runtime", self.runtime, "a runtime: 'tvm' or 'litert'")
        require(bool(self.precision), "precision", self.precision, "a precision, e.g. 'float32'")
        require(
            set(self.compared_precisions) <= set(TFLITE_PRECISIONS),
            "compared_precisions",
            self.compared_precisions,
            "some of " + ", ".join(TFLITE_PRECISIONS),
        )
        if self.makes_int8:
            # The cross-check and the deployed script pass what they pass to the float32 model.
            require(
                self.quantization.inputs == "float32",
                "quantization.inputs",
                self.quantization.inputs,
                "float32 in a run that makes int8 files; tools/quantize.py converts its result "
                "to a file with int8 inputs",
            )
        frontends = ("keras", "tflite")
        require(self.frontend in frontends, "frontend", self.frontend, "keras or tflite")
        require(
            self.weights in WEIGHT_TYPES,
            "weights",
            self.weights,
            "one of " + ", ".join(WEIGHT_TYPES),
        )
        for part in (
            self.data,
            self.strategy,
            self.training,
            self.tuning,
            self.measure,
            self.tfmot,
            self.quantization,
            self.deploy,
        ):
            part.validate()
        return self

    def to_config_dict(self) -> ml_collections.ConfigDict:
        """Returns the same fields as a mutable ConfigDict, for config files and flags."""
        return ml_collections.ConfigDict(dataclasses.asdict(self))

    def to_json_dict(self) -> dict[str, Any]:
        """Returns the same fields as plain JSON types."""
        return typing.cast(dict[str, Any], to_plain(dataclasses.asdict(self)))
