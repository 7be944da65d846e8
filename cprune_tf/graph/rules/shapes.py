"""Rules of layers that move values: pooling, padding, concatenation, flatten, reshape, permute."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np

from cprune_tf.graph.flat import Shape
from cprune_tf.graph.labels import Axes, Labels
from cprune_tf.graph.rules.common import channel_axis, protect_others, tied
from cprune_tf.graph.rules.registry import Effect, Keep, LayerCall, register_rule

_layers = keras.layers


def _named(*templates: str) -> list[type]:
    """Returns the layer classes with these names for 1, 2 and 3 dimensions."""
    names = [template + f"{rank}D" for template in templates for rank in (1, 2, 3)]
    return [getattr(_layers, name) for name in names if hasattr(_layers, name)]


@register_rule(
    *_named("MaxPooling", "AveragePooling", "ZeroPadding", "Cropping", "UpSampling"),
    *_named("AdaptiveAveragePooling", "AdaptiveMaxPooling"),
)
def spatial(call: LayerCall) -> Effect:
    """Works along the spatial axes, channel by channel."""
    axes = call.inputs[0]
    axis = channel_axis(call.layer, len(axes))
    pads = type(call.layer).__name__.startswith("ZeroPadding")
    out = protect_others(call, axes, axis, "works along")
    return Effect((out,), keeps_zero=True, flow="zero" if pads else "same")


@register_rule(_layers.Resizing, _layers.CenterCrop)
def resizing(call: LayerCall) -> Effect:
    """Works along the spatial axes; padding, if there is any, may differ from zero."""
    axes = call.inputs[0]
    axis = channel_axis(call.layer, len(axes))
    pads = getattr(call.layer, "pad_to_aspect_ratio", False)
    return Effect((protect_others(call, axes, axis, "works along"),), keeps_zero=not pads)


@register_rule(*_named("GlobalAveragePooling", "GlobalMaxPooling"))
def global_pooling(call: LayerCall) -> Effect:
    """The spatial axes disappear or shrink to one."""
    axes = call.inputs[0]
    axis = channel_axis(call.layer, len(axes))
    pooled = protect_others(call, axes, axis, "pools over")
    out = pooled if call.layer.keepdims else (None, pooled[axis])
    return Effect((out,), keeps_zero=True, flow="same")


@register_rule(_layers.Concatenate)
def concatenate(call: LayerCall) -> Effect:
    """The inputs' channels follow one another along the axis; on other axes they are tied."""
    return Effect(
        (concatenated(call, call.layer.axis, list(call.inputs), list(call.input_shapes)),),
        keeps_zero=True,
        flow="moves",
    )


def concatenated(call: LayerCall, axis: int, inputs: list[Axes], shapes: list[Shape]) -> Axes:
    """Returns the labels of a concatenation.

    Args:
        call: The call.
        axis: The number of the axis along which the parts are joined.
        inputs: For each part, the labels of each axis.
        shapes: The shape of each part.

    Returns:
        The labels of each axis of the result.
    """
    rank = len(shapes[0])
    axis %= rank
    result: list[Labels | None] = []
    for position in range(rank):
        parts = [axes[position] for axes in inputs]
        if position == axis and any(labels is not None for labels in parts):
            sizes = [shape[axis] for shape in shapes]
            result.append(_joined(call, parts, sizes))
        else:
            result.append(tied(call, parts, "puts them beside values without channels"))
    return tuple(result)


def _joined(call: LayerCall, parts: list[Labels | None], sizes: list[int | None]) -> Labels | None:
    if None in sizes:
        for labels in parts:
            call.protect(labels, f"{call.title} has an unknown size along these channels")
        return None
    arrays = []
    for labels, size in zip(parts, sizes, strict=True):
        if labels is None:
            labels = call.fresh(int(size or 0))
            call.protect(labels, f"{call.title} joins them with values that are not channels")
        arrays.append(labels)
    return np.concatenate(arrays)


@register_rule(_layers.Flatten)
def flatten(call: LayerCall) -> Effect:
    """Channel c of an H x W x C tensor becomes the indices c, c + C, c + 2 C, ..."""
    axes, shape = call.inputs[0], call.input_shapes[0]
    if channel_axis(call.layer, len(shape)) == 1 and len(shape) > 2:
        order = [0, *range(2, len(shape)), 1]
        axes, shape = tuple(axes[i] for i in order), tuple(shape[i] for i in order)
    return Effect(
        (reshaped(call, axes, shape, call.output_shapes[0]),), keeps_zero=True, flow="moves"
    )


@register_rule(_layers.Reshape)
def reshape(call: LayerCall) -> Effect:
    """Axes are merged and split; the target shape shrinks with its channels."""
    out = reshaped(call, call.inputs[0], call.input_shapes[0], call.output_shapes[0])
    target = tuple(call.layer.target_shape)

    def resize(keep: Keep) -> dict[str, Any]:
        sizes = zip(target, out[1:], strict=True)
        return {"target_shape": tuple(resized(keep, s, labels) for s, labels in sizes)}

    sizes = tuple(labels for labels in out if labels is not None)
    return Effect((out,), resize=resize, sizes=sizes, keeps_zero=True, flow="moves")


def resized(keep: Keep, size: int, labels: Labels | None) -> int:
    """A target size after a removal; -1 and sizes of axes without channels do not change."""
    return size if size == -1 or labels is None else keep.count(labels)


@register_rule(_layers.Permute)
def permute(call: LayerCall) -> Effect:
    """Axes change places, and their channels move with them."""
    axes = call.inputs[0]
    return Effect(((axes[0], *(axes[d] for d in call.layer.dims)),), keeps_zero=True, flow="moves")


@register_rule(_layers.RepeatVector)
def repeat_vector(call: LayerCall) -> Effect:
    """[batch, C] becomes [batch, n, C]."""
    batch, channels = call.inputs[0]
    return Effect(((batch, None, channels),), keeps_zero=True, flow="moves")


def reshaped(call: LayerCall, axes: Axes, shape: Shape, out: Shape) -> Axes:
    """Returns the labels after a reshape in row-major order.

    Runs of axes with equal products are matched. Within a run, channels on one axis are followed to
    the axis or axes on which they end up. Channels that cannot be followed are protected.

    Args:
        call: The call.
        axes: The labels of each input axis.
        shape: The input's shape, the batch axis first.
        out: The output's shape, the batch axis first.

    Returns:
        The labels of each output axis.
    """
    result: list[Labels | None] = [None] * len(out)
    for (i0, i1), (o0, o1) in _runs(shape, out):
        channel_axes = [i for i in range(i0, i1) if axes[i] is not None]
        if not channel_axes:
            continue
        if i1 - i0 == 1 and o1 - o0 == 1:
            result[o0] = axes[i0]
            continue
        dims, targets = shape[i0:i1], out[o0:o1]
        if len(channel_axes) > 1 or not _same_size(dims, targets):
            for i in channel_axes:
                call.protect(axes[i], f"{call.title} reshapes them in a way that is not followed")
            continue
        labels = axes[channel_axes[0]]
        assert labels is not None
        column = [1] * len(dims)
        column[channel_axes[0] - i0] = -1
        flat = np.broadcast_to(labels.reshape(column), [int(d or 0) for d in dims]).ravel()
        placed = _place(call, flat.reshape([int(t or 0) for t in targets]))
        for offset, placed_labels in enumerate(placed):
            result[o0 + offset] = placed_labels
    return tuple(result)


def _place(call: LayerCall, block: Labels) -> list[Labels | None]:
    """Puts the labels of a block on one axis along which they vary.

    If they vary along several axes (channels split into heads x width), only the longest axis (the
    last of equally long ones) keeps its channels. Channels with the same index on it are tied, so
    that they are removed evenly along the other axes.
    """
    rank = block.ndim
    runs = [a for a in range(rank) if (block != block.take([0], axis=a)).any()]
    if not runs:
        runs = [a for a in range(rank) if block.shape[a] > 1][-1:] or [rank - 1]
    axis = max(runs, key=lambda a: (block.shape[a], a))
    along = np.moveaxis(block, axis, -1).reshape(-1, block.shape[axis])
    if len(runs) > 1:
        call.tie(along, along[:1])
    result: list[Labels | None] = [None] * rank
    result[axis] = along[0]
    return result


def _runs(shape: Shape, out: Shape) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Matches runs of axes with equal products: [((in start, end), (out start, end)), ...]."""
    i, o = _unknown_prefix(shape, out)
    result = [((k, k + 1), (k, k + 1)) for k in range(min(i, o))]
    while i < len(shape) and o < len(out):
        i1, o1 = i + 1, o + 1
        a, b = shape[i], out[o]
        while a is not None and b is not None and a != b:
            if a < b and i1 < len(shape):
                step = shape[i1]
                a, i1 = None if step is None else a * step, i1 + 1
            elif b < a and o1 < len(out):
                step = out[o1]
                b, o1 = None if step is None else b * step, o1 + 1
            else:
                break
        if a is None or b is None or a != b:
            return result + _from_the_right(shape, out, i, o)
        result.append(((i, i1), (o, o1)))
        i, o = i1, o1
    if i < len(shape) and result:  # trailing ones
        (start, _), target = result[-1]
        result[-1] = ((start, len(shape)), target)
    elif o < len(out) and result:
        source, (start, _) = result[-1]
        result[-1] = (source, (start, len(out)))
    return result


def _from_the_right(
    shape: Shape, out: Shape, i: int, o: int
) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Matches equal known sizes at the end; all axes before them form one run."""
    same = 0
    limit = min(len(shape) - i, len(out) - o)
    while same < limit and shape[-1 - same] is not None and shape[-1 - same] == out[-1 - same]:
        same += 1
    i1, o1 = len(shape) - same, len(out) - same
    tail = [((i1 + k, i1 + k + 1), (o1 + k, o1 + k + 1)) for k in range(same)]
    return [((i, i1), (o, o1)), *tail]


def _same_size(dims: Shape, targets: Shape) -> bool:
    if None in dims or None in targets:
        return False
    return math.prod(d or 0 for d in dims) == math.prod(t or 0 for t in targets)


def _unknown_prefix(shape: Shape, out: Shape) -> tuple[int, int]:
    """The number of leading axes, with the batch axis, whose size is unknown in both shapes."""
    count = 0
    for a, b in zip(shape, out, strict=False):
        if a is not None or b is not None:
            break
        count += 1
    return count, count
