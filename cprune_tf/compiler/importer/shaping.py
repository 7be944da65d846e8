"""Converters of layers that move elements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
from tvm import relax

from cprune_tf.compiler.importer.convolution import require_channels_last
from cprune_tf.compiler.importer.emitter import Emitter, as_float, shape
from cprune_tf.compiler.importer.registry import UnsupportedOperationError, register_converter


def reshape(emitter: Emitter, x: Any, target: Sequence[int]) -> Any:
    """Reshapes a tensor to a target shape, in which one extent may be -1."""
    extents, target = shape(x), [int(extent) for extent in target]
    if -1 in target:
        product = math.prod(extent for extent in target if extent != -1)
        target[target.index(-1)] = math.prod(extents) // product
    if tuple(target) == extents:
        return x
    return emitter.emit(relax.op.reshape(x, tuple(target)))


@register_converter(keras.layers.Flatten)
def convert_flatten(emitter: Emitter, layer: Any, x: Any) -> Any:
    """Converts the flattening of all axes but the first; channels must be last."""
    if layer.data_format == "channels_first" and len(shape(x)) > 2:
        require_channels_last(layer)
    return reshape(emitter, x, (shape(x)[0], math.prod(shape(x)[1:])))


@register_converter(keras.layers.Reshape)
def convert_reshape(emitter: Emitter, layer: Any, x: Any) -> Any:
    """Converts a reshaping to the layer's target shape."""
    return reshape(emitter, x, (shape(x)[0], *layer.target_shape))


@register_converter(keras.layers.Permute)
def convert_permute(emitter: Emitter, layer: Any, x: Any) -> Any:
    """Converts a permutation of axes."""
    return emitter.emit(relax.op.permute_dims(x, [0, *layer.dims]))


@register_converter(keras.layers.RepeatVector)
def convert_repeat_vector(emitter: Emitter, layer: Any, x: Any) -> Any:
    """Converts the repetition of a vector."""
    batch, size = shape(x)
    x = emitter.emit(relax.op.expand_dims(x, 1))
    return emitter.emit(relax.op.broadcast_to(x, (batch, layer.n, size)))


def pad(emitter: Emitter, x: Any, widths: Sequence[tuple[int, int]]) -> Any:
    """Pads each spatial axis with zeros; `widths` holds one (before, after) per axis."""
    flat = [0, 0, *(amount for pair in widths for amount in pair), 0, 0]
    return emitter.emit(relax.op.nn.pad(x, flat)) if any(flat) else x


@register_converter(keras.layers.ZeroPadding1D)
def convert_zero_padding1d(emitter: Emitter, layer: Any, x: Any) -> Any:
    """Converts zero padding of a sequence."""
    require_channels_last(layer)
    return pad(emitter, x, [tuple(layer.padding)])


@register_converter(keras.layers.ZeroPadding2D, keras.layers.ZeroPadding3D)
def convert_zero_padding(emitter: Emitter, layer: Any, x: Any) -> Any:
    """Converts zero padding of an image or a volume."""
    require_channels_last(layer)
    return pad(emitter, x, [tuple(pair) for pair in layer.padding])


def crop(emitter: Emitter, x: Any, widths: Sequence[tuple[int, int]]) -> Any:
    """Removes elements at the ends of spatial axes; `widths` holds one (before, after) per axis."""
    axes = list(range(1, 1 + len(widths)))
    begins = [before for before, _ in widths]
    ends = [shape(x)[axis] - after for axis, (_, after) in zip(axes, widths, strict=True)]
    return emitter.emit(relax.op.strided_slice(x, axes, begins, ends))


@register_converter(keras.layers.Cropping1D)
def convert_cropping1d(emitter: Emitter, layer: Any, x: Any) -> Any:
    """Converts the cropping of a sequence at its ends."""
    return crop(emitter, x, [tuple(layer.cropping)])


@register_converter(keras.layers.Cropping2D, keras.layers.Cropping3D)
def convert_cropping(emitter: Emitter, layer: Any, x: Any) -> Any:
    """Converts the cropping of an image or a volume at its borders."""
    require_channels_last(layer)
    return crop(emitter, x, [tuple(pair) for pair in layer.cropping])


