"""Small models of the usual architectures are compared with Keras."""

from __future__ import annotations

import keras
import pytest
from keras import layers

from .small_models import conv1d_classifier, mobilenet, resnet8, transformer, unet, vgg


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("build", [resnet8, vgg, mobilenet, unet, conv1d_classifier, transformer])
def test_same_outputs_as_keras(build, batch_size, check_against_keras):
    check_against_keras(build(), batch_size=batch_size)


def test_batch_norm_is_folded_and_parameters_are_named(check_against_keras):
    imported = check_against_keras(resnet8())
    assert imported.input_names == ("image",)
    assert int(imported.mod["main"].attrs["num_input"]) == 1
    names = [param.name for param in imported.mod["main"].params]
    assert names == ["image", *imported.params]
    assert imported.layers_of_param["stem_conv/kernel"] == ("stem_conv", "stem_bn")
    assert imported.layers_of_param["stem_conv/bias"] == ("stem_conv", "stem_bn")
    assert imported.layers_of_param["s2_shortcut/kernel"] == ("s2_shortcut",)
    assert not [name for name in imported.params if "_bn" in name]
    for param in imported.mod["main"].params[1:]:
        value = imported.params[param.name]
        assert value.dtype == "float32"
        assert tuple(int(e) for e in param.ty.shape) == value.shape


def test_batch_norm_after_an_activation_is_not_folded(check_against_keras):
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, activation="relu", name="conv")(inputs)
    x = layers.BatchNormalization(name="bn")(x)
    imported = check_against_keras(keras.Model(inputs, x))
    assert imported.layers_of_param["bn/scale"] == ("bn",)
    assert imported.layers_of_param["conv/kernel"] == ("conv",)


def test_batch_norm_is_not_folded_where_the_plain_output_is_read_too(check_against_keras):
    inputs = keras.Input((8, 8, 3))
    plain = layers.Conv2D(4, 3, name="conv")(inputs)
    normalized = layers.BatchNormalization(name="bn")(plain)
    imported = check_against_keras(keras.Model(inputs, [plain, normalized]))
    assert "bn/scale" in imported.params


def test_batch_norm_of_a_shared_convolution_is_not_folded(check_against_keras):
    left, right = keras.Input((8, 8, 3)), keras.Input((8, 8, 3))
    conv = layers.Conv2D(4, 3, name="conv")
    x = layers.BatchNormalization(name="bn")(conv(left))
    imported = check_against_keras(keras.Model([left, right], [x, conv(right)]))
    assert list(imported.params) == ["conv/kernel", "conv/bias", "bn/scale", "bn/shift"]


def test_zero_padding_goes_into_the_convolution(check_against_keras):
    imported = check_against_keras(mobilenet())
    assert imported.layers_of_var["stem_conv"] == ("stem_pad", "stem_conv", "stem_bn")
    assert "stem_pad" not in imported.layers_of_var
    # The padding has no weights.
    assert imported.layers_of_param["stem_conv/kernel"] == ("stem_conv", "stem_bn")


def test_zero_padding_stays_where_a_pooling_reads_it_too(check_against_keras):
    inputs = keras.Input((8, 8, 3))
    padded = layers.ZeroPadding2D(1, name="pad")(inputs)
    outputs = [layers.Conv2D(4, 3)(padded), layers.MaxPooling2D(2)(padded)]
    imported = check_against_keras(keras.Model(inputs, outputs))
    assert "pad" in imported.layers_of_var


def pad_and_pool(x, pool, padding=1):
    x = layers.ZeroPadding2D(padding, name="pad")(x)
    return pool(3, strides=2, name="pool")(x)


def test_zero_padding_goes_into_a_max_pooling_after_relu(check_against_keras):
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, activation="relu", name="conv")(inputs)
    model = keras.Model(inputs, pad_and_pool(x, layers.MaxPooling2D))
    imported = check_against_keras(model)
    assert imported.layers_of_var["pool"] == ("pad", "pool")


@pytest.mark.parametrize(
    ("activation", "pool", "padding"),
    [
        ("linear", layers.MaxPooling2D, 1),
        ("relu", layers.AveragePooling2D, 1),
        ("relu", layers.MaxPooling2D, 3),
    ],
)
def test_zero_padding_stays_where_pooling_would_see_it(
    activation, pool, padding, check_against_keras
):
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, activation=activation, name="conv")(inputs)
    imported = check_against_keras(keras.Model(inputs, pad_and_pool(x, pool, padding)))
    assert imported.layers_of_var["pad"] == ("pad",)
