"""The configuration of int8 `.tflite` files."""

from __future__ import annotations

import dataclasses

from cprune_tf.config.checks import require


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
    """

    num_images: int = 300
    keep_float: tuple[str, ...] = ()
    inputs: str = "float32"
    correct_bias: bool = False

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
