"""Random small models for property tests, and a strategy that draws them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from hypothesis import strategies as st

from tests.graph.models import randomise

layers, ops = keras.layers, keras.ops


class Mixer(layers.Layer):
    """A block of a user's own, which is followed inside: attention, an MLP, a scale, a token."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.made = [layers.Dense(width) for _ in range(3)]
        self.wide, self.narrow = layers.Dense(width + 3, activation="gelu"), layers.Dense(width)

    def build(self, shape: Any) -> None:
        for layer in (*self.made, self.wide):
            layer.build(shape)
        self.narrow.build((*shape[:-1], self.wide.units))
        self.scale = self.add_weight(shape=(shape[-1],), name="scale", initializer="ones")
        self.token = self.add_weight(shape=(1, 1, shape[-1]), name="token")

    def call(self, x: Any) -> Any:
        batch, steps, width = ops.shape(x)

        def split(y: Any) -> Any:
            y = ops.reshape(y, (batch, -1, self.heads, width // self.heads))
            return ops.transpose(y, (0, 2, 1, 3))

        context = ops.concatenate([ops.tile(self.token, (batch, 1, 1)), x], axis=1)
        query, key, value = (
            split(layer(tokens))
            for layer, tokens in zip(self.made, (x, context, context), strict=True)
        )
        scores = ops.softmax(ops.matmul(query, ops.transpose(key, (0, 1, 3, 2))))
        y = ops.transpose(ops.matmul(scores, value), (0, 2, 1, 3))
        x = x + self.scale * ops.reshape(y, (batch, steps, width))
        return x + self.narrow(self.wide(x))


class Builder:
    """Grows a model step by step; every choice is an integer drawn by hypothesis.

    All live tensors are 6 x 6 maps, so that any two can be joined.
    """

    def __init__(self, draw: Callable[[int], int]) -> None:
        self._draw = draw
        image = keras.Input((6, 6, 3))
        self.inputs = [image]
        self.live = [layers.Conv2D(4 + draw(5), 3, padding="same")(image)]

    def pick(self) -> Any:
        return self.live[self._draw(len(self.live))]

    def pair(self) -> tuple[Any, Any]:
        """Two tensors of equal width."""
        a, b = self.pick(), self.pick()
        return a, b if a.shape[-1] == b.shape[-1] else layers.Conv2D(a.shape[-1], 1)(b)

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
            dilation_rate=1 + self._draw(2),
        )(x)

    def down_and_up(self) -> Any:
        """A strided convolution, and one of the ways back."""
        x = layers.Conv2D(3 + self._draw(4), 3, strides=2, padding="same")(self.pick())
        width = 3 + self._draw(3)
        ways = [
            layers.UpSampling2D(2),
            layers.Conv2DTranspose(width, 2, strides=2, activation="tanh"),
            lambda t: ops.image.resize(t, (6, 6)),
            lambda t: layers.Cropping2D(1)(layers.ZeroPadding2D(1)(layers.UpSampling2D(2)(t))),
        ]
        return ways[self._draw(len(ways))](x)

    def as_sequence(self) -> Any:
        """Rows of pixels: a 1D convolution, an attention or an MLP on them."""
        x = self.pick()
        width = x.shape[-1]
        tokens = layers.Reshape((36, width))(x)
        kind = self._draw(8)
        if kind == 0:
            tokens = layers.Conv1D(2 + self._draw(5), 3, padding="causal")(tokens)
        elif kind == 1:
            y = layers.LayerNormalization()(tokens)
            y = layers.MultiHeadAttention(2 + self._draw(2), 2)(y, y)
            tokens = layers.Add()([tokens, y])
        elif kind == 2:
            y = layers.GroupQueryAttention(2, 4, (1, 2)[self._draw(2)])(tokens, tokens)
            tokens = layers.Add()([tokens, y])
        elif kind == 3:
            y = layers.Dense(3 + self._draw(5), activation="gelu")(tokens)
            tokens = layers.Add()([tokens, layers.Dense(width)(y)])
        elif kind == 4:
            y = layers.Dense(width + 2)(tokens)
            kinds = (layers.Attention, layers.AdditiveAttention)
            tokens = kinds[self._draw(2)]()([y, tokens, layers.Dense(width + 2)(tokens)])
        elif kind == 5:
            heads = 2 if width % 2 == 0 else 1
            tokens = Mixer(width, heads)(tokens)
        elif kind == 6:
            y, z = layers.Dense(3)(tokens), layers.Dense(2 + self._draw(4))(tokens)
            tokens = ops.einsum("bnc,bcd->bnd", y, ops.einsum("bnc,bnd->bcd", y, z))
        else:
            y = layers.EinsumDense("abc,cde->abde", (36, 2, 3), bias_axes="de")(tokens)
            tokens = layers.EinsumDense("abde,dec->abc", (36, 4))(y)
        return layers.Reshape((6, 6, -1))(tokens)

    def as_volume(self) -> Any:
        """A third dimension for a while."""
        x = self.pick()
        width = x.shape[-1]
        if self._draw(2):
            y = layers.Conv3D(2 + self._draw(4), 3, padding="same")(ops.expand_dims(x, 3))
            return ops.squeeze(y, 3)
        y = layers.Reshape((1, 6, 6, width))(x)
        y = layers.TimeDistributed(layers.Conv2D(2 + self._draw(4), 3, padding="same"))(y)
        return layers.Reshape((6, 6, -1))(y)

    def permuted(self) -> Any:
        """Channels leave the last axis and come back."""
        x = self.pick()
        if self._draw(2):
            return layers.Permute((2, 3, 1))(layers.ReLU()(layers.Permute((3, 1, 2))(x)))
        return ops.transpose(ops.tanh(ops.swapaxes(x, 1, 3)), (0, 3, 2, 1))

    def shuffled(self) -> Any:
        """A channel shuffle, where the width is even."""
        x = self.pick()
        width = x.shape[-1]
        if width % 2:
            x, width = layers.Conv2D(width + 1, 1)(x), width + 1
        parts = layers.Reshape((6, 6, 2, width // 2))(x)
        return layers.Reshape((6, 6, width))(layers.Permute((1, 2, 4, 3))(parts))

    def embedded(self) -> Any:
        """A second input: row numbers of an embedding."""
        tokens = keras.Input((6, 6), dtype="int32")
        self.inputs.append(tokens)
        return layers.Embedding(5, 2 + self._draw(5))(tokens)

    def second_image(self) -> Any:
        image = keras.Input((6, 6, 2))
        self.inputs.append(image)
        return layers.Conv2D(2 + self._draw(5), 3, padding="same")(image)

    def stacked(self) -> Any:
        """A concatenation along the rows, pooled back."""
        joined = layers.Concatenate(axis=1)(list(self.pair()))
        return layers.MaxPooling2D((2, 1))(joined)

    def norm(self) -> Any:
        x = self.pick()
        kinds = [layers.BatchNormalization, layers.LayerNormalization, layers.RMSNormalization]
        kinds += [lambda: layers.GroupNormalization(-1), layers.UnitNormalization]
        if x.shape[-1] % 2 == 0:
            kinds += [lambda: layers.GroupNormalization(2)]
        return kinds[self._draw(len(kinds))]()(x)

    def activation(self) -> Any:
        x = self.pick()
        kinds = [
            layers.ReLU(),
            layers.PReLU(shared_axes=[1, 2]),
            layers.Activation("softplus"),
            layers.PReLU(),
            layers.LeakyReLU(),
            layers.Rescaling(0.5, 0.1),
            layers.Dropout(0.3),
            ops.tanh,
            lambda t: ops.relu(t - 0.1),
            lambda t: t[..., ::-1],
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
        a, b = self.pair()
        if self._draw(4) == 0:
            b = layers.GlobalMaxPooling2D(keepdims=bool(self._draw(2)))(b)
        kinds = [layers.Add(), layers.Multiply(), layers.Maximum(), layers.Minimum()]
        kinds += [layers.Average()]
        if len(b.shape) == 4:
            kinds += [layers.Subtract()]
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
        a, b = self.pair()
        layer = layers.Conv2D(3 + self._draw(4), 3, padding="same")
        self.live.append(layer(a))
        return layer(b)

    def nested(self) -> Any:
        """A model in the model, called once, or twice with two outputs."""
        a, b = self.pair()
        width = 3 + self._draw(4)
        inner = keras.Input(a.shape[1:])
        y = layers.BatchNormalization()(layers.Conv2D(width, 1)(inner))
        if self._draw(2):
            return keras.Sequential([keras.Model(inner, y), layers.ReLU()])(a)
        tower = keras.Model(
            inner, [y, layers.Add()([y, layers.Conv2D(width, 3, padding="same")(y)])]
        )
        first, second = tower(a), tower(b)
        self.live += [first[1], second[0]]
        return first[0]

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
            self.down_and_up,
            self.as_sequence,
            self.as_volume,
            self.permuted,
            self.shuffled,
            self.embedded,
            self.second_image,
            self.stacked,
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
        """One to three outputs that read the last tensors; one may be a tensor itself."""
        heads = [
            lambda x: layers.Dense(2)(layers.Flatten()(x)),
            lambda x: layers.Dense(2)(layers.GlobalMaxPooling2D()(x)),
            lambda x: layers.Conv2D(2, 3)(x),
            lambda x: layers.Dense(2)(layers.Flatten()(layers.AveragePooling2D(2)(x))),
            lambda x: layers.Dense(2)(layers.GlobalAveragePooling1D()(layers.Reshape((36, -1))(x))),
        ]
        outputs = [heads[self._draw(len(heads))](self.live[-1])]
        if self._draw(3) == 0:
            outputs.append(heads[self._draw(len(heads))](self.pick()))
        if self._draw(8) == 0:
            outputs.append(ops.relu(self.pick()))
        return keras.Model(self.inputs, outputs if len(outputs) > 1 else outputs[0])


class ResidualBuilder(Builder):
    """Every second step is a residual branch that is grown by random steps."""

    def step(self) -> None:
        if self._draw(2):
            super().step()
            return
        live, x = self.live, self.pick()
        self.live = [x]
        for _ in range(1 + self._draw(3)):
            super().step()
        y = self.live[-1]
        if y.shape[-1] != x.shape[-1] or self._draw(2):
            y = layers.Conv2D(x.shape[-1], (1, 3)[self._draw(2)], padding="same")(y)
        inside = self.live[1:] if self._draw(4) == 0 else []
        self.live = [*live, *inside, layers.Add()([x, y]) if self._draw(2) else y + x]


@st.composite
def models(draw: Any, max_steps: int = 7, kind: type[Builder] = Builder) -> Any:
    """A random model with random weights."""
    builder = kind(lambda count: draw(st.integers(0, count - 1)))
    for _ in range(draw(st.integers(1, max_steps))):
        builder.step()
    return randomise(builder.finish())
