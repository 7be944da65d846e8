"""Helpers of several rules: channel axes, broadcasting, and activations of single values."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from cprune_tf.graph import keras_internals
from cprune_tf.graph.errors import GraphError
from cprune_tf.graph.flat import Shape
from cprune_tf.graph.keras_internals import Node
from cprune_tf.graph.labels import Axes, Labels
from cprune_tf.graph.rules.registry import LayerCall


def names_in(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


_POINTWISE = names_in(
    """
    celu elu exponential gelu hard_shrink hard_sigmoid hard_silu hard_tanh leaky_relu linear
    log_sigmoid mish relu relu6 selu sigmoid silu soft_shrink softplus softsign sparse_plus
    sparse_sigmoid squareplus tanh tanh_shrink threshold
    """
)
_NONZERO_AT_ZERO = names_in(
    """
    exponential hard_sigmoid log_sigmoid sigmoid softplus sparse_plus sparse_sigmoid squareplus
    threshold
    """
)


# The classes behind functions of `keras.ops` that act on each value alone.
UNARY_KEEPING_ZERO = names_in(
    """
    Absolute Abs Fabs Arcsin Arcsinh Arctan Arctanh Cast Cbrt Ceil Celu Copy Deg2rad Elu Erf Expm1
    Floor Gelu HardShrink HardSilu HardTanh LeakyRelu Log1p NanToNum Negative Rad2deg Relu Relu6
    Round SaturateCast Selu Sign Silu Sin Sinh SoftShrink Softsign Sqrt Square StopGradient Tan Tanh
    TanhShrink Trunc ZerosLike
    """
)
UNARY = names_in(
    """
    Arccos Arccosh Clip Cos Cosh Erfc Exp Exp2 FullLike HardSigmoid Isfinite Isinf Isnan Log Log10
    Log2 LogSigmoid LogicalNot OnesLike Reciprocal Rsqrt Sigmoid Sinc Softplus SparsePlus
    SparseSigmoid Squareplus Threshold
    """
)
BINARY = names_in(
    """
    Add Subtract Multiply Divide DivideNoNan TrueDivide Maximum Minimum Power Mod FloorDivide Fmax
    Fmin Fmod Hypot Arctan2 Logaddexp LogicalAnd LogicalOr LogicalXor Greater GreaterEqual Less
    LessEqual Equal NotEqual Where
    """
)
POINTWISE_OPERATIONS = {f"ops.{name}" for name in UNARY_KEEPING_ZERO | UNARY | BINARY}


def channel_axis(layer: Any, rank: int) -> int:
    """The number of the channel axis according to a layer's `data_format`."""
    first = getattr(layer, "data_format", "channels_last") == "channels_first"
    return 1 if first else rank - 1


def activation_name(function: Any) -> str:
    """An activation's name, or "" if the function is neither Keras's nor TensorFlow's."""
    name = getattr(function, "__name__", "")
    tensorflow = getattr(sys.modules.get("tensorflow"), "nn", None)
    homes = (keras.activations, keras.ops, tensorflow)
    return name if any(getattr(home, name, None) is function for home in homes) else ""


def is_pointwise(function: Any) -> bool:
    """Whether an activation acts on each value alone (a softmax does not)."""
    if function is None or activation_name(function):
        return function is None or activation_name(function) in _POINTWISE
    return bool(_own_activation(function))


def is_zero_at_zero(function: Any) -> bool:
    """Whether an activation maps zero to zero."""
    name = activation_name(function)
    if function is None or name:
        return function is None or (name in _POINTWISE and name not in _NONZERO_AT_ZERO)
    return bool(_own_activation(function)) and not np.any(function(np.zeros((1, 1), "float32")))


def _own_activation(function: Any) -> tuple[Node, ...]:
    """What a function of the user's calls, if all of it acts on each value alone; else nothing."""
    if isinstance(function, keras.layers.Layer):
        return ()
    try:
        nodes = keras_internals.trace_function(function).nodes
    except GraphError:
        return ()
    return nodes if all(map(_is_pointwise_call, nodes)) else ()


def _is_pointwise_call(node: Node) -> bool:
    kind = keras_internals.operation_kind(node.operation)
    values = keras.tree.flatten((node.args, node.kwargs))
    constants = [value for value in values if not isinstance(value, keras.KerasTensor)]
    return kind in POINTWISE_OPERATIONS and all(np.size(value) == 1 for value in constants)


def check_activation(call: LayerCall, labels: Labels | None) -> None:
    """Protects a layer's output channels if its activation may mix them."""
    function = getattr(call.layer, "activation", None)
    if not is_pointwise(function):
        name = getattr(function, "__name__", type(function).__name__)
        call.protect(labels, f"the activation '{name}' of {call.title} may mix channels")


def protect_others(call: LayerCall, axes: Axes, axis: int, what: str) -> Axes:
    """Protects the channels on all axes but `axis` and drops their labels.

    Args:
        call: The call.
        axes: The labels of each axis of an input.
        axis: The number of the axis that may carry channels.
        what: What the call does with the other axes, as part of the reason: "slides over".

    Returns:
        The labels with None on all other axes.
    """
    for position, labels in enumerate(axes):
        if position != axis:
            call.protect(labels, f"{call.title} {what} the axis that holds these channels")
    return tuple(labels if i == axis else None for i, labels in enumerate(axes))


def same_axes(call: LayerCall, groups: Sequence[tuple[Shape, Axes]], out: Shape) -> Axes:
    """Ties the channels of operands that are combined element by element.

    Args:
        call: The call.
        groups: The shape and the labels of each operand, padded to the output's rank with axes of
            size one.
        out: The output's shape.

    Returns:
        The labels of each axis of the output.
    """
    result: list[Labels | None] = []
    for axis, size in enumerate(out):
        operands = [axes[axis] for shape, axes in groups if shape[axis] != 1]
        labelled = [labels for labels in operands if labels is not None]
        if not labelled or size is None or size == 1:
            for labels in labelled:
                call.protect(labels, f"{call.title} broadcasts these channels")
            result.append(None)
            continue
        result.append(tied(call, operands, "combines them with values without channels"))
    return tuple(result)


def tied(call: LayerCall, operands: Sequence[Labels | None], what: str) -> Labels | None:
    """Ties the channels that several operands have on one axis, index by index.

    Args:
        call: The call.
        operands: The labels of each operand on this axis. If one of them is None (no channels on
            this axis), the channels of the others are protected.
        what: What the call does with operands without channels, as part of the reason.

    Returns:
        The labels of the first operand that has channels; None if no operand has.
    """
    labelled = [labels for labels in operands if labels is not None]
    if not labelled:
        return None
    for other in labelled[1:]:
        call.tie(labelled[0], other)
    if len(labelled) < len(operands):
        call.protect(labelled[0], f"{call.title} {what}")
    return labelled[0]


def pad_rank(shape: Shape, axes: Axes, rank: int, position: int) -> tuple[Shape, Axes]:
    """Inserts axes of size one at `position` until the rank is `rank`."""
    missing = rank - len(shape)
    ones: Shape = (1,) * missing
    empty: Axes = (None,) * missing
    return (
        shape[:position] + ones + shape[position:],
        axes[:position] + empty + axes[position:],
    )


def repeat(labels: Labels | None, times: int) -> Labels | None:
    """Repeats each label `times` times in a row."""
    return labels if labels is None or times == 1 else np.repeat(labels, times)
