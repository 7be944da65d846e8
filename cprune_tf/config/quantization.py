"""The configuration of int8 `.tflite` files."""

from __future__ import annotations

import dataclasses

from cprune_tf.config.checks import require
from cprune_tf.config.training import FitConfig

# The model is trained already: small steps, and no other pull on its weights than its own outputs.
_AWARE = FitConfig(epochs=0, learning_rate=2e-3, weight_decay=0.0, schedule="cosine", distill=0.9)


@dataclasses.dataclass(frozen=True)
class QuantizationConfig:
    """How models are quantised to int8 after training; see docs/int8.md.

    Attributes:
        num_images: Number of training images that the ranges of all tensors are taken from. Which
            ones, `seed` decides.
        keep_float: Patterns (fnmatch) of the names of layers that stay float32.
        inputs: The type of the file's inputs and outputs: "float32", so that callers pass what they
            pass to the float32 model, or "int8" with the scales that the file states.
        correct_bias: Whether biases make up for the rounding of weights, as far as it shifts means.
        aware: The training in which weights and values are rounded as in the int8 file, so that the
            model gets used to it (quantisation-aware training); epochs = 0: none. `distill` keeps
            the outputs that the model had before.
    """

    num_images: int = 300
    keep_float: tuple[str, ...] = ()
    inputs: str = "float32"
    correct_bias: bool = False
    aware: FitConfig = _AWARE

    def validate(self) -> None:
        """Raises ConfigError if a field is invalid."""
        require(
            self.num_images > 0, "quantization.num_images", self.num_images, "a positive number"
        )
        inputs = ("float32", "int8")
        require(
            self.inputs in inputs, "quantization.inputs", self.inputs, "one of " + ", ".join(inputs)
        )
        require(
            all(self.keep_float),
            "quantization.keep_float",
            self.keep_float,
            "patterns of layer names, none of them empty",
        )
        self.aware.validate("quantization.aware")
        require(
            self.aware.precision == "float32",
            "quantization.aware.precision",
            self.aware.precision,
            "float32, since bfloat16 rounds more than int8 does",
        )
        require(
            not (self.aware.epochs and self.correct_bias),
            "quantization.correct_bias",
            self.correct_bias,
            "False with quantization.aware.epochs > 0: that training fits the biases to rounded "
            "weights, and a correction would undo it",
        )