@register_converter(keras.layers.CenterCrop)
def convert_center_crop(emitter: Emitter, layer: Any, x: Any) -> Any:
    """Converts a crop of the image's centre; the image must be at least as large as the target."""
    require_channels_last(layer)
    widths = []
    for size, target in zip(shape(x)[1:3], (layer.height, layer.width), strict=True):
        if size < target:
            raise UnsupportedOperationError(
                f"the image extent is {size}; expected at least the target {target}"
            )
        before = (size - target) // 2
        widths.append((before, size - target - before))
    return crop(emitter, x, widths)


def resize(emitter: Emitter, x: Any, size: Sequence[int], interpolation: str) -> Any:
    """Resizes images to (height, width): half-pixel centres as in TensorFlow, no antialiasing."""
    methods = {"nearest": "nearest_neighbor", "bilinear": "linear"}
    if interpolation not in methods:
        raise UnsupportedOperationError(
            f"interpolation is {interpolation!r}; expected 'nearest' or 'bilinear'"
        )
    is_nearest = interpolation == "nearest"
    return emitter.emit(
        relax.op.image.resize2d(
            x,
            tuple(int(extent) for extent in size),
            layout="NHWC",
            method=methods[interpolation],
            coordinate_transformation_mode=("tf_half_pixel_for_nn" if is_nearest else "half_pixel"),
            rounding_method="floor" if is_nearest else "",
        )
    )


@register_converter(keras.layers.UpSampling1D)
def convert_up_sampling1d(emitter: Emitter, layer: Any, x: Any) -> Any:
    """Converts the repetition of every element of a sequence."""
    return emitter.emit(relax.op.repeat(x, layer.size, axis=1))


@register_converter(keras.layers.UpSampling2D)
def convert_up_sampling2d(emitter: Emitter, layer: Any, x: Any) -> Any:
    """Converts the enlargement of an image by whole factors."""
    require_channels_last(layer)
    _, height, width, _ = shape(x)
    size = (height * layer.size[0], width * layer.size[1])
    return resize(emitter, x, size, layer.interpolation)


@register_converter(keras.layers.UpSampling3D)
def convert_up_sampling3d(emitter: Emitter, layer: Any, x: Any) -> Any:
    """Converts the repetition of every element of a volume."""
    require_channels_last(layer)
    for axis, times in enumerate(layer.size, start=1):
        x = emitter.emit(relax.op.repeat(x, times, axis=axis)) if times > 1 else x
    return x


@register_converter(keras.layers.Resizing)
def convert_resizing(emitter: Emitter, layer: Any, x: Any) -> Any:
    """Converts the resizing of an image."""
    require_channels_last(layer)
    settings = layer.get_config()
    for setting in ("crop_to_aspect_ratio", "pad_to_aspect_ratio", "antialias"):
        if settings.get(setting):
            raise UnsupportedOperationError(f"{setting}=True; expected False")
    # Not rounded, as in Keras's predict and in LiteRT; Keras's eager calls round integers.
    x = as_float(emitter, x)
    return resize(emitter, x, (layer.height, layer.width), layer.interpolation)


@register_converter("ops.Resize")
def convert_resize_operation(emitter: Emitter, operation: Any, x: Any) -> Any:
    """Converts `keras.ops.image.resize`."""
    for setting in ("crop_to_aspect_ratio", "pad_to_aspect_ratio", "antialias"):
        if getattr(operation, setting, False):
            raise UnsupportedOperationError(f"{setting}=True; expected False")
    if operation.data_format == "channels_first":
        raise UnsupportedOperationError("data_format is 'channels_first'; expected 'channels_last'")
    return resize(emitter, x, operation.size, operation.interpolation)


@register_converter(keras.layers.TimeDistributed)
def convert_time_distributed(emitter: Emitter, layer: Any, x: Any, mask: Any = None) -> Any:
    """Converts the wrapped layer once, with the steps moved into the batch axis."""
    if mask is not None:
        raise UnsupportedOperationError(
            "a mask is passed; expected none: masks are not supported here"
        )
    batch, steps, *rest = shape(x)
    y = emitter.convert(layer.layer, reshape(emitter, x, (batch * steps, *rest)))
    return reshape(emitter, y, (batch, steps, *shape(y)[1:]))
