"""Converters of `keras.ops` calls on Keras tensors: `x * 2`, `ops.reshape(x, ...)`, `x[:, 0]`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import relax

from cprune_tf.compiler.importer.emitter import Emitter, as_float, dtype, scalar, shape
from cprune_tf.compiler.importer.merging import concatenate
from cprune_tf.compiler.importer.normalization import normalize
from cprune_tf.compiler.importer.registry import UnsupportedOperationError, register_converter
from cprune_tf.compiler.importer.shaping import reshape
from cprune_tf.graph.fused_layers import to_numpy

_op = relax.op

_UNARY = {
    "Absolute": _op.abs,
    "Abs": _op.abs,
    "Arctan": _op.atan,
    "Ceil": _op.ceil,
    "Cos": _op.cos,
    "Erf": _op.erf,
    "Exp": _op.exp,
    "Floor": _op.floor,
    "Log": _op.log,
    "LogicalNot": _op.logical_not,
    "Negative": _op.negative,
    "Rsqrt": _op.rsqrt,
    "Sign": _op.sign,
    "Sin": _op.sin,
    "Sqrt": _op.sqrt,
    "Square": _op.square,
}
_ARITHMETIC = {
    "Add": _op.add,
    "Subtract": _op.subtract,
    "Multiply": _op.multiply,
    "Divide": _op.divide,
    "TrueDivide": _op.divide,
    "FloorDivide": _op.floor_divide,
    "Power": _op.power,
    "Maximum": _op.maximum,
    "Minimum": _op.minimum,
    "Mod": _op.floor_mod,
}
_COMPARISONS = {
    "Equal": _op.equal,
    "NotEqual": _op.not_equal,
    "Greater": _op.greater,
    "GreaterEqual": _op.greater_equal,
    "Less": _op.less,
    "LessEqual": _op.less_equal,
    "LogicalAnd": _op.logical_and,
    "LogicalOr": _op.logical_or,
}
_REDUCTIONS = {
    "Mean": _op.mean,
    "Sum": _op.sum,
    "Max": _op.max,
    "Amax": _op.max,
    "Min": _op.min,
    "Amin": _op.min,
    "Prod": _op.prod,
    "Var": _op.variance,
    "Std": _op.std,
}


def is_var(value: Any) -> bool:
    """Whether an argument is a tensor of the graph, as opposed to a number or an array."""
    return isinstance(value, relax.Var)


def operand(emitter: Emitter, value: Any, target_type: str, role: str) -> Any:
    """Converts a call's argument to an operand.

    Args:
        emitter: Receives the operand's cast or parameter, if it needs one.
        value: A tensor of the graph, a number or an array.
        target_type: The element type of the operand.
        role: The role of the parameter that holds an array.

    Returns:
        A variable, or a constant for a number.
    """
    if is_var(value):
        return cast(emitter, value, target_type)
    array = to_numpy(value)
    if array.ndim == 0:
        return relax.const(array.astype(target_type).item(), target_type)
    return emitter.param(role, array, dtype=target_type)


def operands(emitter: Emitter, values: Sequence[Any]) -> list[Any]:
    """Converts a sequence of arguments to operands "x0", "x1", ... in the result's type."""
    return [
        operand(emitter, value, emitter.output_dtype, f"x{index}")
        for index, value in enumerate(values)
    ]


def cast(emitter: Emitter, x: Any, target_type: str) -> Any:
    """Casts a variable, unless it has the target type already."""
    return x if dtype(x) == target_type else emitter.emit(_op.astype(x, target_type))


def _registry_keys(table: dict[str, Any]) -> list[str]:
    return [f"ops.{name}" for name in table]


@register_converter(*_registry_keys(_UNARY))
def convert_unary(emitter: Emitter, operation: Any, x: Any) -> Any:
    """Converts an elementwise function of one tensor."""
    return emitter.emit(_UNARY[type(operation).__name__](x))


@register_converter("ops.Reciprocal")
def convert_reciprocal(emitter: Emitter, operation: Any, x: Any) -> Any:
    """Converts 1 / x."""
    return emitter.emit(_op.divide(scalar(1.0, x), x))


@register_converter(*_registry_keys(_ARITHMETIC))
def convert_arithmetic(emitter: Emitter, operation: Any, x1: Any, x2: Any) -> Any:
    """Converts arithmetic on two operands, which are broadcast and cast to the result's type."""
    left = operand(emitter, x1, emitter.output_dtype, "x1")
    right = operand(emitter, x2, emitter.output_dtype, "x2")
    return emitter.emit(_ARITHMETIC[type(operation).__name__](left, right))


