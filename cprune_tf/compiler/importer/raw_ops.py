"""Converters of `keras.ops` called on Keras tensors: `x * 2`, `ops.reshape(x, ...)`, `x[:, 0]`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import relax

from cprune_tf.compiler.importer.emitter import Emitter, dtype, scalar, shape, to_numpy
from cprune_tf.compiler.importer.merging import concatenate
from cprune_tf.compiler.importer.normalization import normalize
from cprune_tf.compiler.importer.registry import UnsupportedOperationError, register_converter
from cprune_tf.compiler.importer.shaping import reshape

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
    """Whether an argument is a tensor of the graph and not a number or an array."""
    return isinstance(value, relax.Var)


def _operand(emitter: Emitter, value: Any, wanted: str, role: str) -> Any:
    """A graph tensor, number or array as an operand of the wanted type."""
    if is_var(value):
        return value if dtype(value) == wanted else emitter.emit(_op.astype(value, wanted))
    array = to_numpy(value)
    if array.ndim == 0:
        return relax.const(array.astype(wanted).item(), wanted)
    return emitter.param(role, array, dtype=wanted)


def _names(table: dict[str, Any]) -> list[str]:
    return [f"ops.{name}" for name in table]


@register_converter(*_names(_UNARY))
def convert_unary(emitter: Emitter, operation: Any, x: Any) -> Any:
    """Element by element."""
    return emitter.emit(_UNARY[type(operation).__name__](x))


@register_converter("ops.Reciprocal")
def convert_reciprocal(emitter: Emitter, operation: Any, x: Any) -> Any:
    """1 / x."""
    return emitter.emit(_op.divide(scalar(1.0, x), x))


@register_converter(*_names(_ARITHMETIC))
def convert_arithmetic(emitter: Emitter, operation: Any, x1: Any, x2: Any) -> Any:
    """Two operands in the result's type, broadcast."""
    wanted = emitter.output_dtype
    left = _operand(emitter, x1, wanted, "x1")
    right = _operand(emitter, x2, wanted, "x2")
    return emitter.emit(_ARITHMETIC[type(operation).__name__](left, right))


@register_converter(*_names(_COMPARISONS))
def convert_comparison(emitter: Emitter, operation: Any, x1: Any, x2: Any) -> Any:
    """Two operands in the wider of the graph tensors' types, broadcast; yields booleans."""
    wanted = str(np.result_type(*(dtype(x) for x in (x1, x2) if is_var(x))))
    left = _operand(emitter, x1, wanted, "x1")
    right = _operand(emitter, x2, wanted, "x2")
    return emitter.emit(_COMPARISONS[type(operation).__name__](left, right))


@register_converter(*_names(_REDUCTIONS))
def convert_reduction(emitter: Emitter, operation: Any, x: Any) -> Any:
    """Over some axes, or all."""
    name, axis = type(operation).__name__, operation.axis
    if getattr(operation, "initial", None) is not None:
        raise UnsupportedOperationError("initial is not supported")
    axes = list(axis) if isinstance(axis, tuple | list) else axis
    keepdims = bool(operation.keepdims)
    return emitter.emit(_REDUCTIONS[name](x, axis=axes, keepdims=keepdims))


@register_converter("ops.Argmax", "ops.Argmin")
def convert_arg(emitter: Emitter, operation: Any, x: Any) -> Any:
    """Position of the largest or smallest element."""
    function = _op.argmax if type(operation).__name__ == "Argmax" else _op.argmin
    y = function(x, axis=operation.axis, keepdims=bool(operation.keepdims))
    return emitter.emit(_op.astype(y, emitter.output_dtype))


@register_converter("ops.Clip")
def convert_clip(emitter: Emitter, operation: Any, x: Any) -> Any:
    """Limited from both sides by numbers."""
    return emitter.emit(_op.clip(x, float(operation.x_min), float(operation.x_max)))


@register_converter("ops.Cast")
def convert_cast(emitter: Emitter, operation: Any, x: Any) -> Any:
    """Another type."""
    wanted = emitter.output_dtype
    return x if dtype(x) == wanted else emitter.emit(_op.astype(x, wanted))


@register_converter("ops.Where")
def convert_where(
    emitter: Emitter, operation: Any, condition: Any, x1: Any = None, x2: Any = None
) -> Any:
    """One operand or the other."""
    wanted = emitter.output_dtype
    return emitter.emit(
        _op.where(
            _operand(emitter, condition, "bool", "condition"),
            _operand(emitter, x1, wanted, "x1"),
            _operand(emitter, x2, wanted, "x2"),
        )
    )


@register_converter("ops.Matmul")
def convert_matmul(emitter: Emitter, operation: Any, x1: Any, x2: Any) -> Any:
    """Matrix product."""
    wanted = emitter.output_dtype
    left = _operand(emitter, x1, wanted, "x1")
    return emitter.emit(_op.matmul(left, _operand(emitter, x2, wanted, "x2")))


