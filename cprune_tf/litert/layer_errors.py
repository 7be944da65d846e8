"""Compares an int8 file with the float32 file that it was made from, layer by layer.

A channel's share of noise is the power of the difference over the power of the float32 values; it
counts as 1 where it is more, since then the channel is lost. A tensor's is the mean over its
channels: a channel of small values that is rounded away may be all that the next layer looks at.
Shares are given as signal-to-noise ratios in decibels: 40 dB is an error of one per cent, 20 dB of
ten. Three of them tell where an error comes from: that of the output in the int8 file (with all
errors so far), that of the output if it were only stored as int8, and that of the weights.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Collection, Mapping, Sequence
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
# Channels are called uneven where their mean share of noise is this many times the whole tensor's.
_UNEVEN_RATIO = 4.0
_SAMPLES = 4096  # values of a tensor for each image that quantiles are taken from


@dataclasses.dataclass(frozen=True)
class LayerError:
    """The error of one operator's output in an int8 file.

    Attributes:
        layers: The Keras layers that the operator is known to compute.
        code: The name of its operator code: "CONV_2D", ...
        signal_to_noise_db: Of its output, with the errors of all operators before it.
        input_db: The lowest such ratio among its inputs; infinite if all of them are exact, as the
            model's inputs are.
        storage_db: Of its output, had it been computed exactly and stored as int8; infinite if it
            is stored as float32.
        weight_db: Of its weights; infinite if it has none or they are float32.
        introduced: The share of noise (0..1) that this operator adds: its output's less the largest
            of its inputs'. Not below 0.
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
    final = _final_tensors(operators)
    sums, powers = _measure(quantized, compared, exact, arrays, final)
    shares = {name: total.noise_share for name, total in sums.items()}
    for operator in operators:
        # What an operator reads from a conversion has the errors of what was converted.
        if operator.code in CASTS and operator.inputs[0].name in shares:
            shares[operator.outputs[0].name] = shares[operator.inputs[0].name]
    errors = []
    for operator in compared:
        twin = exact[operator.outputs[0].name]
        layers = tflite_graph.layer_names(twin, quantized.graph)
        output_power = sums[operator.outputs[0].name].mean_square
        weight_share = _weight_noise_share(operator, twin, powers, output_power)
        errors.append(_error(operator, layers, sums, shares, weight_share))
    return tuple(sorted(errors, key=lambda error: -error.introduced))


def _measure(
    quantized: Quantized,
    compared: Sequence[tflite_graph.FileOperator],
    exact: Mapping[str, tflite_graph.FileOperator],
    arrays: Sequence[npt.NDArray[np.float32]],
    final: set[str],
) -> tuple[dict[str, _Sums], dict[str, npt.NDArray[np.float64]]]:
    """Runs both files.

    Returns:
        Sums for the output of each compared operator; and for the tensors that weights are
        multiplied with, each channel's mean square in the float32 file, summed over the images.
        Both by the tensor's name.
    """
    outputs = [op.outputs[0] for op in compared]
    sums = {tensor.name: _Sums(tensor, tensor.name in final) for tensor in outputs}
    factors = {op.product.factor.name for op in exact.values() if op.product is not None}
    powers: dict[str, npt.NDArray[np.float64]] = {}
    true_tensors = _Tensors(quantized.float_content, {*sums, *factors})
    found_tensors = _Tensors(quantized.content, set(sums))
    for number in range(len(arrays[0])):
        inputs = [array[number : number + 1] for array in arrays]
        true, found = true_tensors.run(inputs), found_tensors.run(inputs)
        for name, total in sums.items():
            total.add(true[name], found[name])
        for name in factors:
            powers[name] = powers.get(name, 0.0) + _mean_square(true[name])
    return sums, powers


def _final_tensors(operators: Sequence[tflite_graph.FileOperator]) -> set[str]:
    """Returns the names of the tensors that only conversions to the model's outputs read."""
    read = {t.name for op in operators if op.code not in CASTS for t in op.inputs}
    return {t.name for op in operators for t in op.outputs} - read


class _Tensors:
    """A file in an interpreter that keeps all its tensors."""

    def __init__(self, content: bytes, names: Collection[str]) -> None:
        from ai_edge_litert import interpreter as litert

        try:
            with native_output.silenced(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that keeping all tensors takes memory
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
    """Sums over images for one tensor, by channel.

    An output of the model counts as one channel: no layer looks at one of its channels alone.
    """

    def __init__(self, tensor: tflite_graph.FileTensor, final: bool) -> None:
        self._tensor = tensor
        self._final = final
        self.mean_square: npt.NDArray[np.float64] = np.zeros(1)  # of each channel
        self._signal: npt.NDArray[np.float64] = np.zeros(1)
        self._noise: npt.NDArray[np.float64] = np.zeros(1)
        self._storage_noise: npt.NDArray[np.float64] = np.zeros(1)
        self._clipping_noise: npt.NDArray[np.float64] = np.zeros(1)
        self._ranges: npt.NDArray[np.float32] = np.zeros(1, np.float32)
        self._samples: list[npt.NDArray[np.float32]] = []

    def add(self, true: npt.NDArray[np.float32], stored: npt.NDArray[Any]) -> None:
        """Adds one image.

        Args:
            true: The tensor's values in the float32 file.
            stored: What the int8 file has in the tensor.
        """
        self.mean_square = self.mean_square + _mean_square(true)
        self._signal = self._signal + _channel_power(true)
        self._noise = self._noise + _channel_power(self._tensor.dequantized(stored) - true)
        storage_noise = self._tensor.rounded(true) - true
        self._storage_noise = self._storage_noise + _channel_power(storage_noise)
        if len(self._tensor.scales):
            # Rounding moves a value by half a step at most.
            clipped = np.abs(storage_noise) > 0.51 * self._tensor.scales[0]
            self._clipping_noise = self._clipping_noise + _channel_power(storage_noise * clipped)
        sizes = np.abs(true)
        self._ranges = np.maximum(self._ranges, _by_channel(sizes).max(axis=0))
        self._samples.append(sizes.ravel()[:: max(1, sizes.size // _SAMPLES)])

    @property
    def noise_share(self) -> float:
        """Of the tensor, with all errors so far."""
        return self._share(self._noise)

    @property
    def storage_share(self) -> float:
        """Of the exact values, stored as the int8 file stores them."""
        return self._share(self._storage_noise)

    def _share(self, noise: npt.NDArray[np.float64]) -> float:
        if self._final:
            return _share(self._signal.sum(keepdims=True), noise.sum(keepdims=True))
        return _share(self._signal, noise)

    def describe_range(self) -> str:
        """Says why storing the tensor with one scale changes its values as much as it does."""
        largest = float(self._ranges.max())
        clipped = self._share(self._clipping_noise) / max(self.storage_share, 1e-30)
        if clipped > 0.5:
            return (
                "its values exceed the range that the representative images showed, and are "
                f"clipped ({clipped:.0%} of the error)"
            )
        together = float(self._storage_noise.sum() / max(self._signal.sum(), 1e-30))
        if self.storage_share > _UNEVEN_RATIO * together:
            narrow = float(np.quantile(self._ranges[self._ranges > 0], 0.1))
            return (
                f"one scale for channels of different ranges: the widest is {largest / narrow:.0f} "
                "times as wide as the narrowest tenth"
            )
        usual = float(np.quantile(np.concatenate(self._samples), 1 - _RARE))
        if largest > _OUTLIER_RATIO * usual > 0:
            return (
                f"outliers in its output: the largest value is {largest / usual:.0f} times as "
                f"large as {1 - _RARE:.1%} of them"
            )
        return "its output is rounded to 256 steps"


def _error(
    operator: tflite_graph.FileOperator,
    layers: tuple[str, ...],
    sums: Mapping[str, _Sums],
    shares: Mapping[str, float],
    weight_share: float,
) -> LayerError:
    own = sums[operator.outputs[0].name]
    input_share = max((shares.get(tensor.name, 0.0) for tensor in operator.inputs), default=0.0)
    causes = {
        "errors of the layers before it": input_share,
        own.describe_range(): own.storage_share,
        "its weights are rounded to 255 steps, with one scale for each of its outputs": (
            weight_share
        ),
    }
    reason = max(causes, key=lambda cause: causes[cause])
    if not causes[reason]:
        reason = "rounding inside the operator" if own.noise_share else "exact"
    return LayerError(
        layers=layers,
        code=operator.code,
        signal_to_noise_db=_decibels(own.noise_share),
        input_db=_decibels(input_share),
        storage_db=_decibels(own.storage_share),
        weight_db=_decibels(weight_share),
        introduced=max(0.0, own.noise_share - input_share),
        reason=reason,
    )


def _weight_noise_share(
    operator: tflite_graph.FileOperator,
    exact: tflite_graph.FileOperator,
    powers: Mapping[str, npt.NDArray[np.float64]],
    output_power: npt.NDArray[np.float64],
) -> float:
    """Estimates the share of noise that rounded weights cause in an operator's outputs.

    The error of a weight counts by the power of the channel that it is multiplied with, as if
    channels were independent of each other.
    """
    stored, true = operator.product, exact.product
    if stored is None or true is None or stored.weight.data is None or true.weight.data is None:
        return 0.0
    errors = stored.weight.dequantized(stored.weight.data) - true.weight.data
    noise = np.square(errors, dtype=np.float64)
    power = powers[true.factor.name]
    if true.channel_axis == -1:  # [1, height, width, outputs], each of one input
        by_output = _by_channel(noise).sum(axis=0)
        return _share(output_power, by_output * np.repeat(power, len(by_output) // len(power)))
    # [outputs, ..., inputs]; in groups, an output reads some of the inputs: all count as the mean.
    if noise.shape[-1] != len(power):
        power = np.full(noise.shape[-1], power.mean())
    by_output = noise.reshape(len(noise), -1, len(power)).sum(axis=1) @ power
    return _share(output_power, by_output)


def _by_channel(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Returns values as [positions, channels]; the last axis is that of channels."""
    return values.reshape(-1, values.shape[-1] if values.ndim else 1)


def _channel_power(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    return np.asarray(np.square(_by_channel(values), dtype=np.float64).sum(axis=0))


def _mean_square(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    return np.asarray(np.square(_by_channel(values), dtype=np.float64).mean(axis=0))


def _share(signal: npt.NDArray[np.float64], noise: npt.NDArray[np.float64]) -> float:
    """Returns the mean share of noise over the channels that are not always 0."""
    used = signal > 0
    if not used.any():
        return 0.0
    signal, noise = np.broadcast_arrays(signal, noise)
    return float(np.mean(np.minimum(noise[used] / signal[used], 1.0)))


def _decibels(share: float) -> float:
    return -10 * math.log10(share) if share > 0 else math.inf