@register_converter(*_registry_keys(_COMPARISONS))
def convert_comparison(emitter: Emitter, operation: Any, x1: Any, x2: Any) -> Any:
    """Converts a comparison of two operands, which are broadcast; the result is boolean.

    The operands are compared in the wider type of those that are tensors of the graph.
    """
    common_type = str(np.result_type(*(dtype(x) for x in (x1, x2) if is_var(x))))
    left = operand(emitter, x1, common_type, "x1")
    right = operand(emitter, x2, common_type, "x2")
    return emitter.emit(_COMPARISONS[type(operation).__name__](left, right))


@register_converter(*_registry_keys(_REDUCTIONS))
def convert_reduction(emitter: Emitter, operation: Any, x: Any) -> Any:
    """Converts a reduction over some axes or all of them."""
    name, axis = type(operation).__name__, operation.axis
    if getattr(operation, "initial", None) is not None:
        raise UnsupportedOperationError(f"initial is {operation.initial!r}; expected None")
    axes = list(axis) if isinstance(axis, tuple | list) else axis
    keepdims = bool(operation.keepdims)
    x = as_float(emitter, x) if name in ("Mean", "Var", "Std") else x
    return emitter.emit(_REDUCTIONS[name](x, axis=axes, keepdims=keepdims))


@register_converter("ops.Argmax", "ops.Argmin")
def convert_arg(emitter: Emitter, operation: Any, x: Any) -> Any:
    """Converts the search for the index of the largest or smallest element."""
    function = _op.argmax if type(operation).__name__ == "Argmax" else _op.argmin
    y = function(x, axis=operation.axis, keepdims=bool(operation.keepdims))
    return emitter.emit(_op.astype(y, emitter.output_dtype))


@register_converter("ops.Clip")
def convert_clip(emitter: Emitter, operation: Any, x: Any) -> Any:
    """Converts the limitation of values by a smallest and a largest number."""
    return emitter.emit(_op.clip(x, float(operation.x_min), float(operation.x_max)))


@register_converter("ops.Cast")
def convert_cast(emitter: Emitter, operation: Any, x: Any) -> Any:
    """Converts a cast to another type."""
    return cast(emitter, x, emitter.output_dtype)


@register_converter("ops.Where")
def convert_where(
    emitter: Emitter, operation: Any, condition: Any, x1: Any = None, x2: Any = None
) -> Any:
    """Converts the elementwise choice between two operands by a condition."""
    return emitter.emit(
        _op.where(
            operand(emitter, condition, "bool", "condition"),
            operand(emitter, x1, emitter.output_dtype, "x1"),
            operand(emitter, x2, emitter.output_dtype, "x2"),
        )
    )


@register_converter("ops.Matmul")
def convert_matmul(emitter: Emitter, operation: Any, x1: Any, x2: Any) -> Any:
    """Converts a matrix product."""
    left = operand(emitter, x1, emitter.output_dtype, "x1")
    right = operand(emitter, x2, emitter.output_dtype, "x2")
    return emitter.emit(_op.matmul(left, right))


@register_converter("ops.Einsum")
def convert_einsum(emitter: Emitter, operation: Any, *values: Any) -> Any:
    """Converts an Einstein sum."""
    if "." in operation.subscripts:
        raise UnsupportedOperationError(
            f"subscripts are {operation.subscripts!r}; expected subscripts without an ellipsis"
        )
    tensors = operands(emitter, values)
    return emitter.emit(_op.einsum(tensors, operation.subscripts.replace(" ", "")))


@register_converter("ops.Reshape")
def convert_reshape(emitter: Emitter, operation: Any, x: Any) -> Any:
    """Converts a reshaping; of two unknown sizes, the first is that of the batch, which stays."""
    target = [-1 if size is None else size for size in operation.newshape]
    if target[:1] == [-1] and -1 in target[1:]:
        target[0] = shape(x)[0]
    return reshape(emitter, x, target)


@register_converter("ops.Ravel")
def convert_ravel(emitter: Emitter, operation: Any, x: Any) -> Any:
    """Converts the flattening of all axes into one."""
    return reshape(emitter, x, (math.prod(shape(x)),))


@register_converter("ops.Transpose")
def convert_transpose(emitter: Emitter, operation: Any, x: Any) -> Any:
    """Converts a permutation of axes; if none is specified, their order is reversed."""
    rank = len(shape(x))
    axes = operation.axes if operation.axes is not None else range(rank - 1, -1, -1)
    return emitter.emit(_op.permute_dims(x, [axis % rank for axis in axes]))


@register_converter("ops.Swapaxes")
def convert_swapaxes(emitter: Emitter, operation: Any, x: Any) -> Any:
    """Converts the exchange of two axes."""
    order = np.arange(len(shape(x)))
    order[[operation.axis1, operation.axis2]] = order[[operation.axis2, operation.axis1]]
    return emitter.emit(_op.permute_dims(x, [int(axis) for axis in order]))


