"""Bias correction takes back how rounded weights shift the means of a layer's outputs."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from cprune_tf.litert import bias_correction

IMAGES = np.random.default_rng(0).uniform(0, 2, size=(40, 6, 6, 3)).astype(np.float32)


def coarse(kind):
    """Layers with an outlier in every filter, so that all other weights round coarsely."""
    keras.utils.set_random_seed(5)
    inputs = keras.Input((6, 6, 3))
    first = keras.layers.Conv2D(4, 3, use_bias=kind != "norm", name="first")
    x = first(inputs)
    if kind == "norm":
        x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.ReLU()(x)
    second = keras.layers.DepthwiseConv2D(3, activation="relu", name="second")
    model = keras.Model(inputs, keras.layers.Dense(2, name="head")(second(x)))
    for layer in (first, second, model.get_layer("head")):
        kernel = np.asarray(layer.kernel).copy()
        kernel[0, 0] *= 40
        layer.kernel.assign(kernel)
    return model


def with_rounded_weights(model):
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    for layer in copy.layers:
        if hasattr(layer, "kernel"):
            layer.kernel.assign(bias_correction.rounded_kernel(layer))
    return copy


def mean_shift(model, reference):
    difference = np.asarray(with_rounded_weights(model)(IMAGES)) - np.asarray(reference(IMAGES))
    return np.abs(difference.mean(axis=(0, 1, 2))).max()


@pytest.mark.parametrize("kind", ["bias", "norm"])
def test_means_are_those_of_the_float_model_again(kind):
    model = coarse(kind)
    weights = model.get_weights()
    corrected, result = bias_correction.correct_biases(model, [IMAGES])
    before, after = mean_shift(model, model), mean_shift(corrected, model)
    assert before > 1e-3
    assert after < 0.01 * before
    assert set(result.corrected) == {"first", "second", "head"} and not result.skipped
    for old, new in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_kernels_are_left_to_the_quantiser():
    model = coarse("norm")
    corrected, _ = bias_correction.correct_biases(model, [IMAGES])
    for layer in model.layers:
        if hasattr(layer, "kernel"):
            kernel = corrected.get_layer(layer.name).kernel
            np.testing.assert_array_equal(np.asarray(kernel), np.asarray(layer.kernel))


def test_a_layer_that_stays_float_is_left_alone():
    model = coarse("bias")
    corrected, result = bias_correction.correct_biases(model, [IMAGES], ["first"])
    assert set(result.corrected) == {"second", "head"}
    first = [np.asarray(m.get_layer("first").bias) for m in (model, corrected)]
    np.testing.assert_array_equal(*first)


def test_a_layer_whose_constants_nothing_can_hold_is_listed():
    inputs = keras.Input((6, 6, 3))
    shared = keras.layers.Conv2D(3, 1, name="shared")
    bare = keras.layers.Conv2D(2, 1, use_bias=False, name="bare")
    model = keras.Model(inputs, bare(shared(shared(inputs))))
    _, result = bias_correction.correct_biases(model, [IMAGES])
    assert not result.corrected
    assert result.skipped == ("shared", "shared", "bare")
