"""Blocks of a user's own, their weights and functions, and models of KerasHub beside Keras."""

from __future__ import annotations

import importlib.util

import keras
import pytest

from benchmarks import hub_zoo

from .beside_keras import random_inputs

layers, ops = keras.layers, keras.ops


class Block(layers.Layer):
    """Joins a token of its own, scales, mixes the steps, and acts by a function of its own."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(width, activation=lambda x: x * ops.sigmoid(1.7 * x))

    def build(self, shape):
        self.dense.build(shape)
        self.token = self.add_weight(shape=(1, 1, shape[-1]), name="token")
        self.scale = self.add_weight(shape=(shape[-1],), name="scale")

    def call(self, x):
        batch, steps, width = ops.shape(x)
        token = ops.tile(self.token, (batch, 1, 1))
        x = ops.concatenate([token, x * self.scale], axis=1)
        heads = ops.transpose(ops.reshape(self.dense(x), (batch, -1, 2, width // 2)), (0, 2, 1, 3))
        scores = ops.softmax(ops.matmul(heads, ops.transpose(heads, (0, 1, 3, 2))))
        mixed = ops.transpose(ops.matmul(scores, heads), (0, 2, 1, 3))
        return ops.reshape(mixed, (batch, steps + 1, width))


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_block_of_the_users_own(batch_size, check_against_keras):
    inputs = keras.Input((6, 8), name="steps")
    x = Block(8, name="one")(inputs)
    model = keras.Model(inputs, layers.Dense(3)(Block(8, name="two")(x)))
    imported = check_against_keras(model, batch_size=batch_size)
    assert "one_token/token" in imported.params


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("keras_hub"), reason="keras-hub is not installed")
@pytest.mark.parametrize(
    "name",
    ["MobileNet/small_050", "MobileNetV5/small", "HGNetV2/b0", "MiT/b0", "ViT/tiny", "Swin/tiny"],
)
def test_models_of_keras_hub(name, check_against_keras):
    model = hub_zoo.build(name)
    check_against_keras(model, random_inputs(model, 2), batch_size=2)
