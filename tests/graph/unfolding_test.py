"""Layers that only call other layers are followed inside; all others stay whole, with a reason."""

from __future__ import annotations

import re
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from cprune_tf.graph import Effect, analyze, functional_twin, mask, rebuild, register_rule
from cprune_tf.graph.flat import flatten
from cprune_tf.graph.parameters import ForEachSample, Parameter
from cprune_tf.graph.rules import REGISTRY
from tests.graph.models import functional, random_inputs, randomise, relative_error

layers, ops = keras.layers, keras.ops


@keras.saving.register_keras_serializable(package="unfolding_test")
class DropPath(layers.Layer):
    """Drops whole samples in training, and does nothing else."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seed = keras.random.SeedGenerator(0)

    def call(self, x: Any, training: Any = None) -> Any:
        if not training:
            return x
        return x * ops.cast(
            keras.random.uniform((ops.shape(x)[0], 1, 1), seed=self.seed) > 0.5, x.dtype
        )


class Attention(layers.Layer):
    """Attention as model libraries write it, with the sizes that arrive."""

    def __init__(self, width: int, heads: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.heads = heads
        self.query, self.key, self.value, self.out = (
            layers.Dense(width, name=name) for name in ("query", "key", "value", "out")
        )

    def build(self, shape: Any) -> None:
        for layer in (self.query, self.key, self.value, self.out):
            layer.build(shape)

    def call(self, x: Any) -> Any:
        batch, steps, width = ops.shape(x)

        def heads(y: Any) -> Any:
            y = ops.reshape(y, (batch, -1, self.heads, width // self.heads))
            return ops.transpose(y, (0, 2, 1, 3))

        query, key, value = (heads(layer(x)) for layer in (self.query, self.key, self.value))
        scores = ops.softmax(query @ ops.transpose(key, (0, 1, 3, 2)) * 0.3)
        y = ops.transpose(scores @ value, (0, 2, 1, 3))
        return self.out(ops.reshape(y, (batch, steps, width)))


class Block(layers.Layer):
    """A transformer's block."""

    def __init__(self, width: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.attention = Attention(width, 2, name="attention")
        self.norm = layers.LayerNormalization(name="norm")
        self.wide, self.narrow = layers.Dense(9, name="wide"), layers.Dense(width, name="narrow")
        self.drop_path = DropPath(name="drop_path")

    def build(self, shape: Any) -> None:
        self.attention.build(shape)
        self.norm.build(shape)
        self.wide.build(shape)
        self.narrow.build((*shape[:-1], 9))

    def call(self, x: Any, training: Any = None) -> Any:
        x = x + self.attention(self.norm(x))
        y = self.narrow(ops.gelu(self.wide(x)))
        return x + self.drop_path(y, training=training)


class Tokens(layers.Layer):
    """A token of its own before the others, and an embedding of the positions."""

    def __init__(self, width: int, steps: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.width = width
        self.positions = layers.Embedding(steps + 1, width, name="positions")
        self.numbers = ops.arange(steps + 1)

    def build(self, shape: Any) -> None:
        self.token = self.add_weight(shape=(1, 1, self.width), name="token", regularizer="l2")
        self.scale = self.add_weight(shape=(self.width,), initializer="ones", name="scale")
        self.mask = self.add_weight(shape=(self.width,), name="mask")  # as in DINO, of no use
        self.positions.build((1,))

    def call(self, x: Any) -> Any:
        token = ops.tile(self.token, (ops.shape(x)[0], 1, 1))
        x = ops.concatenate([token, x * self.scale], axis=1)
        return x + self.positions(self.numbers)


def _sequence(*inside: Any, width: int = 8) -> Any:
    def build(x: Any) -> Any:
        x = layers.Dense(width, name="first")(x)
        for layer in inside:
            x = layer(x)
        return layers.Dense(3, name="last")(layers.GlobalAveragePooling1D()(x))

    return randomise(functional((6, 5), build))


def _check(model: Any, removal: dict[str, list[int]]) -> Any:
    """Compares the rebuilt model with the masked one, and the copy with the original."""
    small, masked = rebuild(model, removal, fold_constants=False), mask(model, removal)
    data = random_inputs(model)
    assert relative_error(functional_twin(model), model, data) < 1e-5
    assert relative_error(small, masked, data) < 1e-5
    assert relative_error(masked, model, data) > 1e-3
    return small


def test_the_layers_inside_a_block_are_pruned() -> None:
    model = _sequence(Block(8, name="one"), Block(8, name="two"))
    graph = analyze(model)
    assert [group.name for group in graph.groups if group.protected] == ["last"]
    small = _check(
        model, {"first": [1], "one_wide": [0, 4], "two_wide": [2], "two_attention_value": [1]}
    )
    assert small.get_layer("one_wide").units == 7
    # The rate of dropped samples is needed in training, so the layer itself stays.
    assert isinstance(small.get_layer("two_drop_path"), DropPath)


def test_the_original_is_not_changed() -> None:
    model = _sequence(Block(8, name="one"))
    block = model.get_layer("one")
    before = [(w.path, w.numpy().copy()) for w in model.weights]
    uid = keras.backend.get_uid("dense")
    analyze(model)
    assert keras.backend.get_uid("dense") == uid + 1
    assert all(
        path == weight.path and (value == weight.numpy()).all()
        for (path, value), weight in zip(before, model.weights, strict=True)
    )
    with pytest.raises(AttributeError, match="never been called"):
        _ = block.wide.output


def test_weights_of_its_own_stay_weights(tmp_path: Any) -> None:
    model = _sequence(Tokens(8, 6, name="tokens"), Block(8, name="block"))
    assert analyze(model)["first"].protected is None
    small = _check(model, {"first": [0, 3], "block_wide": [1]})
    kinds = [type(layer) for layer in small.layers]
    assert kinds.count(Parameter) == 3 and kinds.count(ForEachSample) == 1
    assert small.get_layer("tokens_token").value.shape == (1, 1, 6)
    assert len(small.losses) == 1  # the token's regularizer
    small.save(tmp_path / "small.keras")
    loaded = keras.models.load_model(tmp_path / "small.keras")
    data = random_inputs(small)
    assert relative_error(loaded, small, data) == 0.0

    small.compile("sgd", "mse")
    before = small.get_layer("tokens_embeddings").value.numpy().copy()
    small.fit(data, np.ones((len(data), 3)), verbose=0)
    assert np.abs(small.get_layer("tokens_embeddings").value.numpy() - before).max() > 0


def test_a_shared_block_is_one_set_of_layers() -> None:
    block = Block(8, name="block")
    model = _sequence(block, block)
    assert len([c for c in flatten(model).calls if c.name == "block_wide"]) == 2
    small = _check(model, {"block_wide": [0, 1], "first": [2]})
    assert small.count_params() < model.count_params()


def test_any_batch_size_works() -> None:
    small = rebuild(_sequence(Block(8, name="one"), Tokens(8, 6)), {"one_wide": [0]})
    for batch in (1, 5):
        assert small(np.zeros((batch, 6, 5), "float32")).shape == (batch, 3)


class OtherWay(Block):
    def call(self, x: Any, training: Any = None) -> Any:
        return super().call(x) * 2.0 if training else super().call(x)


class TrainsByDefault(Block):
    def call(self, x: Any, training: Any = True) -> Any:
        return super().call(x) * 2.0 if training else super().call(x)


class UsesValues(Block):
    def call(self, x: Any) -> Any:
        return tf.identity(super().call(x))


class UsesBatch(Block):
    def call(self, x: Any) -> Any:
        return super().call(x) + ops.zeros((ops.shape(x)[0], 6, 8))


class UsesKernel(Block):
    """Uses the weight of a layer that it calls, too."""

    def call(self, x: Any) -> Any:
        return ops.matmul(self.wide(x), ops.transpose(self.wide.kernel))


class Draws(Block):
    def __init__(self, width: int, **kwargs: Any) -> None:
        super().__init__(width, **kwargs)
        self.seed = keras.random.SeedGenerator(0)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (OtherWay, "its training takes another way"),
        (UsesValues, "does not work on a graph"),
        (UsesBatch, "needs the size of the batch"),
        (UsesKernel, "uses the weights of 'wide', and calls it|does not work on a graph"),
        (Draws, "draws random numbers"),
    ],
)
def test_a_layer_that_cannot_be_followed_stays_whole(kind: Any, reason: str) -> None:
    model = _sequence(kind(8, name="block"))
    protected = analyze(model).group_of("first").protected
    assert protected is not None
    assert re.search(reason, protected), protected
    assert "block" in {call.name for call in flatten(model).calls}


def test_a_default_that_trains_is_kept() -> None:
    model = _sequence(TrainsByDefault(8, name="block"))
    assert relative_error(functional_twin(model), model, random_inputs(model)) < 1e-5


def test_a_layer_with_a_rule_stays_whole() -> None:
    register_rule(Block)(lambda call: Effect((call.inputs[0],)))
    try:
        assert "block" in {c.name for c in flatten(_sequence(Block(8, name="block"))).calls}
    finally:
        REGISTRY.unregister(Block)
    assert "block_wide" in {c.name for c in flatten(_sequence(Block(8, name="block"))).calls}


def test_an_activation_of_the_users_own_is_followed_if_it_acts_on_single_values() -> None:
    def quick(x: Any) -> Any:
        return x * ops.sigmoid(1.7 * x)

    def over_channels(x: Any) -> Any:
        return x / ops.sum(x, axis=-1, keepdims=True)

    good = _sequence(layers.Dense(6, activation=quick, name="dense"))
    assert analyze(good)["dense"].protected is None
    _check(good, {"dense": [1, 2]})
    bad = _sequence(layers.Dense(6, activation=over_channels, name="dense"))
    assert "may mix channels" in str(analyze(bad)["dense"].protected)