@register_converter("ops.Einsum")
def convert_einsum(emitter: Emitter, operation: Any, *operands: Any) -> Any:
    """Einstein sum."""
    if "." in operation.subscripts:
        raise UnsupportedOperationError(
            f"subscripts are {operation.subscripts!r}; expected none with an ellipsis"
        )
    wanted = emitter.output_dtype
    tensors = [_operand(emitter, x, wanted, f"x{i}") for i, x in enumerate(operands)]
    return emitter.emit(_op.einsum(tensors, operation.subscripts.replace(" ", "")))


@register_converter("ops.Reshape")
def convert_reshape(emitter: Emitter, operation: Any, x: Any) -> Any:
    """To another shape; the batch axis must stay, as Keras does not know its extent."""
    recorded = emitter.call.outputs[0].shape
    target = list(operation.newshape)
    if recorded[0] is None:
        target[0] = shape(x)[0] if target[0] in (None, -1) else target[0]
    return reshape(emitter, x, target)


@register_converter("ops.Ravel")
def convert_ravel(emitter: Emitter, operation: Any, x: Any) -> Any:
    """One axis."""
    return reshape(emitter, x, (math.prod(shape(x)),))


@register_converter("ops.Transpose")
def convert_transpose(emitter: Emitter, operation: Any, x: Any) -> Any:
    """Axes in another order, or reversed."""
    rank = len(shape(x))
    axes = operation.axes if operation.axes is not None else range(rank - 1, -1, -1)
    return emitter.emit(_op.permute_dims(x, [axis % rank for axis in axes]))


@register_converter("ops.Swapaxes")
def convert_swapaxes(emitter: Emitter, operation: Any, x: Any) -> Any:
    """Two axes exchanged."""
    order = np.arange(len(shape(x)))
    order[[operation.axis1, operation.axis2]] = order[[operation.axis2, operation.axis1]]
    return emitter.emit(_op.permute_dims(x, [int(axis) for axis in order]))


@register_converter("ops.Moveaxis")
def convert_moveaxis(emitter: Emitter, operation: Any, x: Any) -> Any:
    """Axes moved to other places."""
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
    """New axes of extent one."""
    axis = operation.axis
    return emitter.emit(_op.expand_dims(x, list(axis) if isinstance(axis, Sequence) else axis))


@register_converter("ops.Squeeze")
def convert_squeeze(emitter: Emitter, operation: Any, x: Any) -> Any:
    """Without axes of extent one."""
    axis = operation.axis
    axes = list(axis) if isinstance(axis, Sequence) else axis
    if axes is None:
        axes = [i for i, extent in enumerate(shape(x)) if extent == 1 and i > 0]
    return emitter.emit(_op.squeeze(x, axes))


@register_converter("ops.BroadcastTo")
def convert_broadcast_to(emitter: Emitter, operation: Any, x: Any) -> Any:
    """Repeated along axes of extent one."""
    return emitter.emit(_op.broadcast_to(x, tuple(operation.shape)))


@register_converter("ops.Concatenate")
def convert_concatenate(emitter: Emitter, operation: Any, xs: Sequence[Any]) -> Any:
    """One after the other along an axis."""
    wanted = emitter.output_dtype
    tensors = [_operand(emitter, x, wanted, f"x{i}") for i, x in enumerate(xs)]
    return concatenate(emitter, tensors, operation.axis)


@register_converter("ops.Stack")
def convert_stack(emitter: Emitter, operation: Any, xs: Sequence[Any]) -> Any:
    """One after the other along a new axis."""
    wanted = emitter.output_dtype
    tensors = [_operand(emitter, x, wanted, f"x{i}") for i, x in enumerate(xs)]
    return emitter.emit(_op.stack(tensors, axis=operation.axis))


@register_converter("ops.Split")
def convert_split(emitter: Emitter, operation: Any, x: Any) -> list[Any]:
    """Pieces along an axis: equal ones, or between given indices."""
    where = operation.indices_or_sections
    axis = operation.axis % len(shape(x))
    parts = emitter.emit(_op.split(x, where if isinstance(where, int) else list(where), axis=axis))
    number = where if isinstance(where, int) else len(where) + 1
    return [emitter.emit(relax.TupleGetItem(parts, index)) for index in range(number)]


@register_converter("ops.Unstack")
def convert_unstack(emitter: Emitter, operation: Any, x: Any) -> list[Any]:
    """Pieces of extent one along an axis, without the axis."""
    axis = operation.axis % len(shape(x))
    return [_slice(emitter, x, {axis: index}) for index in range(shape(x)[axis])]


@register_converter("ops.Pad")
def convert_pad(emitter: Emitter, operation: Any, x: Any, constant_values: Any = None) -> Any:
    """A constant around the tensor, or its mirror image."""
    modes = {"constant": "constant", "reflect": "reflect"}
    if operation.mode not in modes:
        raise UnsupportedOperationError(
            f"mode is {operation.mode!r}; expected 'constant' or 'reflect'"
        )
    widths = list(operation.pad_width)
    if len(widths) == 1:
        widths = widths * len(shape(x))
    flat = [int(amount) for pair in widths for amount in pair]
    value = 0.0 if constant_values is None else float(constant_values)
    return emitter.emit(_op.nn.pad(x, flat, modes[operation.mode], value))


