"""Rules of products of tensors: matmul, einsum, dot, and the attentions that consist of them.

All of them are described as an einsum: each axis of each operand has a letter. Axes of one letter
carry the same channels, which are tied. Over a letter that the output lacks, products are summed,
and removed channels, which are zero, add nothing.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from cprune_tf.graph.flat import Shape, Tensor
from cprune_tf.graph.labels import Axes, Labels
from cprune_tf.graph.rules.common import tied
from cprune_tf.graph.rules.registry import Effect, Keep, LayerCall, Weight, register_rule

_layers = keras.layers


@dataclass(frozen=True)
class _Operand:
    """One operand: a tensor of the graph or a constant array, and a letter for each axis."""

    value: Any
    letters: Sequence[str]

    @property
    def shape(self) -> Shape:
        return tuple(self.value.shape)


def _contracted(call: LayerCall, operands: Sequence[_Operand], out: Sequence[str]) -> Effect:
    """The effect of a product of tensors.

    Args:
        call: The call; its positional arguments are the operands.
        operands: The operands, in order.
        out: The letter of each axis of the output.

    Returns:
        The effect.
    """
    repeats = any(len(set(operand.letters)) < len(operand.letters) for operand in operands)
    if repeats or any(len(o.letters) != len(o.shape) for o in operands):
        return call.opaque(f"{call.title} has a form that is not followed")
    labels = {
        letter: _labels_of_letter(call, operands, letter)
        for letter in dict.fromkeys(letter for operand in operands for letter in operand.letters)
    }

    def shrink(keep: Keep) -> tuple[tuple[Any, ...], dict[str, Any]]:
        values = [_shrunk(operand, labels, keep) for operand in operands]
        return tuple(values), dict(call.call.kwargs)

    axes = tuple(labels[letter] for letter in out)
    constants = [operand for operand in operands if not isinstance(operand.value, Tensor)]
    sizes = (labels[letter] for operand in constants for letter in operand.letters)
    return Effect(
        (axes,),
        reargument=shrink if constants else None,
        sizes=tuple(found for found in sizes if found is not None),
        keeps_zero=True,
    )


def _labels_of_letter(call: LayerCall, operands: Sequence[_Operand], letter: str) -> Labels | None:
    carried: list[Labels | None] = []
    for operand in operands:
        if letter not in operand.letters or not isinstance(operand.value, Tensor):
            continue
        axis = list(operand.letters).index(letter)
        found = call.labels_of(operand.value)[axis]
        if operand.shape[axis] == 1:  # broadcast, or a single value
            call.protect(found, f"{call.title} broadcasts these channels")
            continue
        carried.append(found)
    return tied(call, carried, "multiplies them with values without channels")


def _shrunk(operand: _Operand, labels: dict[str, Labels | None], keep: Keep) -> Any:
    """Removes channels from a constant operand; returns a tensor unchanged."""
    if isinstance(operand.value, Tensor):
        return operand.value
    array = np.asarray(keras.ops.convert_to_numpy(operand.value))
    for axis, letter in enumerate(operand.letters):
        found = labels[letter]
        if found is not None and array.shape[axis] == len(found):
            array = array.take(keep.indices(found), axis=axis)
    return array


def _arguments(call: LayerCall, count: int) -> list[Any] | None:
    """The operands of a call, if all are given by position and have a shape."""
    args = list(call.call.args)
    if len(args) != count or call.call.kwargs or not all(hasattr(a, "shape") for a in args):
        return None
    return args


def _two(call: LayerCall) -> tuple[Any, Any] | None:
    """The two operands of a call, if each has at least one axis."""
    args = _arguments(call, 2)
    if args is None or not all(len(value.shape) for value in args):
        return None
    return args[0], args[1]


@register_rule("ops.Matmul")
def matmul(call: LayerCall) -> Effect:
    """[..., m, k] times [..., k, n]; a vector stands for k alone."""
    pair = _two(call)
    if pair is None:
        return call.opaque(f"{call.title} has a form that is not followed")
    first, second = (len(value.shape) for value in pair)
    batch = string.ascii_lowercase[: max(first, second)]
    left = [*(batch[len(batch) - first + 2 :] if first > 2 else ""), *("MK" if first > 1 else "K")]
    right = [
        *(batch[len(batch) - second + 2 :] if second > 2 else ""),
        *("KN" if second > 1 else "K"),
    ]
    leading = max(left, right, key=len)
    out = [letter for letter in leading if letter.islower()]
    out += [letter for letter in ("M", "N") if letter in (*left, *right)]
    operands = (_Operand(pair[0], left), _Operand(pair[1], right))
    return _contracted(call, operands, out)


@register_rule("ops.Einsum")
def einsum(call: LayerCall) -> Effect:
    """Any product that its subscripts describe, without an ellipsis."""
    subscripts = str(call.layer.subscripts).replace(" ", "")
    inputs, arrow, out = subscripts.partition("->")
    letters = inputs.split(",")
    args = _arguments(call, len(letters))
    if args is None or not arrow or "." in subscripts:
        return call.opaque(f"{call.title} has a form that is not followed")
    operands = [_Operand(value, name) for value, name in zip(args, letters, strict=True)]
    return _contracted(call, operands, out)


@register_rule("ops.Dot", "ops.Inner", "ops.Tensordot")
def dot(call: LayerCall) -> Effect:
    """Sums over axes of both operands; the other axes follow one another."""
    pair = _two(call)
    if pair is None:
        return call.opaque(f"{call.title} has a form that is not followed")
    ranks = [len(value.shape) for value in pair]
    left = list(string.ascii_lowercase[: ranks[0]])
    right = list(string.ascii_uppercase[: ranks[1]])
    for one, other in zip(*_summed_axes(call, ranks), strict=True):
        right[other] = left[one]
    out = [letter for letter in left if letter not in right]
    out += [letter for letter in right if letter not in left]
    return _contracted(call, (_Operand(pair[0], left), _Operand(pair[1], right)), out)


def _summed_axes(call: LayerCall, ranks: Sequence[int]) -> tuple[list[int], list[int]]:
    """The axes of both operands over which a dot product sums."""
    kind = type(call.layer).__name__
    if kind == "Inner":
        return [-1], [-1]
    if kind == "Dot":
        return [-1], [-2 if ranks[1] > 1 else -1]
    axes = call.layer.axes
    if isinstance(axes, int):
        return list(range(ranks[0] - axes, ranks[0])), list(range(axes))
    first, second = ([a] if isinstance(a, int) else list(a) for a in axes)
    return first, second


@register_rule(_layers.Dot)
def dot_layer(call: LayerCall) -> Effect:
    """A dot product of the samples of two tensors; norms do not count channels that are zero."""
    first, second = (len(shape) for shape in call.input_shapes)
    axes = call.layer.axes
    axes = (axes, axes) if isinstance(axes, int) else axes
    left = ["a", *string.ascii_lowercase[1:first]]
    right = ["a", *string.ascii_uppercase[1:second]]
    right[axes[1]] = left[axes[0]]
    out = ["a"] + [letter for letter in left[1:] if letter not in right]
    out += [letter for letter in right[1:] if letter not in left]
    tensors = call.call.inputs
    if len(tensors) != 2 or len(out) != len(call.output_shapes[0]):
        return call.opaque(f"{call.title} has a form that is not followed")
    return _contracted(call, (_Operand(tensors[0], left), _Operand(tensors[1], right)), out)


@register_rule(_layers.Attention, _layers.AdditiveAttention)
def attention(call: LayerCall) -> Effect:
    """The query's and the key's channels are summed over; the value's go to the output."""
    tensors = call.call.args[0] if call.call.args else None
    if not isinstance(tensors, (list, tuple)) or len(call.input_shapes[0]) != 3:
        return call.opaque(f"{call.title} has a form that is not followed")
    for extra in call.call.inputs:
        if not any(extra is tensor for tensor in tensors):
            call.protect_all(call.labels_of(extra), f"{call.title} takes them as a mask")
    query, value = tensors[0], tensors[1]
    key = tensors[2] if len(tensors) > 2 else value
    for tensor in tensors:
        call.protect(
            call.labels_of(tensor)[1],
            f"{call.title} attends along the axis that holds these channels",
        )
    summed = [call.labels_of(tensor)[-1] for tensor in (query, key)]
    width = tied(call, summed, "multiplies them with values without channels")
    outputs: tuple[Axes, ...] = ((None, None, call.labels_of(value)[-1]), (None, None, None))
    # Of an Attention, "scale" is one number; of an AdditiveAttention, it has one for each channel.
    scale = call.layer.scale
    per_channel = scale is not None and len(scale.shape) == 1
    weights = {"scale": Weight((width,), "other", None)} if per_channel else {}
    return Effect(outputs[: len(call.output_shapes)], weights, keeps_zero=True)


