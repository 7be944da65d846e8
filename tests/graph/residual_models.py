"""Residual blocks and chains of them, for the tests of branches that vanish."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from cprune_tf.graph import analyze
from tests.graph.models import functional

layers = keras.layers


def conv(x: Any, filters: int, size: int, name: str, **options: Any) -> Any:
    return layers.Conv2D(filters, size, padding="same", name=name, **options)(x)


def normal(x: Any, name: str) -> Any:
    return layers.BatchNormalization(name=f"{name}_bn")(x)


def basic(x: Any, name: str, inner: int = 6) -> Any:
    """The block of ResNet-18."""
    y = layers.ReLU()(normal(conv(x, inner, 3, f"{name}_a", use_bias=False), f"{name}_a"))
    y = normal(conv(y, x.shape[-1], 3, f"{name}_b", use_bias=False), f"{name}_b")
    return layers.ReLU()(layers.Add(name=f"{name}_sum")([x, y]))


def projected(x: Any, name: str, inner: int = 6, width: int = 10) -> Any:
    """A basic block whose branch comes first and whose shortcut is a convolution."""
    y = layers.ReLU()(normal(conv(x, inner, 3, f"{name}_a", strides=2), f"{name}_a"))
    y = normal(conv(y, width, 3, f"{name}_b"), f"{name}_b")
    shortcut = normal(conv(x, width, 1, f"{name}_short", strides=2), f"{name}_short")
    return layers.ReLU()(layers.Add(name=f"{name}_sum")([y, shortcut]))


def bottleneck(x: Any, name: str, inner: int = 5) -> Any:
    y = layers.ReLU()(normal(conv(x, inner, 1, f"{name}_a"), f"{name}_a"))
    y = layers.ReLU()(normal(conv(y, inner + 1, 3, f"{name}_b"), f"{name}_b"))
    return layers.ReLU()(x + normal(conv(y, x.shape[-1], 1, f"{name}_c"), f"{name}_c"))


def inverted(x: Any, name: str, inner: int = 12) -> Any:
    """The block of MobileNetV2: its sum is linear."""
    y = layers.ReLU(6.0)(normal(conv(x, inner, 1, f"{name}_a", use_bias=False), f"{name}_a"))
    y = layers.DepthwiseConv2D(3, padding="same", name=f"{name}_dw")(y)
    y = layers.ReLU(6.0)(normal(y, f"{name}_dw"))
    y = normal(conv(y, x.shape[-1], 1, f"{name}_b", use_bias=False), f"{name}_b")
    return layers.Add(name=f"{name}_sum")([x, y])


def preactivated(x: Any, name: str, inner: int = 6) -> Any:
    y = conv(layers.ReLU()(normal(x, f"{name}_0")), inner, 3, f"{name}_a")
    y = layers.ReLU()(normal(y, f"{name}_1"))
    return layers.Add(name=f"{name}_sum")([x, conv(y, x.shape[-1], 3, f"{name}_b")])


def squeeze(x: Any, name: str) -> Any:
    s = layers.GlobalAveragePooling2D(keepdims=True)(x)
    s = layers.Dense(3, activation="relu", name=f"{name}_reduce")(s)
    return layers.Multiply()([x, layers.Dense(x.shape[-1], activation="sigmoid")(s)])


def excited_inside(x: Any, name: str, inner: int = 8) -> Any:
    """The block of EfficientNet: squeeze and excitation on the inner channels."""
    y = layers.Activation("silu")(normal(conv(x, inner, 1, f"{name}_a"), f"{name}_a"))
    y = normal(conv(squeeze(y, name), x.shape[-1], 1, f"{name}_b"), f"{name}_b")
    return layers.Add(name=f"{name}_sum")([x, y])


def excited_behind(x: Any, name: str, inner: int = 8) -> Any:
    """The block of SE-ResNet: squeeze and excitation before the sum."""
    y = layers.Activation("silu")(normal(conv(x, inner, 1, f"{name}_a"), f"{name}_a"))
    y = squeeze(normal(conv(y, x.shape[-1], 1, f"{name}_b"), f"{name}_b"), name)
    return layers.Add(name=f"{name}_sum")([x, y])


BLOCKS = [
    basic,
    projected,
    bottleneck,
    inverted,
    preactivated,
    excited_inside,
    excited_behind,
]


def chain(*blocks: Callable[[Any, str], Any]) -> Any:
    """A model of residual blocks called block0, block1, ..."""

    def build(x: Any) -> Any:
        x = normal(conv(x, 8, 3, "stem"), "stem")
        for number, block in enumerate(blocks):
            x = block(x, f"block{number}")
        return layers.Dense(3, name="head")(layers.GlobalAveragePooling2D()(x))

    return functional((8, 8, 3), build)


def whole(model: Any, *names: str) -> dict[str, list[int]]:
    """The removal of all units of some groups."""
    graph = analyze(model)
    return {name: list(range(graph[name].num_channels)) for name in names}