@register_converter("ops.Moveaxis")
def convert_moveaxis(emitter: Emitter, operation: Any, x: Any) -> Any:
    """Converts the move of axes to other positions."""
    rank = len(shape(x))
    sources, destinations = (
        [axis % rank for axis in ([axes] if isinstance(axes, int) else axes)]
        for axes in (operation.source, operation.destination)
    )
    order = [axis for axis in range(rank) if axis not in sources]
    for destination, source in sorted(zip(destinations, sources, strict=True)):
        order.insert(destination, source)
    return emitter.emit(_op.permute_dims(x, order))


@register_converter("ops.ExpandDims")
def convert_expand_dims(emitter: Emitter, operation: Any, x: Any) -> Any:
    """Converts the insertion of axes of extent 1."""
    axis = operation.axis
    return emitter.emit(_op.expand_dims(x, list(axis) if isinstance(axis, Sequence) else axis))


@register_converter("ops.Squeeze")
def convert_squeeze(emitter: Emitter, operation: Any, x: Any) -> Any:
    """Converts the removal of axes of extent 1."""
    axis = operation.axis
    axes = list(axis) if isinstance(axis, Sequence) else axis
    if axes is None:
        axes = [i for i, extent in enumerate(shape(x)) if extent == 1 and i > 0]
    return emitter.emit(_op.squeeze(x, axes))


@register_converter("ops.BroadcastTo")
def convert_broadcast_to(emitter: Emitter, operation: Any, x: Any) -> Any:
    """Converts the repetition along axes of extent 1."""
    return emitter.emit(_op.broadcast_to(x, tuple(operation.shape)))


@register_converter("ops.Concatenate")
def convert_concatenate(emitter: Emitter, operation: Any, xs: Sequence[Any]) -> Any:
    """Converts a concatenation along an axis."""
    return concatenate(emitter, operands(emitter, xs), operation.axis)


@register_converter("ops.Stack")
def convert_stack(emitter: Emitter, operation: Any, xs: Sequence[Any]) -> Any:
    """Converts the stacking of tensors along a new axis."""
    return emitter.emit(_op.stack(operands(emitter, xs), axis=operation.axis))


@register_converter("ops.Split")
def convert_split(emitter: Emitter, operation: Any, x: Any) -> list[Any]:
    """Converts a split along an axis, either into equal parts or at given indices."""
    sections = operation.indices_or_sections
    if not isinstance(sections, int):
        sections = list(sections)
    num_parts = sections if isinstance(sections, int) else len(sections) + 1
    parts = emitter.emit(_op.split(x, sections, axis=operation.axis % len(shape(x))))
    return [emitter.emit(relax.TupleGetItem(parts, index)) for index in range(num_parts)]


@register_converter("ops.Unstack")
def convert_unstack(emitter: Emitter, operation: Any, x: Any) -> list[Any]:
    """Converts a split into parts of extent 1 along an axis, which is then removed."""
    axis = operation.axis % len(shape(x))
    return [_slice(emitter, x, {axis: index}) for index in range(shape(x)[axis])]


@register_converter("ops.Pad")
def convert_pad(emitter: Emitter, operation: Any, x: Any, constant_values: Any = None) -> Any:
    """Converts padding with a constant or with a reflection of the tensor."""
    if operation.mode not in ("constant", "reflect"):
        raise UnsupportedOperationError(
            f"mode is {operation.mode!r}; expected 'constant' or 'reflect'"
        )
    widths = list(operation.pad_width)
    if len(widths) == 1:
        widths = widths * len(shape(x))
    flat = [int(amount) for pair in widths for amount in pair]
    value = 0.0 if constant_values is None else float(constant_values)
    return emitter.emit(_op.nn.pad(x, flat, operation.mode, value))


@register_converter("ops.Tile")
def convert_tile(emitter: Emitter, operation: Any, x: Any) -> Any:
    """Converts the repetition of a whole tensor along its axes."""
    repeats = operation.repeats
    return emitter.emit(_op.tile(x, [repeats] if isinstance(repeats, int) else list(repeats)))


@register_converter("ops.Repeat")
def convert_repeat(emitter: Emitter, operation: Any, x: Any) -> Any:
    """Converts the repetition of every element along an axis."""
    if not isinstance(operation.repeats, int) or operation.axis is None:
        raise UnsupportedOperationError(
            f"repeats is {operation.repeats!r} and axis is {operation.axis!r}; "
            "expected an integer and an axis"
        )
    return emitter.emit(_op.repeat(x, operation.repeats, axis=operation.axis))


