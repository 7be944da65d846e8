"""Bias correction: rounded weights shift the mean of a layer's outputs; its bias takes that back.

Empirical bias correction of Nagel et al., "Data-Free Quantization Through Weight Equalization and
Bias Correction" (ICCV 2019), section 4.2 and appendix D: layer by layer in the order of the graph,
the mean of each output channel with rounded weights is compared with that of the float model on
representative images, and the difference is taken from the bias. Layers behind it see the
corrected outputs. A layer without a bias is corrected in the batch norm that follows it.
"""

from __future__ import annotations

import dataclasses
import typing
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from cprune_tf.graph import flat, keras_internals
from cprune_tf.graph.copying import copy_model
from cprune_tf.graph.flat import Call, FlatGraph, Tensor

_LEVELS = 127  # of int8 weights, which are symmetric
_MAX_BYTES = 2**27  # of the largest tensor for all images that are used
# Classes whose weights are quantised -> the axes of the kernel that output channels lie on.
CHANNEL_AXES: dict[type, tuple[int, ...]] = {
    keras.layers.Conv1D: (-1,),
    keras.layers.Conv2D: (-1,),
    keras.layers.Dense: (-1,),
    keras.layers.DepthwiseConv2D: (-2, -1),
}


@dataclasses.dataclass(frozen=True)
class BiasCorrection:
    """What a correction did.

    Attributes:
        corrected: Layer -> the largest correction, as a fraction of the standard deviation of the
            layer's outputs.
        skipped: Layers with quantised weights that could not be corrected: they are shared, or have
            neither a bias nor a batch norm of their own behind them.
        num_images: Number of images that means were taken over.
    """

    corrected: dict[str, float]
    skipped: tuple[str, ...]
    num_images: int


def correct_biases(
    model: keras.Model,
    images: Sequence[npt.NDArray[np.float32]],
    keep_float: Collection[str] = (),
) -> tuple[keras.Model, BiasCorrection]:
    """Makes a copy of a model whose biases make up for the rounding of its weights to int8.

    Args:
        model: A float32 model, functional or Sequential. It is not changed.
        images: One float32 array for each input, [num_images, ...]. The first ones are used, as
            many as memory allows.
        keep_float: Names of the layers whose weights are not rounded.

    Returns:
        The copy, with the weights of the model before rounding; and what was corrected.

    Raises:
        GraphError: The model's graph is not known.
    """
    # The exact model is a copy too: its activations are taken out for a moment.
    reference, twin = _copy(model), _copy(model)
    exact, rounded = flat.flatten(reference), flat.flatten(twin)
    count = _num_images(exact, len(images[0]))
    return twin, _Walk(exact, rounded, keep_float).run([array[:count] for array in images])


def rounded_kernel(layer: keras.layers.Layer) -> npt.NDArray[np.float32]:
    """Rounds a layer's kernel as int8 stores it: symmetric, one scale for each output channel.

    A batch norm behind the layer changes nothing: it scales whole channels.

    Args:
        layer: A layer whose weights are quantised: a convolution or a matrix product.

    Returns:
        The kernel with rounded values, of the same shape.
    """
    kernel, axes = np.asarray(layer.kernel), CHANNEL_AXES[type(layer)]
    others = tuple(a for a in range(kernel.ndim) if a - kernel.ndim not in axes)
    step = np.abs(kernel).max(axis=others, keepdims=True) / _LEVELS
    step = np.where(step > 0, step, 1.0)
    return typing.cast(npt.NDArray[np.float32], np.rint(kernel / step) * step)


def _copy(model: keras.Model) -> keras.Model:
    return copy_model(
        model, lambda layer: keras_internals.recreate_layer(layer, layer.get_config())
    )