@register_rule("ops.DotProductAttention")
def dot_product_attention(call: LayerCall) -> Effect:
    """[batch, steps, heads, channels]; whole heads can go, and the value's channels."""
    names = ("query", "key", "value", "bias", "mask", "scale")
    given = {**dict(zip(names, call.call.args, strict=False)), **call.call.kwargs}
    tensors = [given.get(name) for name in names[:3]]
    if not all(isinstance(tensor, Tensor) for tensor in tensors):
        return call.opaque(f"{call.title} has a form that is not followed")
    axes = [call.labels_of(tensor) for tensor in tensors if isinstance(tensor, Tensor)]
    for one in axes:
        call.protect(one[1], f"{call.title} attends along the axis that holds these channels")
    heads = tied(call, [one[2] for one in axes], "multiplies them with values without channels")
    if len({shape[2] for shape in call.input_shapes[:3]}) > 1:
        return call.opaque(f"{call.title} shares heads among queries")
    width = tied(call, [axes[0][3], axes[1][3]], "multiplies them with values without channels")
    if given.get("scale") is None:
        call.protect(width, f"{call.title} divides by the root of their number")
    for name in ("bias", "mask", "scale"):
        if hasattr(given.get(name), "shape"):
            call.protect(heads, f"{call.title} has a {name}")
            if isinstance(given[name], Tensor):
                call.protect_all(call.labels_of(given[name]), f"{call.title} takes a {name}")
    return Effect(((None, None, heads, axes[2][3]),), keeps_zero=True)