@register_converter("ops.Flip")
def convert_flip(emitter: Emitter, operation: Any, x: Any) -> Any:
    """Converts the reversal of axes."""
    axes = operation.axis
    if axes is None:
        axes = range(len(shape(x)))
    for axis in [axes] if isinstance(axes, int) else axes:
        x = emitter.emit(_op.flip(x, axis))
    return x


@register_converter("ops.Take")
def convert_take(emitter: Emitter, operation: Any, x: Any, indices: Any) -> Any:
    """Converts the selection of elements by their indices along an axis."""
    values = operand(emitter, x, emitter.output_dtype, "values")
    if is_var(indices):
        positions = indices if "int" in dtype(indices) else cast(emitter, indices, "int32")
    else:
        extent = shape(values)[operation.axis or 0]
        # In Keras, a negative index counts from the end; in TVM it does not.
        positions = relax.const(np.asarray(to_numpy(indices) % extent, "int32"))
    return emitter.emit(_op.take(values, positions, axis=operation.axis, mode="clip"))


@register_converter("ops.OneHot")
def convert_one_hot(emitter: Emitter, operation: Any, x: Any) -> Any:
    """Converts indices to vectors with a 1 at the index and 0 elsewhere."""
    x = operand(emitter, x, "int32", "indices")
    on, off = (relax.prim_value(value) for value in (1.0, 0.0))
    y = emitter.emit(_op.one_hot(x, on, off, operation.num_classes, axis=operation.axis))
    return cast(emitter, y, emitter.output_dtype)


@register_converter("ops.GetItem")
def convert_get_item(emitter: Emitter, operation: Any, x: Any, key: Any) -> Any:
    """Converts `x[key]` with slices, integers, new axes and an ellipsis."""
    parts = list(key) if isinstance(key, tuple | list) else [key]
    if Ellipsis not in parts:
        parts.append(Ellipsis)
    num_indexed_axes = sum(1 for part in parts if part is not None and part is not Ellipsis)
    position = parts.index(Ellipsis)
    parts[position : position + 1] = [slice(None)] * (len(shape(x)) - num_indexed_axes)
    index_of_axis = dict(enumerate(part for part in parts if part is not None))
    y = _slice(emitter, x, index_of_axis)
    output_parts = [part for part in parts if not isinstance(part, int)]
    new_axes = [axis for axis, part in enumerate(output_parts) if part is None]
    return emitter.emit(_op.expand_dims(y, new_axes)) if new_axes else y


def _slice(emitter: Emitter, x: Any, index_of_axis: dict[int, int | slice]) -> Any:
    """Slices a tensor.

    Args:
        emitter: Receives the operators.
        x: The tensor.
        index_of_axis: Axis -> an integer, which also removes the axis, or a slice.

    Raises:
        UnsupportedOperationError: An index is something else, or a slice has a negative step.
    """
    extents = shape(x)
    ranges = {}
    for axis, index in index_of_axis.items():
        if not isinstance(index, int | slice):
            raise UnsupportedOperationError(f"an index is {index!r}; expected integers and slices")
        if isinstance(index, int):
            index = slice(index % extents[axis], index % extents[axis] + 1)
        positions = range(*index.indices(extents[axis]))
        if len(positions) != extents[axis] or positions.step != 1:
            ranges[axis] = positions
    if any(positions.step < 0 for positions in ranges.values()):
        raise UnsupportedOperationError(
            "a slice has a negative step; expected a positive one: use keras.ops.flip"
        )
    if ranges:
        starts = [positions.start for positions in ranges.values()]
        stops = [positions.stop for positions in ranges.values()]
        steps = [positions.step for positions in ranges.values()]
        x = emitter.emit(_op.strided_slice(x, list(ranges), starts, stops, steps))
    integer_axes = [axis for axis, index in index_of_axis.items() if isinstance(index, int)]
    return emitter.emit(_op.squeeze(x, integer_axes)) if integer_axes else x


@register_converter("ops.LayerNorm")
def convert_layer_norm(
    emitter: Emitter, operation: Any, x: Any, gamma: Any = None, beta: Any = None
) -> Any:
    """Converts `keras.ops.layer_normalization` over the last axis."""
    if operation.axis not in (-1, len(shape(x)) - 1) or operation.rms_scaling:
        raise UnsupportedOperationError(
            f"axis is {operation.axis!r} and rms_scaling is {operation.rms_scaling!r}; "
            "expected the last axis and False"
        )
    epsilon = 1e-7 if operation.epsilon is None else operation.epsilon
    y = normalize(emitter, x, [len(shape(x)) - 1], epsilon)
    for role, value, function in (("gamma", gamma, _op.multiply), ("beta", beta, _op.add)):
        if value is not None:
            y = emitter.emit(function(y, operand(emitter, value, "float32", role)))
    return y
