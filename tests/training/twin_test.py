from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from cprune_tf.models import load_model, resnet8, vgg_small
from cprune_tf.training.twin import (
    FusedBatchNormalization,
    chosen_precision,
    statistics_twin,
    training_twin,
)

_IMAGES = np.random.default_rng(0).random((16, 28, 28, 1), np.float32)


def _bn_model(**arguments: object) -> keras.Model:
    inputs = keras.Input((28, 28, 1))
    x = layers.Conv2D(4, 3, name="conv")(inputs)
    x = layers.BatchNormalization(name="bn", **arguments)(x)
    x = layers.Activation("swish")(x)
    return keras.Model(inputs, layers.GlobalAveragePooling2D()(x))


def _nested() -> keras.Model:
    inputs = keras.Input((28, 28, 1))
    return keras.Model(inputs, layers.Dense(3)(_bn_model()(inputs)))


def _shared_between_nested() -> keras.Model:
    shared = layers.Conv2D(2, 3, padding="same", name="shared")

    def tower(name: str) -> keras.Model:
        inputs = keras.Input((28, 28, 1))
        return keras.Model(inputs, layers.BatchNormalization()(shared(inputs)), name=name)

    inputs = keras.Input((28, 28, 1))
    joined = layers.Add()([tower("first")(inputs), tower("second")(inputs), shared(inputs)])
    return keras.Model(inputs, layers.GlobalAveragePooling2D()(joined))


_MODELS = {
    "resnet8": resnet8,
    "without scale": lambda: _bn_model(scale=False),
    "without centre": lambda: _bn_model(center=False),
    "large epsilon": lambda: _bn_model(epsilon=0.1, momentum=0.5),
    "tiny epsilon": lambda: _bn_model(epsilon=1e-7),
    "nested": _nested,
    "sequential": lambda: keras.Sequential([keras.Input((28, 28, 1)), _bn_model()]),
}


def _as_float64(model: keras.Model) -> keras.Model:
    def copy(layer: layers.Layer) -> layers.Layer:
        if isinstance(layer, keras.Model):
            return keras.models.clone_model(layer, clone_function=copy)
        return type(layer).from_config({**layer.get_config(), "dtype": "float64"})

    exact = keras.models.clone_model(model, clone_function=copy)
    exact.set_weights(model.get_weights())
    return exact


def test_a_compiled_model_is_copied_whatever_its_loss():
    def own_loss(labels, outputs):
        return keras.ops.mean(keras.ops.square(labels - outputs), axis=-1)

    inner = keras.Sequential([layers.Input((4,)), layers.Dense(3)])
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(2)(inner(inputs)))
    for one in (inner, model):
        one.compile("sgd", own_loss)
    for twin in (training_twin(model), statistics_twin(model)):
        assert not twin.compiled
        np.testing.assert_array_equal(twin(np.ones((1, 4))), model(np.ones((1, 4))))
    assert model.compiled and model.loss is own_loss and inner.compiled