@register_converter("ops.Tile")
def convert_tile(emitter: Emitter, operation: Any, x: Any) -> Any:
    """The tensor several times along its axes."""
    repeats = operation.repeats
    return emitter.emit(_op.tile(x, [repeats] if isinstance(repeats, int) else list(repeats)))


@register_converter("ops.Repeat")
def convert_repeat(emitter: Emitter, operation: Any, x: Any) -> Any:
    """Every element several times."""
    if not isinstance(operation.repeats, int) or operation.axis is None:
        raise UnsupportedOperationError("expected one number of repeats and an axis")
    return emitter.emit(_op.repeat(x, operation.repeats, axis=operation.axis))


@register_converter("ops.Flip")
def convert_flip(emitter: Emitter, operation: Any, x: Any) -> Any:
    """Axes reversed."""
    axes = operation.axis
    if axes is None:
        axes = range(len(shape(x)))
    for axis in [axes] if isinstance(axes, int) else axes:
        x = emitter.emit(_op.flip(x, axis))
    return x


@register_converter("ops.Take")
def convert_take(emitter: Emitter, operation: Any, x: Any, indices: Any) -> Any:
    """Elements at indices along an axis."""
    values = _operand(emitter, x, emitter.output_dtype, "values")
    if is_var(indices):
        wanted = dtype(indices) if "int" in dtype(indices) else "int32"
        positions = _operand(emitter, indices, wanted, "indices")
    else:
        extent = shape(values)[operation.axis or 0]
        # Negative indices count from the end; a compiled take does not know that.
        positions = relax.const(np.asarray(to_numpy(indices) % extent, "int32"))
    return emitter.emit(_op.take(values, positions, axis=operation.axis, mode="clip"))


@register_converter("ops.OneHot")
def convert_one_hot(emitter: Emitter, operation: Any, x: Any) -> Any:
    """1 at the index, 0 elsewhere."""
    wanted = emitter.output_dtype
    x = _operand(emitter, x, "int32", "indices")
    on, off = (relax.prim_value(value) for value in (1.0, 0.0))
    y = emitter.emit(_op.one_hot(x, on, off, operation.num_classes, axis=operation.axis))
    return y if dtype(y) == wanted else emitter.emit(_op.astype(y, wanted))


@register_converter("ops.GetItem")
def convert_get_item(emitter: Emitter, operation: Any, x: Any, key: Any) -> Any:
    """Slices, indices, new axes and an ellipsis."""
    parts = list(key) if isinstance(key, tuple | list) else [key]
    if Ellipsis not in parts:
        parts.append(Ellipsis)
    named = sum(1 for part in parts if part is not None and part is not Ellipsis)
    index = parts.index(Ellipsis)
    parts[index : index + 1] = [slice(None)] * (len(shape(x)) - named)
    picks = dict(enumerate(part for part in parts if part is not None))
    y = _slice(emitter, x, picks)
    kept = [part for part in parts if not isinstance(part, int)]
    new_axes = [position for position, part in enumerate(kept) if part is None]
    return emitter.emit(_op.expand_dims(y, new_axes)) if new_axes else y


def _slice(emitter: Emitter, x: Any, picks: dict[int, int | slice]) -> Any:
    """Axis -> one index (the axis goes) or a slice."""
    extents = shape(x)
    ranges = {}
    for axis, pick in picks.items():
        if not isinstance(pick, int | slice):
            raise UnsupportedOperationError(f"an index is {pick!r}; expected integers and slices")
        if isinstance(pick, int):
            pick = slice(pick % extents[axis], pick % extents[axis] + 1)
        ranges[axis] = range(*pick.indices(extents[axis]))
    cut = {axis: r for axis, r in ranges.items() if len(r) != extents[axis] or r.step != 1}
    if any(r.step < 0 for r in cut.values()):
        raise UnsupportedOperationError("a slice has a negative step; expected keras.ops.flip")
    if cut:
        axes, steps = list(cut), list(cut.values())
        x = emitter.emit(
            _op.strided_slice(
                x, axes, [r.start for r in steps], [r.stop for r in steps], [r.step for r in steps]
            )
        )
    gone = [axis for axis, pick in picks.items() if isinstance(pick, int)]
    return emitter.emit(_op.squeeze(x, gone)) if gone else x


@register_converter("ops.LayerNorm")
def convert_layer_norm(
    emitter: Emitter, operation: Any, x: Any, gamma: Any = None, beta: Any = None
) -> Any:
    """`keras.ops.layer_normalization` over the last axis."""
    if operation.axis not in (-1, len(shape(x)) - 1) or operation.rms_scaling:
        raise UnsupportedOperationError("expected the last axis and rms_scaling=False")
    epsilon = 1e-7 if operation.epsilon is None else operation.epsilon
    y = normalize(emitter, x, [len(shape(x)) - 1], epsilon)
    for role, value, function in (("gamma", gamma, _op.multiply), ("beta", beta, _op.add)):
        if value is not None:
            y = emitter.emit(function(y, _operand(emitter, value, "float32", role)))
    return y
