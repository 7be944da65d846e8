"""Random small models for property tests, and a strategy that draws them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from hypothesis import strategies as st

from tests.graph.models import randomise

layers, ops = keras.layers, keras.ops


class Builder:
    """Grows a model step by step; every choice is an integer drawn by hypothesis."""

    def __init__(self, draw: Callable[[int], int]) -> None:
        self._draw = draw
        self.inputs = keras.Input((6, 6, 3))
        self.live = [layers.Conv2D(4 + draw(5), 3, padding="same")(self.inputs)]

    def pick(self) -> Any:
        return self.live[self._draw(len(self.live))]

    def conv(self) -> Any:
        x = self.pick()
        same = ("same", "valid")[self._draw(2)]
        size = (1, 3)[self._draw(2)] if same == "same" else 1
        activation = (None, "relu", "sigmoid", "elu")[self._draw(4)]
        return layers.Conv2D(
            2 + self._draw(7),
            size,
            padding=same,
            activation=activation,
            use_bias=bool(self._draw(2)),
        )(x)

    def norm(self) -> Any:
        x = self.pick()
        kinds = [layers.BatchNormalization, layers.LayerNormalization, layers.RMSNormalization]
        kinds += [lambda: layers.GroupNormalization(-1), layers.UnitNormalization]
        return kinds[self._draw(len(kinds))]()(x)

    def activation(self) -> Any:
        x = self.pick()
        kinds = [
            layers.ReLU(),
            layers.PReLU(shared_axes=[1, 2]),
            layers.Activation("softplus"),
            ops.tanh,
            lambda t: ops.relu(t - 0.1),
        ]
        return kinds[self._draw(len(kinds))](x)

    def depthwise(self) -> Any:
        return layers.DepthwiseConv2D(3, padding="same", depth_multiplier=1 + self._draw(2))(
            self.pick()
        )

    def separable(self) -> Any:
        return layers.SeparableConv2D(3 + self._draw(4), 3, padding="same")(self.pick())

    def grouped(self) -> Any:
        x = layers.Conv2D(8, 1)(self.pick())
        groups = (2, 4, 8)[self._draw(3)]
        return layers.Conv2D(8 * (1 + self._draw(2)), 3, padding="same", groups=groups)(x)

    def merge(self) -> Any:
        a, b = self.pick(), self.pick()
        if a.shape[-1] != b.shape[-1]:
            b = layers.Conv2D(a.shape[-1], 1)(b)
        kinds = [layers.Add(), layers.Multiply(), layers.Maximum(), layers.Average()]
        return kinds[self._draw(len(kinds))]([a, b])

    def concat(self) -> Any:
        parts = [self.pick() for _ in range(2 + self._draw(2))]
        return layers.Concatenate()(parts)

    def split(self) -> Any:
        x = self.pick()
        cut = 1 + self._draw(x.shape[-1] - 1) if x.shape[-1] > 1 else 0
        if not cut:
            return x
        first, second = ops.split(x, [cut], axis=-1)
        self.live.append(first)
        return second

    def squeeze_excite(self) -> Any:
        x = self.pick()
        s = layers.GlobalAveragePooling2D(keepdims=bool(self._draw(2)))(x)
        s = layers.Dense(2 + self._draw(3), activation="relu")(s)
        s = layers.Dense(x.shape[-1], activation="sigmoid")(s)
        return layers.Multiply()([x, s])

    def shared(self) -> Any:
        a, b = self.pick(), self.pick()
        if a.shape[-1] != b.shape[-1]:
            b = layers.Conv2D(a.shape[-1], 1)(b)
        layer = layers.Conv2D(3 + self._draw(4), 3, padding="same")
        self.live.append(layer(a))
        return layer(b)

    def nested(self) -> Any:
        x = self.pick()
        width = 3 + self._draw(4)
        inner = keras.Sequential(
            [keras.Input(x.shape[1:]), layers.Conv2D(width, 1), layers.BatchNormalization()]
        )
        return inner(x)

    def spatial_gate(self) -> Any:
        x = self.pick()
        return layers.Multiply()([x, layers.Conv2D(1, 3, padding="same", activation="sigmoid")(x)])

    def padded_shortcut(self) -> Any:
        x = self.pick()
        wide = layers.Conv2D(x.shape[-1] + 2, 3, padding="same")(x)
        return layers.Add()([wide, ops.pad(x, ((0, 0), (0, 0), (0, 0), (1, 1)))])

    def step(self) -> None:
        kinds = [
            self.conv,
            self.norm,
            self.activation,
            self.depthwise,
            self.separable,
            self.merge,
            self.concat,
            self.split,
            self.squeeze_excite,
            self.shared,
            self.nested,
            self.spatial_gate,
            self.padded_shortcut,
        ]
        # A grouped convolution is compiled by XLA on its first call, which takes seconds.
        rare = self._draw(40) == 0
        self.live.append(self.grouped() if rare else kinds[self._draw(len(kinds))]())

    def finish(self) -> Any:
        """One or two outputs that read the last tensors."""
        heads = [
            lambda x: layers.Dense(2)(layers.Flatten()(x)),
            lambda x: layers.Dense(2)(layers.GlobalMaxPooling2D()(x)),
            lambda x: layers.Conv2D(2, 3)(x),
            lambda x: layers.Dense(2)(layers.Flatten()(layers.AveragePooling2D(2)(x))),
        ]
        outputs = [heads[self._draw(len(heads))](self.live[-1])]
        if self._draw(3) == 0:
            outputs.append(heads[self._draw(len(heads))](self.pick()))
        return keras.Model(self.inputs, outputs if len(outputs) > 1 else outputs[0])


@st.composite
def models(draw: Any, max_steps: int = 7) -> Any:
    """A random model with random weights."""
    builder = Builder(lambda count: draw(st.integers(0, count - 1)))
    for _ in range(draw(st.integers(1, max_steps))):
        builder.step()
    return randomise(builder.finish())