def _num_images(graph: FlatGraph, available: int) -> int:
    sizes = [
        4 * int(np.prod([size or 1 for size in tensor.shape[1:]]))
        for call in graph.calls
        for tensor in call.outputs
    ]
    return min(available, max(8, _MAX_BYTES // max(sizes, default=1)))


class _Walk:
    """Computes both graphs side by side, one call at a time, and corrects on the way."""

    def __init__(self, exact: FlatGraph, rounded: FlatGraph, keep_float: Collection[str]) -> None:
        self._exact = exact
        self._rounded = rounded
        self._keep_float = keep_float
        self._num_calls = Counter(id(call.operation) for call in rounded.calls)
        self._readers: dict[Tensor, list[Call]] = {}
        for call in rounded.calls:
            for tensor in call.inputs:
                self._readers.setdefault(tensor, []).append(call)
        self._outputs = set(keras.tree.flatten(rounded.outputs))
        self._corrected: dict[str, float] = {}
        self._skipped: list[str] = []

    def run(self, images: Sequence[npt.NDArray[np.float32]]) -> BiasCorrection:
        """Corrects the biases of the rounded graph, whose kernels are exact again afterwards."""
        tensors = [keras.ops.convert_to_tensor(array) for array in images]
        true: dict[Tensor, Any] = dict(zip(self._exact.inputs, tensors, strict=True))
        found: dict[Tensor, Any] = dict(zip(self._rounded.inputs, tensors, strict=True))
        num_left = {tensor: len(calls) for tensor, calls in self._readers.items()}
        for call, twin in zip(self._exact.calls, self._rounded.calls, strict=True):
            if type(twin.operation) in CHANNEL_AXES and twin.name not in self._keep_float:
                self._correct(call, twin, true, found)
            else:
                _compute(call, true)
                _compute(twin, found)
            for mine, other in zip(twin.inputs, call.inputs, strict=True):
                num_left[mine] -= 1
                if not num_left[mine]:  # large tensors are freed as soon as nothing reads them
                    found.pop(mine, None)
                    true.pop(other, None)
        return BiasCorrection(self._corrected, tuple(self._skipped), len(images[0]))

    def _correct(
        self, call: Call, twin: Call, true: dict[Tensor, Any], found: dict[Tensor, Any]
    ) -> None:
        """Computes one layer with exact and with rounded weights and corrects the latter."""
        layer, exact = twin.operation, call.operation
        activation, kernel = exact.activation, np.asarray(layer.kernel).copy()
        exact.activation = layer.activation = keras.activations.linear
        try:
            layer.kernel.assign(rounded_kernel(layer))
            _compute(call, true)
            _compute(twin, found)
        finally:
            exact.activation = layer.activation = activation
            layer.kernel.assign(kernel)
        expected, received = true[call.outputs[0]], found[twin.outputs[0]]
        axes = list(range(len(expected.shape) - 1))
        shift = keras.ops.mean(expected - received, axis=axes)
        holder = self._holder(twin, shift)
        if holder is not None:
            if holder is twin.operation:
                holder.bias.assign_add(shift)
                received = received + shift
            else:  # the norm, whose call comes later, adds the shift
                holder.moving_mean.assign_sub(shift)
            spread = np.maximum(np.asarray(keras.ops.std(expected, axis=axes)), 1e-12)
            self._corrected[twin.name] = float(np.max(np.abs(np.asarray(shift)) / spread))
        else:
            self._skipped.append(twin.name)
        true[call.outputs[0]] = activation(expected)
        found[twin.outputs[0]] = activation(received)

    def _holder(self, call: Call, shift: Any) -> Any:
        """Returns the layer that can add a constant to each channel of a call's output, if any."""
        layer = call.operation
        if self._num_calls[id(layer)] > 1 or getattr(layer, "data_format", "") == "channels_first":
            return None
        if layer.use_bias:
            return layer
        readers = self._readers.get(call.outputs[0], [])
        if len(readers) != 1 or call.outputs[0] in self._outputs:
            return None
        norm = readers[0].operation
        if (
            type(norm) is not keras.layers.BatchNormalization
            or self._num_calls[id(norm)] > 1
            or norm.moving_mean.shape != shift.shape
            or layer.activation is not keras.activations.linear
        ):
            return None
        return norm


def _compute(call: Call, values: dict[Tensor, Any]) -> None:
    """Computes the outputs of a call from the values of its inputs."""

    def value_of(value: Any) -> Any:
        return values[value] if isinstance(value, Tensor) else value

    args, kwargs = keras.tree.map_structure(value_of, (call.args, dict(call.kwargs)))
    if "training" in kwargs:
        kwargs["training"] = False
    results = keras.tree.flatten(call.operation(*args, **kwargs))
    values.update(zip(call.outputs, results, strict=True))