def test_a_layer_that_nested_models_share_has_one_copy() -> None:
    model = _shared_between_nested()
    twin = training_twin(model)
    assert [weight.shape for weight in twin.weights] == [weight.shape for weight in model.weights]
    images = np.random.default_rng(0).normal(size=(2, 28, 28, 1)).astype("float32")
    np.testing.assert_allclose(twin(images), model(images), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", _MODELS)
def test_twin_trains_like_keras(name):
    """Outputs, gradients and moving statistics of a training step; outputs in inference.

    Keras in double precision is the judge: in single precision, Keras' own gradients are further
    from it than the fused kernel's.
    """
    keras.utils.set_random_seed(0)
    model = _MODELS[name]()
    rng = np.random.default_rng(1)
    model.set_weights([w + 0.1 * rng.random(w.shape, np.float32) for w in model.get_weights()])
    results = []
    for each, dtype in ((training_twin(model), np.float32), (_as_float64(model), np.float64)):
        images = _IMAGES.astype(dtype)
        with tf.GradientTape() as tape:
            outputs = each(images, training=True)
            loss = tf.reduce_sum(outputs**2)
        gradients = tape.gradient(loss, [v.value for v in each.trainable_variables])
        inference = each(images, training=False)
        arrays = [x.numpy() for x in (outputs, inference, *gradients)]
        results.append(arrays + each.get_weights())
    for received, exact in zip(*results, strict=True):
        # Single precision alone is up to 2.5e-4 away, depending on the weights.
        np.testing.assert_allclose(received, exact, atol=5e-4 * max(1.0, np.abs(exact).max()))


def test_the_moving_variance_is_keras_biased_one():
    """Of two values the unbiased estimate would be twice as high."""
    inputs = keras.Input((1, 1, 3))
    model = keras.Model(inputs, layers.BatchNormalization(momentum=0.0, name="bn")(inputs))
    twin = training_twin(model)
    images = np.array([1, 2, 3, 3, 6, 11], np.float32).reshape(2, 1, 1, 3)
    twin(images, training=True)
    np.testing.assert_allclose(twin.get_layer("bn").moving_mean.numpy(), [2, 4, 7], rtol=1e-6)
    np.testing.assert_allclose(twin.get_layer("bn").moving_variance.numpy(), [1, 4, 16], rtol=1e-6)


def _count_fused(model: keras.Model) -> int:
    count = 0
    for layer in model.layers:
        nested = isinstance(layer, keras.Model)
        count += _count_fused(layer) if nested else isinstance(layer, FusedBatchNormalization)
    return count


@pytest.mark.parametrize(
    ("model", "count"),
    [
        (load_model("resnet8_fashion"), 9),
        (_nested(), 1),
        (vgg_small(), 0),
        (_bn_model(axis=1), 0),
        (_bn_model(dtype="float16"), 0),
    ],
)
def test_only_what_the_kernel_can_do_is_fused(model, count):
    assert _count_fused(training_twin(model)) == count


def test_frozen_normalisation_stays_frozen():
    model = _bn_model()
    model.get_layer("bn").trainable = False
    twin = training_twin(model)
    before = twin.get_weights()
    np.testing.assert_allclose(twin(_IMAGES, training=True), model(_IMAGES), atol=1e-6)
    for one, two in zip(before, twin.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_twin_is_independent():
    model = resnet8()
    before = model.get_weights()
    twin = training_twin(model)
    twin.set_weights([w + 1 for w in before])
    twin(_IMAGES, training=True)
    for one, two in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("name", ["resnet8", "nested", "sequential"])
def test_a_twin_in_bfloat16_keeps_float32_weights_and_outputs(name):
    """It computes in bfloat16 (the outputs differ) to three digits, and its statistics in full."""
    keras.utils.set_random_seed(0)
    model = _MODELS[name]()
    exact, twin = training_twin(model), training_twin(model, precision="mixed_bfloat16")
    assert {w.dtype for w in twin.weights} == {"float32"}
    for training in (True, False):
        expected = exact(_IMAGES, training=training)
        received = twin(_IMAGES, training=training)
        assert received.dtype == tf.float32
        difference = np.abs(received.numpy() - expected.numpy()).max()
        assert 0 < difference < 0.02 * np.abs(expected.numpy()).max()
    for one, two in zip(twin.get_weights(), exact.get_weights(), strict=True):
        np.testing.assert_allclose(one, two, rtol=0.02, atol=0.01)


def test_layers_with_a_type_of_their_own_and_custom_layers_stay_as_they_are():
    class Doubling(layers.Layer):
        def call(self, inputs: tf.Tensor) -> tf.Tensor:
            return inputs * tf.constant(2.0)

    inputs = keras.Input((28, 28, 1))
    x = layers.Conv2D(4, 3, name="conv")(inputs)
    x = layers.Conv2D(4, 3, dtype="float64", name="exact")(Doubling(name="own")(x))
    model = keras.Model(inputs, layers.Dense(2, name="head")(layers.Flatten()(x)))
    twin = training_twin(model, precision="mixed_bfloat16")
    types = {name: twin.get_layer(name).compute_dtype for name in ("conv", "own", "exact", "head")}
    assert types == {"conv": "bfloat16", "own": "float32", "exact": "float64", "head": "float32"}
    assert twin(_IMAGES).shape == (16, 2)


def test_auto_takes_bfloat16_where_the_processor_has_it(monkeypatch):
    for features, expected in (
        ({"avx2"}, "float32"),
        ({"avx512_bf16"}, "mixed_bfloat16"),
        ({"bf16", "neon"}, "mixed_bfloat16"),
    ):
        monkeypatch.setattr("cprune_tf.training.twin.cpu_features", lambda f=features: frozenset(f))
        assert chosen_precision("auto") == expected
        assert chosen_precision("float32") == "float32"
