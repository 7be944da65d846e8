"""Compares an int8 file with the float32 file that it was made from, layer by layer.

A signal-to-noise ratio is the power of a float32 tensor over the power of the difference, in
decibels: 40 dB is an error of one per cent, 20 dB of ten. Three ratios tell where an error comes
from: that of the output in the int8 file (all errors so far), that of the output if it were only
stored as int8, and that of the weights.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cprune_tf import native_output
from cprune_tf.litert import conversion, tflite_graph
from cprune_tf.litert.errors import ConversionError
from cprune_tf.litert.quantization import CASTS, Quantized

# How far above the rest of its values a tensor's largest one has to be to be called an outlier.
_OUTLIER_RATIO = 3.0
_RARE = 0.001  # the fraction of values that may be outliers
# How many times the median range of its channels a tensor's range has to be to be called uneven.
_UNEVEN_RATIO = 8.0
_SAMPLES = 4096  # values of a tensor for each image that quantiles are taken from


@dataclasses.dataclass(frozen=True)
class LayerError:
    """The error of one operator's output in an int8 file.

    Attributes:
        layers: The Keras layers that the operator is known to compute.
        code: The name of its operator code: "CONV_2D", ...
        signal_to_noise_db: Of its output, with the errors of all operators before it.
        input_db: The lowest such ratio among its inputs; infinite if all of them are exact.
        storage_db: Of its output, had it been computed exactly and stored as int8; infinite if it
            is stored as float32.
        weight_db: Of its weights; infinite if it has none or they are float32.
        introduced: Power of the noise that this operator adds, as a fraction of the signal's: the
            output's fraction less the largest of its inputs'. Not below 0.
        reason: Where most of the error comes from, in words.
    """

    layers: tuple[str, ...]
    code: str
    signal_to_noise_db: float
    input_db: float
    storage_db: float
    weight_db: float
    introduced: float
    reason: str


def compare_layers(
    quantized: Quantized, images: conversion.Images, *, num_images: int = 16
) -> tuple[LayerError, ...]:
    """Compares the outputs of all operators of an int8 model with those of its float32 twin.

    Args:
        quantized: The int8 model.
        images: Preprocessed images, as for `quantize`, at best others than those.
        num_images: Number of images to use.

    Returns:
        One entry for each operator that has the same output in both files, the one that adds the
        largest share of noise first.

    Raises:
        ConversionError: The images do not fit the model, or LiteRT cannot run a file.
    """
    arrays = conversion.as_arrays(quantized.graph.model, images)
    arrays = [array[:num_images] for array in arrays]
    operators = tflite_graph.read_operators(quantized.content, quantized.graph)
    exact = {
        operator.outputs[0].name: operator
        for operator in tflite_graph.read_operators(quantized.float_content, quantized.graph)
    }
    compared = [op for op in operators if op.code not in CASTS and op.outputs[0].name in exact]
    sums = {op.outputs[0].name: _Sums(op.outputs[0]) for op in compared}
    true_tensors, found_tensors = (
        _Tensors(content, list(sums)) for content in (quantized.float_content, quantized.content)
    )
    for number in range(len(arrays[0])):
        inputs = [array[number : number + 1] for array in arrays]
        true, found = true_tensors.run(inputs), found_tensors.run(inputs)
        for name, total in sums.items():
            total.add(true[name], found[name])
    inputs_db = {name: total.signal_to_noise_db for name, total in sums.items()}
    for operator in operators:
        # What an operator reads from a conversion has the errors of what was converted.
        if operator.code in CASTS and operator.inputs[0].name in inputs_db:
            inputs_db[operator.outputs[0].name] = inputs_db[operator.inputs[0].name]
    errors = [
        _error(op, exact[op.outputs[0].name], quantized, sums[op.outputs[0].name], inputs_db)
        for op in compared
    ]
    return tuple(sorted(errors, key=lambda error: -error.introduced))


class _Tensors:
    """A file in an interpreter that keeps all its tensors."""

    def __init__(self, content: bytes, names: Sequence[str]) -> None:
        from ai_edge_litert import interpreter as litert

        try:
            with native_output.silenced():
                self._interpreter = litert.Interpreter(
                    model_content=content,
                    experimental_preserve_all_tensors=True,
                    # XNNPACK would keep the tensors between its operators to itself.
                    experimental_op_resolver_type=(
                        litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
                    ),
                )
                self._interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise ConversionError(f"LiteRT cannot run the file: {error}") from error
        signature = self._interpreter.get_signature_runner().get_input_details()
        self._inputs = [signature[name] for name in sorted(signature)]
        indices = {d["name"]: d["index"] for d in self._interpreter.get_tensor_details()}
        self._indices = {name: indices[name] for name in names}

    def run(self, inputs: Sequence[npt.NDArray[np.float32]]) -> dict[str, npt.NDArray[Any]]:
        """Returns the tensors by name, as they are stored."""
        for detail, value in zip(self._inputs, inputs, strict=True):
            if np.dtype(detail["dtype"]).kind != "f":
                scale, zero_point = detail["quantization"]
                value = np.clip(np.rint(value / scale) + zero_point, -128, 127)
            self._interpreter.set_tensor(detail["index"], value.astype(detail["dtype"]))
        self._interpreter.invoke()
        return {name: self._interpreter.get_tensor(i) for name, i in self._indices.items()}


class _Sums:
    """Sums over images for one tensor."""

    def __init__(self, tensor: tflite_graph.FileTensor) -> None:
        self._tensor = tensor
        self._signal = self._noise = self._storage_noise = self._clipping_noise = 0.0
        self._samples: list[npt.NDArray[np.float32]] = []
        self._ranges: npt.NDArray[np.float32] | None = None

    def add(self, true: npt.NDArray[np.float32], stored: npt.NDArray[Any]) -> None:
        """Adds one image.

        Args:
            true: The tensor's values in the float32 file.
            stored: What the int8 file has in the tensor.
        """
        self._signal += float(np.sum(np.square(true, dtype=np.float64)))
        noise = self._tensor.dequantized(stored) - true
        self._noise += float(np.sum(np.square(noise, dtype=np.float64)))
        storage_noise = np.square(self._tensor.rounded(true) - true, dtype=np.float64)
        self._storage_noise += float(np.sum(storage_noise))
        if len(self._tensor.scales):
            # Rounding moves a value by half a step at most.
            clipped = storage_noise > np.square(0.51 * self._tensor.scales[0])
            self._clipping_noise += float(np.sum(storage_noise[clipped]))
        sizes = np.abs(true)
        ranges = sizes.reshape(-1, true.shape[-1] if true.ndim else 1).max(axis=0)
        self._ranges = ranges if self._ranges is None else np.maximum(self._ranges, ranges)
        self._samples.append(sizes.ravel()[:: max(1, sizes.size // _SAMPLES)])

    @property
    def signal_to_noise_db(self) -> float:
        """Of the tensor, with all errors so far."""
        return _decibels(self._signal, self._noise)

    @property
    def storage_db(self) -> float:
        """Of the exact values, stored as the int8 file stores them."""
        return _decibels(self._signal, self._storage_noise)

    def describe_range(self) -> str:
        """Says why storing the tensor with one scale changes its values as much as it does."""
        assert self._ranges is not None
        largest = float(self._ranges.max())
        if self._clipping_noise > 0.5 * self._storage_noise:
            return (
                "its values exceed the range that the representative images showed, and are "
                f"clipped ({self._clipping_noise / self._storage_noise:.0%} of the error)"
            )
        usual = float(np.quantile(np.concatenate(self._samples), 1 - _RARE))
        if usual > 0 and largest > _OUTLIER_RATIO * usual:
            return (
                f"outliers in its output: the largest value is {largest / usual:.0f} times as "
                f"large as {1 - _RARE:.1%} of them"
            )
        median = float(np.median(self._ranges[self._ranges > 0])) if largest > 0 else 0.0
        if median > 0 and largest > _UNEVEN_RATIO * median:
            return (
                f"one scale for channels of different ranges: the widest is {largest / median:.0f} "
                "times as wide as the median"
            )
        return "its output is rounded to 256 steps"


def _error(
    operator: tflite_graph.FileOperator,
    exact: tflite_graph.FileOperator,
    quantized: Quantized,
    sums: _Sums,
    inputs_db: dict[str, float],
) -> LayerError:
    output_db = sums.signal_to_noise_db
    input_db = min(
        (inputs_db[t.name] for t in operator.inputs if t.name in inputs_db), default=math.inf
    )
    weight_db = _weight_db(operator, exact)
    return LayerError(
        layers=tflite_graph.layer_names(exact, quantized.graph),
        code=operator.code,
        signal_to_noise_db=output_db,
        input_db=input_db,
        storage_db=sums.storage_db,
        weight_db=weight_db,
        introduced=max(0.0, 10 ** (-output_db / 10) - 10 ** (-input_db / 10)),
        reason=_reason(operator, sums, input_db, weight_db),
    )


def _reason(
    operator: tflite_graph.FileOperator, sums: _Sums, input_db: float, weight_db: float
) -> str:
    lowest = min(input_db, weight_db, sums.storage_db)
    if lowest == math.inf:
        return "exact" if sums.signal_to_noise_db == math.inf else "rounding inside the operator"
    if lowest == input_db:
        return "errors of the layers before it"
    if lowest == sums.storage_db:
        return sums.describe_range()
    if operator.code == "DEPTHWISE_CONV_2D":
        return "its depthwise weights, few to a channel, are rounded to 255 steps"
    return "its weights are rounded to 255 steps"


def _weight_db(operator: tflite_graph.FileOperator, exact: tflite_graph.FileOperator) -> float:
    stored, true = operator.weight, exact.weight
    if stored is None or true is None or stored.data is None or true.data is None:
        return math.inf
    values = true.data.astype(np.float64)
    noise = stored.dequantized(stored.data) - values
    return _decibels(float(np.sum(values**2)), float(np.sum(noise**2)))


def _decibels(signal: float, noise: float) -> float:
    if noise <= 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf
