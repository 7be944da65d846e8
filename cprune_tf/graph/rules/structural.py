"""Rules of raw `keras.ops` operations that move, cut, join or reduce axes."""

from __future__ import annotations

from typing import Any

import numpy as np

from cprune_tf.graph.flat import Tensor
from cprune_tf.graph.labels import Axes, Labels
from cprune_tf.graph.rules.common import channel_axis, names_in, protect_others
from cprune_tf.graph.rules.registry import Effect, Keep, LayerCall, register_rule
from cprune_tf.graph.rules.shapes import concatenated, reshaped, resized

_REDUCTIONS = names_in("Mean Max Amax Min Amin Sum Prod Var Std All Any Logsumexp Median Ptp")
_SPATIAL = names_in(
    "MaxPool AveragePool AdaptiveMaxPool AdaptiveAveragePool Resize CropImages PadImages"
)
_KEEPS_CONSTANT = names_in("Mean Max Amax Min Amin Median")


@register_rule("ops.Reshape")
def reshape(call: LayerCall) -> Effect:
    """Like the Reshape layer, with the batch axis in the target."""
    out = reshaped(call, call.inputs[0], call.input_shapes[0], call.output_shapes[0])
    target = tuple(call.layer.newshape)

    def resize(keep: Keep) -> dict[str, Any]:
        pairs = zip(target, out, strict=True)
        return {"newshape": tuple(resized(keep, size, labels) for size, labels in pairs)}

    return Effect((out,), resize=resize, keeps_zero=True, flow="moves")


@register_rule("ops.Ravel")
def ravel(call: LayerCall) -> Effect:
    """The batch axis is merged too, so no channel can be followed."""
    return call.opaque(f"{call.title} merges the batch with the channels")


def _moved(call: LayerCall, order: list[int]) -> Effect:
    axes = call.inputs[0]
    return Effect((tuple(axes[i] for i in order),), keeps_zero=True, flow="moves")


@register_rule("ops.Transpose")
def transpose(call: LayerCall) -> Effect:
    """Axes change places."""
    rank = len(call.inputs[0])
    order = call.layer.axes
    return _moved(call, list(range(rank))[::-1] if order is None else [a % rank for a in order])


@register_rule("ops.Moveaxis")
def moveaxis(call: LayerCall) -> Effect:
    """Axes change places."""
    positions = np.arange(len(call.inputs[0])).reshape([-1])
    cube = np.empty([1] * len(positions))
    source, target = call.layer.source, call.layer.destination
    shape = [10 + i for i in range(len(positions))]
    moved = np.moveaxis(np.broadcast_to(cube, shape), source, target).shape
    return _moved(call, [size - 10 for size in moved])


@register_rule("ops.Swapaxes")
def swapaxes(call: LayerCall) -> Effect:
    """Two axes change places."""
    order = list(range(len(call.inputs[0])))
    a, b = call.layer.axis1, call.layer.axis2
    order[a], order[b] = order[b], order[a]
    return _moved(call, order)


@register_rule("ops.ExpandDims")
def expand_dims(call: LayerCall) -> Effect:
    """Inserts axes of size one."""
    axes: list[Labels | None] = list(call.inputs[0])
    added = call.layer.axis
    rank = len(call.output_shapes[0])
    for axis in sorted(a % rank for a in (added if isinstance(added, (tuple, list)) else [added])):
        axes.insert(axis, None)
    return Effect((tuple(axes),), keeps_zero=True, flow="moves")


@register_rule("ops.Squeeze")
def squeeze(call: LayerCall) -> Effect:
    """Axes of size one disappear."""
    axes, shape = call.inputs[0], call.input_shapes[0]
    axis = call.layer.axis
    if axis is None:
        removed_axes = {i for i, size in enumerate(shape) if size == 1}
    else:
        listed = axis if isinstance(axis, (tuple, list)) else [axis]
        removed_axes = {a % len(shape) for a in listed}
    for a in removed_axes:
        call.protect(axes[a], f"{call.title} removes the axis that holds them")
    out = tuple(labels for i, labels in enumerate(axes) if i not in removed_axes)
    return Effect((out,), keeps_zero=True, flow="moves")


@register_rule("ops.Concatenate")
def concatenate(call: LayerCall) -> Effect:
    """Like the Concatenate layer."""
    parts = call.call.args[0] if call.call.args else call.call.kwargs.get("xs")
    if not isinstance(parts, (list, tuple)) or not all(isinstance(part, Tensor) for part in parts):
        return call.opaque(f"{call.title} joins tensors with constants")
    axes = concatenated(call, call.layer.axis, list(call.inputs), list(call.input_shapes))
    return Effect((axes,), keeps_zero=True, flow="moves")


@register_rule("ops.Vstack", "ops.Hstack", "ops.Dstack")
def side_by_side(call: LayerCall) -> Effect:
    """Like a concatenation along the first, second or third axis."""
    axis = {"Vstack": 0, "Hstack": 1, "Dstack": 2}[type(call.layer).__name__]
    parts = call.call.args[0] if call.call.args else call.call.kwargs.get("xs")
    if not isinstance(parts, (list, tuple)) or not all(isinstance(part, Tensor) for part in parts):
        return call.opaque(f"{call.title} joins tensors with constants")
    if len(call.input_shapes[0]) <= max(axis, 1):
        return call.opaque(f"{call.title} joins tensors that get a new axis")
    axes = concatenated(call, axis, list(call.inputs), list(call.input_shapes))
    return Effect((axes,), keeps_zero=True, flow="moves")


@register_rule("ops.DepthToSpace")
def depth_to_space(call: LayerCall) -> Effect:
    """The channels of the positions of a block are blocks themselves; they are removed evenly."""
    channels, axes = _image_axes(call, "moves")
    labels = axes[channels]
    if labels is None:
        return Effect((axes,), keeps_zero=True)
    blocks = labels.reshape(call.layer.block_size**2, -1)
    call.tie(blocks, blocks[:1])
    out = tuple(blocks[0] if a == channels else None for a in range(len(axes)))
    return Effect((out,), keeps_zero=True)


@register_rule("ops.SpaceToDepth")
def space_to_depth(call: LayerCall) -> Effect:
    """Every position of a block has all channels, one position after the other."""
    channels, axes = _image_axes(call, "moves")
    labels = axes[channels]
    if labels is None:
        return Effect((axes,), keeps_zero=True)
    repeated = np.tile(labels, call.layer.block_size**2)
    out = tuple(repeated if a == channels else None for a in range(len(axes)))
    return Effect((out,), keeps_zero=True, flow="moves")


def _image_axes(call: LayerCall, what: str) -> tuple[int, Axes]:
    """The channel axis of an operation on images, and the labels on this axis alone."""
    axes = call.inputs[0]
    channels = channel_axis(call.layer, len(axes))
    return channels, protect_others(call, axes, channels, what)


@register_rule("ops.Unstack")
def unstack(call: LayerCall) -> Effect:
    """An axis disappears, whose channels are protected."""
    axes = call.inputs[0]
    axis = call.layer.axis % len(axes)
    call.protect(axes[axis], f"{call.title} makes a tensor of each of them")
    out = (*axes[:axis], *axes[axis + 1 :])
    return Effect((out,) * len(call.output_shapes), keeps_zero=True, flow="moves")


@register_rule("ops.Stack")
def stack(call: LayerCall) -> Effect:
    """Puts tensors side by side on a new axis and ties their channels."""
    rank = len(call.output_shapes[0])
    axis = call.layer.axis % rank
    grown = [(*axes[:axis], None, *axes[axis:]) for axes in call.inputs]
    shapes = [(*shape[:axis], 1, *shape[axis:]) for shape in call.input_shapes]
    return Effect((concatenated(call, axis, grown, shapes),), keeps_zero=True, flow="moves")


@register_rule("ops.Split", "ops.ArraySplit")
def split(call: LayerCall) -> Effect:
    """Each output holds a run of the channels; the cuts move when channels are removed."""
    axes, shape = call.inputs[0], call.input_shapes[0]
    axis = call.layer.axis % len(axes)
    labels = axes[axis]
    if labels is None:
        return Effect((axes,) * len(call.output_shapes), keeps_zero=True)
    sizes = [int(out[axis] or 0) for out in call.output_shapes]
    if sum(sizes) != shape[axis] or type(call.layer).__name__ == "ArraySplit":
        return call.opaque(f"{call.title} cuts them in a way that is not followed")
    cuts = np.cumsum(sizes)[:-1].tolist()

    def resize(keep: Keep) -> dict[str, Any]:
        return {"indices_or_sections": [keep.count(labels[:cut]) for cut in cuts]}

    parts = np.split(labels, cuts)
    outputs = tuple((*axes[:axis], part, *axes[axis + 1 :]) for part in parts)
    return Effect(outputs, resize=resize, sizes=(labels,), keeps_zero=True, flow="moves")


@register_rule("ops.GetItem")
def get_item(call: LayerCall) -> Effect:
    """x[:, :, :, 4:8]: slices cut the labels, numbers remove axes, and None adds axes."""
    axes = call.inputs[0]
    key = call.call.args[1] if len(call.call.args) > 1 else call.call.kwargs["key"]
    items = list(key) if isinstance(key, tuple) else [key]
    if any(not isinstance(i, (slice, int, type(None), type(Ellipsis))) for i in items):
        return call.opaque(f"{call.title} picks indices in a way that is not followed")
    consumed = sum(1 for i in items if isinstance(i, (slice, int)))
    if Ellipsis in items:
        at = items.index(Ellipsis)
        items[at : at + 1] = [slice(None)] * (len(axes) - consumed)
    items += [slice(None)] * (len(axes) - sum(1 for i in items if i is not None))
    out: list[Labels | None] = []
    cut: dict[int, tuple[Labels, slice]] = {}
    position = 0
    for place, item in enumerate(items):
        if item is None:
            out.append(None)
            continue
        labels = axes[position]
        position += 1
        if isinstance(item, int):
            call.protect(labels, f"{call.title} picks one of them by number")
            continue
        if labels is not None and item != slice(None):
            if item.step not in (None, 1):
                call.protect(labels, f"{call.title} takes every {item.step}th of them")
            else:
                cut[place] = (labels, item)
            labels = labels[item]
        out.append(labels)

    def shrink(keep: Keep) -> tuple[tuple[Any, ...], dict[str, Any]]:
        new_items = list(items)
        for place, (labels, item) in cut.items():
            start, stop, _ = item.indices(len(labels))
            new_items[place] = slice(keep.count(labels[:start]), keep.count(labels[:stop]))
        return (call.call.args[0], tuple(new_items)), {}

    arriving = tuple(labels for labels, _ in cut.values())
    return Effect((tuple(out),), reargument=shrink, sizes=arriving, keeps_zero=True)


@register_rule("ops.Pad")
def pad(call: LayerCall) -> Effect:
    """Adds channels with a constant before and after (in a parameter-free shortcut).

    The added channels are removed when the channels they are combined with are removed.
    """
    axes, layer = call.inputs[0], call.layer
    widths = np.broadcast_to(np.asarray(layer.pad_width), (len(axes), 2)).tolist()
    constant = layer.mode == "constant"
    if any(isinstance(value, Tensor) for value in call.call.kwargs.values()):
        return call.opaque(f"{call.title} pads with a computed value")
    out: list[Labels | None] = []
    sides: dict[int, tuple[Labels, Labels]] = {}
    for axis, (labels, (before, after)) in enumerate(zip(axes, widths, strict=True)):
        if labels is None or not (before or after):
            out.append(labels)
            continue
        if not constant:
            call.protect(labels, f"{call.title} repeats some of them ({layer.mode})")
        sides[axis] = (call.fresh(before), call.fresh(after))
        out.append(np.concatenate([sides[axis][0], labels, sides[axis][1]]))
        if not constant:
            call.protect(out[-1], f"{call.title} repeats channels ({layer.mode})")

    def resize(keep: Keep) -> dict[str, Any]:
        new_widths = [list(pair) for pair in widths]
        for axis, (before, after) in sides.items():
            new_widths[axis] = [keep.count(before), keep.count(after)]
        return {"pad_width": tuple(tuple(pair) for pair in new_widths)}

    sizes = tuple(labels for labels in out if labels is not None)
    zero = constant and not any(call.call.kwargs.values()) and len(call.call.args) == 1
    flow = "zero" if zero and not sides else ""
    return Effect((tuple(out),), resize=resize, sizes=sizes, keeps_zero=zero, flow=flow)


@register_rule(*(f"ops.{name}" for name in sorted(_REDUCTIONS)))
def reduce(call: LayerCall) -> Effect:
    """Reduced axes disappear; a sum may lose channels, other reductions protect them."""
    axes, layer = call.inputs[0], call.layer
    kind = type(layer).__name__
    rank = len(axes)
    listed = layer.axis if isinstance(layer.axis, (tuple, list)) else [layer.axis]
    reduced_axes = set(range(rank)) if layer.axis is None else {a % rank for a in listed}
    for axis in sorted(reduced_axes):
        if kind != "Sum":
            call.protect(axes[axis], f"{call.title} reduces them to one value")
    out: Axes
    if layer.keepdims:
        out = tuple(None if a in reduced_axes else labels for a, labels in enumerate(axes))
    else:
        out = tuple(labels for a, labels in enumerate(axes) if a not in reduced_axes)
    if len(out) != len(call.output_shapes[0]):
        return call.opaque(f"{call.title} reduces in a way that is not followed")
    flow = "same" if kind in _KEEPS_CONSTANT else ""
    if any(axes[a] is not None for a in reduced_axes):
        flow = ""
    return Effect((out,), keeps_zero=kind not in ("All", "Logsumexp"), flow=flow)


@register_rule("ops.Softmax", "ops.LogSoftmax")
def softmax(call: LayerCall) -> Effect:
    """Channels on the axis of the softmax are protected."""
    axes, axis = call.inputs[0], call.layer.axis
    listed = axis if isinstance(axis, (tuple, list)) else [axis]
    for a in range(len(axes)) if axis is None else listed:
        call.protect(axes[a], f"{call.title} is a softmax over these channels")
    return Effect((axes,))


@register_rule("ops.Flip", "ops.Roll", "ops.Cumsum", "ops.Cumprod", "ops.Sort", "ops.Repeat")
def along(call: LayerCall) -> Effect:
    """Works along one axis, whose channels are protected; other axes pass through."""
    axes = call.inputs[0]
    axis = call.layer.axis
    if axis is None:
        return call.opaque(f"{call.title} works along all axes")
    listed = {a % len(axes) for a in (axis if isinstance(axis, (tuple, list)) else [axis])}
    for a in listed:
        call.protect(axes[a], f"{call.title} works along the axis that holds these channels")
    out = tuple(None if a in listed else labels for a, labels in enumerate(axes))
    return Effect((out,), keeps_zero=True)


@register_rule(*(f"ops.{kind}" for kind in sorted(_SPATIAL)))
def spatial(call: LayerCall) -> Effect:
    """Works along the spatial axes, channel by channel."""
    _, axes = _image_axes(call, "works along")
    return Effect((axes,), keeps_zero=True)


@register_rule("ops.Take")
def take(call: LayerCall) -> Effect:
    """Picks indices along one axis, whose channels are protected; other axes pass through."""
    if (
        len(call.inputs) != 1
        or call.layer.axis is None
        or not isinstance(call.call.args[0], Tensor)
    ):
        return call.opaque(f"{call.title} picks computed indices")
    axes = call.inputs[0]
    axis = call.layer.axis % len(axes)
    call.protect(axes[axis], f"{call.title} picks them by their indices")
    added = len(call.output_shapes[0]) - len(axes) + 1
    return Effect(((*axes[:axis], *(None,) * added, *axes[axis + 1 :]),), keeps_zero=True)


@register_rule("ops.Normalize")
def normalize(call: LayerCall) -> Effect:
    """Divides by a norm, in which removed channels count as zero, and then no longer count."""
    axes, axis = call.inputs[0], call.layer.axis
    over = range(len(axes)) if axis is None else axis if isinstance(axis, (tuple, list)) else [axis]
    return Effect((axes,), keeps_zero=True, mixes=any(axes[a] is not None for a in over))
