"""Computes a model in training with the rounding of its int8 file (fake quantisation).

Jacob et al. (CVPR 2018), section 3: weights and outputs are rounded in the forward pass, while the
gradients pass as if they were not (straight through), except where a range clips.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from cprune_tf.graph import flat
from cprune_tf.graph.flat import Call, Tensor
from cprune_tf.litert.bias_correction import CHANNEL_AXES
from cprune_tf.litert.imitation import Rounding
from cprune_tf.training.errors import TrainingError

# A range grows at once to hold a batch's extremes, and shrinks by this part of the gap in a step:
# it stays near the extremes of some hundred images, which the file's ranges will be.
_SHRINKING = 0.05
# Of a range: TensorFlow's operator refuses an empty one.
_LEAST_WIDTH = 1e-12


class RoundedForward:
    """Computes a model as its int8 file does, up to single steps of rounding.

    Batch normalisation uses its moving statistics, as in the file; gamma and beta are trained. A
    kernel is rounded before the batch norm behind it, which comes to the same, since each output
    channel has its own scale.

    Args:
        model: Float32; the calls of its flat graph are those of `rounding`.
        rounding: Where to round, and the ranges to begin with.

    Attributes:
        variables: The ranges, which follow the values in training.
        name: Equal for equal places and first ranges.
    """

    def __init__(self, model: keras.Model, rounding: Rounding) -> None:
        self._graph = flat.flatten(model)
        self._rounding = rounding
        names = tuple(call.name for call in self._graph.calls)
        if names != rounding.calls:
            raise TrainingError(
                f"Model {model.name!r} has the calls {', '.join(names)}; expected those that the "
                f"int8 file was made from: {', '.join(rounding.calls)}."
            )
        lows, highs = zip(*rounding.ranges, strict=True)
        self._low = tf.Variable(lows, trainable=False, dtype=tf.float32)
        self._high = tf.Variable(highs, trainable=False, dtype=tf.float32)
        self.variables: Sequence[tf.Variable] = (self._low, self._high)
        self.name = hashlib.sha256(repr(rounding).encode()).hexdigest()

    def __call__(self, images: Any, training: bool = True) -> Any:
        """Computes the model's outputs.

        Args:
            images: [batch, height, width, channels] float32; of another task, its inputs, nested
                as the model takes them.
            training: Whether dropout drops, and ranges follow the values.

        Returns:
            The model's outputs, nested as it gives them.
        """
        extremes = _Extremes(len(self._rounding.ranges))
        inputs = keras.tree.flatten(images)
        values: dict[Tensor, Any] = dict(zip(self._graph.inputs, inputs, strict=True))
        for position, number in self._rounding.inputs.items():
            values[self._graph.inputs[position]] = self._rounded(inputs[position], number, extremes)
        for position, call in enumerate(self._graph.calls):
            results = self._computed(position, call, values, training)
            if position in self._rounding.outputs:
                number = self._rounding.outputs[position]
                results[0] = self._rounded(results[0], number, extremes)
            values.update(zip(call.outputs, results, strict=True))
        if training:
            self._follow(extremes)
        return keras.tree.map_structure(lambda tensor: values[tensor], self._graph.outputs)

    def end_epoch(self, done: int, planned: int) -> dict[str, float]:
        """See Forward: ranges follow each batch, so there is nothing to change."""
        return {}

    def _computed(
        self, position: int, call: Call, values: dict[Tensor, Any], training: bool
    ) -> list[Any]:
        """Returns the outputs of a call before they are rounded."""

        def value_of(value: Any) -> Any:
            return values[value] if isinstance(value, Tensor) else value

        args, kwargs = keras.tree.map_structure(value_of, (call.args, dict(call.kwargs)))
        if call.is_layer and kwargs.get("training") is None:
            is_norm = isinstance(call.operation, keras.layers.BatchNormalization)
            kwargs["training"] = training and not is_norm
        if position not in self._rounding.weights:
            return list(keras.tree.flatten(call.operation(*args, **kwargs)))
        kernel = call.operation.kernel
        rounded = rounded_weights(kernel.value, len(CHANNEL_AXES[type(call.operation)]))
        with keras.StatelessScope(state_mapping=[(kernel, rounded)]):
            return list(keras.tree.flatten(call.operation(*args, **kwargs)))

    def _rounded(self, values: tf.Tensor, number: int, extremes: _Extremes) -> tf.Tensor:
        extremes.add(number, values)
        low, high = self._low[number], self._high[number]
        high = tf.maximum(high, low + _LEAST_WIDTH)
        return tf.quantization.fake_quant_with_min_max_vars(values, low, high)

    def _follow(self, extremes: _Extremes) -> None:
        for limit, found, wider in (
            (self._low, extremes.lows(self._low), tf.minimum),
            (self._high, extremes.highs(self._high), tf.maximum),
        ):
            limit.assign(wider(found, limit + _SHRINKING * (found - limit)))


class _Extremes:
    """The least and greatest values that a batch has in each range."""

    def __init__(self, count: int) -> None:
        self._lows: list[list[tf.Tensor]] = [[] for _ in range(count)]
        self._highs: list[list[tf.Tensor]] = [[] for _ in range(count)]

    def add(self, number: int, values: tf.Tensor) -> None:
        """Adds the values of one tensor."""
        values = tf.stop_gradient(values)
        self._lows[number].append(tf.reduce_min(values))
        self._highs[number].append(tf.reduce_max(values))

    def lows(self, unseen: tf.Variable) -> tf.Tensor:
        """Returns the least values, never above 0; of ranges without values, what is given."""
        found = [
            tf.minimum(tf.reduce_min(one), 0.0) if one else unseen[number]
            for number, one in enumerate(self._lows)
        ]
        return tf.stack(found)

    def highs(self, unseen: tf.Variable) -> tf.Tensor:
        """Returns the greatest values, never below 0; of ranges without values, what is given."""
        found = [
            tf.maximum(tf.reduce_max(one), 0.0) if one else unseen[number]
            for number, one in enumerate(self._highs)
        ]
        return tf.stack(found)


def rounded_weights(kernel: tf.Tensor, num_channel_axes: int) -> tf.Tensor:
    """Rounds a kernel as int8 stores it; all gradients pass.

    Args:
        kernel: float32; its last axes are those of output channels.
        num_channel_axes: How many.

    Returns:
        The rounded kernel: symmetric, 255 steps, one scale for each output channel.
    """
    kernel = tf.convert_to_tensor(kernel)
    exact = tf.stop_gradient(kernel)
    channels = math.prod(kernel.shape[-num_channel_axes:])
    filters = tf.reshape(exact, [-1, channels])
    largest = tf.maximum(tf.reduce_max(tf.abs(filters), axis=0), _LEAST_WIDTH)
    rounded = tf.quantization.fake_quant_with_min_max_vars_per_channel(
        filters, -largest, largest, narrow_range=True
    )
    return kernel + (tf.reshape(rounded, kernel.shape) - exact)
