"""Single layers, with the settings that usually go wrong, are compared with Keras."""

from __future__ import annotations

import keras
import pytest
from keras import layers

IMAGE = (9, 7, 6)
STEPS = (10, 6)
VOLUME = (5, 6, 4, 4)

CONVOLUTIONS = {
    "valid": lambda: layers.Conv2D(5, 3),
    "same_even_kernel": lambda: layers.Conv2D(5, (4, 2), padding="same"),
    "same_strided": lambda: layers.Conv2D(5, 3, strides=2, padding="same"),
    "same_strides_differ": lambda: layers.Conv2D(5, 3, strides=(3, 2), padding="same"),
    "same_kernel_below_stride": lambda: layers.Conv2D(5, 1, strides=2, padding="same"),
    "dilated": lambda: layers.Conv2D(5, 3, dilation_rate=2, padding="same"),
    "dilations_differ": lambda: layers.Conv2D(5, 3, dilation_rate=(1, 2)),
    "grouped": lambda: layers.Conv2D(9, 3, groups=3, padding="same", use_bias=False),
    "activation": lambda: layers.Conv2D(5, 3, activation="tanh"),
    "depthwise": lambda: layers.DepthwiseConv2D(3, padding="same"),
    "depthwise_multiplier": lambda: layers.DepthwiseConv2D(3, depth_multiplier=3),
    "depthwise_strided": lambda: layers.DepthwiseConv2D(5, strides=2, padding="same"),
    "depthwise_dilated": lambda: layers.DepthwiseConv2D(3, dilation_rate=2, padding="same"),
    "separable": lambda: layers.SeparableConv2D(5, 3, strides=2, padding="same"),
    "separable_multiplier": lambda: layers.SeparableConv2D(5, 3, depth_multiplier=2),
}
TRANSPOSED = {
    "same_2x2_s2": lambda: layers.Conv2DTranspose(5, 2, strides=2, padding="same"),
    "same_3x3_s2": lambda: layers.Conv2DTranspose(5, 3, strides=2, padding="same"),
    "same_4x4_s2": lambda: layers.Conv2DTranspose(5, 4, strides=2, padding="same"),
    "same_5x5_s3": lambda: layers.Conv2DTranspose(5, 5, strides=3, padding="same"),
    "same_3x3_s1": lambda: layers.Conv2DTranspose(5, 3, padding="same", activation="relu"),
    "same_strides_differ": lambda: layers.Conv2DTranspose(5, (3, 4), (1, 2), padding="same"),
    "valid_3x3_s2": lambda: layers.Conv2DTranspose(5, 3, strides=2, use_bias=False),
    "valid_kernel_below_stride": lambda: layers.Conv2DTranspose(5, 2, strides=3),
    "valid_4x4_s2": lambda: layers.Conv2DTranspose(5, 4, strides=2, activation="softmax"),
    "output_padding": lambda: layers.Conv2DTranspose(
        5, 3, strides=2, padding="same", output_padding=1
    ),
    "valid_output_padding": lambda: layers.Conv2DTranspose(5, 3, strides=2, output_padding=1),
}
ONE_DIMENSIONAL = {
    "conv": lambda: layers.Conv1D(5, 3),
    "conv_same_strided": lambda: layers.Conv1D(5, 4, strides=2, padding="same"),
    "conv_causal": lambda: layers.Conv1D(5, 3, padding="causal", dilation_rate=2),
    "conv_grouped": lambda: layers.Conv1D(6, 3, groups=2),
    "depthwise": lambda: layers.DepthwiseConv1D(3, depth_multiplier=2, padding="same"),
    "separable": lambda: layers.SeparableConv1D(5, 3),
    "transposed": lambda: layers.Conv1DTranspose(5, 3, strides=2, padding="same"),
    "max_pool": lambda: layers.MaxPooling1D(3, 2, padding="same"),
    "average_pool": lambda: layers.AveragePooling1D(3, 2, padding="same"),
    "global_average": lambda: layers.GlobalAveragePooling1D(),
    "global_max": lambda: layers.GlobalMaxPooling1D(keepdims=True),
    "zero_padding": lambda: layers.ZeroPadding1D((1, 2)),
    "cropping": lambda: layers.Cropping1D((1, 2)),
    "up_sampling": lambda: layers.UpSampling1D(3),
    "dense": lambda: layers.Dense(5, activation="gelu"),
    "einsum_dense": lambda: layers.EinsumDense("abc,cd->abd", (None, 5), bias_axes="d"),
    "time_distributed": lambda: layers.TimeDistributed(layers.Dense(5, activation="relu")),
    "spatial_dropout": lambda: layers.SpatialDropout1D(0.5),
    "adaptive_max": lambda: layers.AdaptiveMaxPooling1D(4),
}
THREE_DIMENSIONAL = {
    "conv": lambda: layers.Conv3D(5, 3, padding="same", activation="relu"),
    "conv_strided": lambda: layers.Conv3D(5, (2, 3, 1), strides=(2, 1, 2)),
    "conv_grouped": lambda: layers.Conv3D(6, 2, groups=2, use_bias=False),
    "transposed": lambda: layers.Conv3DTranspose(3, 3, strides=(1, 2, 2), padding="same"),
    "max_pool": lambda: layers.MaxPooling3D(2, padding="same"),
    "average_pool": lambda: layers.AveragePooling3D((3, 2, 2), 2, padding="same"),
    "adaptive_average": lambda: layers.AdaptiveAveragePooling3D((2, 3, 4)),
    "global_average": lambda: layers.GlobalAveragePooling3D(),
    "global_max": lambda: layers.GlobalMaxPooling3D(keepdims=True),
    "zero_padding": lambda: layers.ZeroPadding3D(((1, 0), (0, 2), (1, 1))),
    "cropping": lambda: layers.Cropping3D(((1, 0), (0, 2), (1, 1))),
    "up_sampling": lambda: layers.UpSampling3D((2, 1, 3)),
}
POOLING = {
    "max": lambda: layers.MaxPooling2D(2),
    "max_same": lambda: layers.MaxPooling2D(3, 2, padding="same"),
    "max_overlapping": lambda: layers.MaxPooling2D((3, 2), 1),
    "average": lambda: layers.AveragePooling2D(2),
    "average_same": lambda: layers.AveragePooling2D(3, 2, padding="same"),
    "average_same_even": lambda: layers.AveragePooling2D(4, 3, padding="same"),
    "global_average": lambda: layers.GlobalAveragePooling2D(),
    "global_average_keepdims": lambda: layers.GlobalAveragePooling2D(keepdims=True),
    "global_max": lambda: layers.GlobalMaxPooling2D(),
    "adaptive_average_even": lambda: layers.AdaptiveAveragePooling2D((3, 7)),
    "adaptive_average_uneven": lambda: layers.AdaptiveAveragePooling2D((4, 3)),
    "adaptive_max_uneven": lambda: layers.AdaptiveMaxPooling2D((4, 3)),
}
NORMALIZATION = {
    "batch_norm": lambda: layers.BatchNormalization(epsilon=1e-2),
    "batch_norm_plain": lambda: layers.BatchNormalization(scale=False, center=False),
    "batch_norm_rows": lambda: layers.BatchNormalization(axis=1),
    "layer_norm": lambda: layers.LayerNormalization(),
    "layer_norm_unscaled": lambda: layers.LayerNormalization(scale=False, epsilon=1e-2),
    "layer_norm_several_axes": lambda: layers.LayerNormalization(axis=[1, 3]),
    "group_norm": lambda: layers.GroupNormalization(3),
    "instance_norm": lambda: layers.GroupNormalization(-1),
    "rms_norm": lambda: layers.RMSNormalization(),
    "unit_norm": lambda: layers.UnitNormalization(),
    "rescaling": lambda: layers.Rescaling(1 / 127.5, offset=-1.0),
    "rescaling_channels": lambda: layers.Rescaling([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
    "normalization": lambda: layers.Normalization(
        mean=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], variance=[4.0, 1.0, 2.0, 3.0, 1.0, 9.0]
    ),
    "spectral_norm": lambda: layers.SpectralNormalization(layers.Conv2D(5, 3)),
}
SHAPING = {
    "flatten": lambda: layers.Flatten(),
    "reshape": lambda: layers.Reshape((-1, 7)),
    "permute": lambda: layers.Permute((3, 1, 2)),
    "zero_padding": lambda: layers.ZeroPadding2D(((1, 2), (0, 3))),
    "cropping": lambda: layers.Cropping2D(((1, 2), (0, 3))),
    "up_nearest": lambda: layers.UpSampling2D((2, 3)),
    "up_bilinear": lambda: layers.UpSampling2D((2, 3), interpolation="bilinear"),
    "resizing_nearest": lambda: layers.Resizing(5, 11, interpolation="nearest"),
    "resizing_bilinear": lambda: layers.Resizing(5, 11),
    "center_crop": lambda: layers.CenterCrop(4, 4),
    "dropout": lambda: layers.Dropout(0.5),
    "gaussian_noise": lambda: layers.GaussianNoise(0.5),
    "identity": lambda: layers.Identity(),
}
ACTIVATIONS = {
    "relu": lambda: layers.ReLU(),
    "relu_limited": lambda: layers.ReLU(1.5),
    "relu_sloped": lambda: layers.ReLU(negative_slope=0.2),
    "relu_all": lambda: layers.ReLU(2.0, negative_slope=0.2, threshold=0.3),
    "leaky_relu": lambda: layers.LeakyReLU(negative_slope=0.1),
    "elu": lambda: layers.ELU(alpha=0.7),
    "prelu": lambda: layers.PReLU(),
    "prelu_shared": lambda: layers.PReLU(shared_axes=[1, 2]),
    "softmax": lambda: layers.Softmax(),
    "softmax_rows": lambda: layers.Softmax(axis=1),
    "softmax_several_axes": lambda: layers.Softmax(axis=[1, 2]),
    "nested_layer": lambda: layers.Activation(layers.LeakyReLU(negative_slope=0.3)),
}
FUNCTIONS = [
    "celu",
    "elu",
    "exponential",
    "gelu",
    "hard_shrink",
    "hard_sigmoid",
    "hard_silu",
    "hard_tanh",
    "leaky_relu",
    "linear",
    "log_sigmoid",
    "log_softmax",
    "mish",
    "relu",
    "relu6",
    "selu",
    "sigmoid",
    "silu",
    "soft_shrink",
    "softmax",
    "softplus",
    "softsign",
    "sparse_plus",
    "sparse_sigmoid",
    "squareplus",
    "swish",
    "tanh",
    "tanh_shrink",
]


def check_layer(check, shape, layer):
    inputs = keras.Input(shape, name="image")
    return check(keras.Model(inputs, layer(inputs)), batch_size=2)


def parametrize(table):
    return pytest.mark.parametrize("build", list(table.values()), ids=list(table))


@parametrize(CONVOLUTIONS)
def test_convolution(build, check_against_keras):
    check_layer(check_against_keras, IMAGE, build())


@parametrize(CONVOLUTIONS)
def test_convolution_with_batch_norm(build, check_against_keras):
    layer = build()
    inputs = keras.Input(IMAGE)
    x = layers.BatchNormalization(name="bn")(layer(inputs))
    imported = check_against_keras(keras.Model(inputs, x))
    folded = layer.activation is keras.activations.linear
    assert ("bn/scale" in imported.params) != folded


@parametrize(TRANSPOSED)
def test_transposed_convolution(build, check_against_keras):
    check_layer(check_against_keras, IMAGE, build())


def test_transposed_convolution_with_batch_norm(check_against_keras):
    inputs = keras.Input(IMAGE)
    x = layers.Conv2DTranspose(4, 3, strides=2, padding="same", name="up")(inputs)
    x = layers.BatchNormalization(name="bn")(x)
    imported = check_against_keras(keras.Model(inputs, x))
    assert imported.layers_of_param["up/kernel"] == ("up", "bn")


@parametrize(ONE_DIMENSIONAL)
def test_one_dimensional(build, check_against_keras):
    check_layer(check_against_keras, STEPS, build())


@parametrize(THREE_DIMENSIONAL)
def test_three_dimensional(build, check_against_keras):
    check_layer(check_against_keras, VOLUME, build())


@parametrize(POOLING)
def test_pooling(build, check_against_keras):
    check_layer(check_against_keras, IMAGE, build())


@parametrize(NORMALIZATION)
def test_normalization(build, check_against_keras):
    check_layer(check_against_keras, IMAGE, build())


@parametrize(SHAPING)
def test_shaping(build, check_against_keras):
    check_layer(check_against_keras, IMAGE, build())


@parametrize(ACTIVATIONS)
def test_activation_layer(build, check_against_keras):
    check_layer(check_against_keras, IMAGE, build())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_activation_function(name, check_against_keras):
    check_layer(check_against_keras, IMAGE, layers.Activation(name))


@pytest.mark.parametrize(
    "merge", ["Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate"]
)
def test_merge(merge, check_against_keras):
    left, right = keras.Input(IMAGE, name="left"), keras.Input(IMAGE, name="right")
    outputs = getattr(layers, merge)()([left, right])
    imported = check_against_keras(keras.Model([left, right], outputs), batch_size=2)
    assert imported.input_names == ("left", "right")


def test_merge_broadcasts(check_against_keras):
    image, gate = keras.Input(IMAGE), keras.Input((1, 1, 6))
    check_against_keras(keras.Model([image, gate], layers.Multiply()([image, gate])))


@pytest.mark.parametrize(
    ("shapes", "settings"),
    [
        (((5,), (5,)), {"axes": 1}),
        (((5,), (5,)), {"axes": 1, "normalize": True}),
        (((4, 5), (5, 3)), {"axes": (2, 1)}),
        (((4, 5), (3, 5)), {"axes": 2}),
        (((4, 5), (5,)), {"axes": (2, 1)}),
    ],
)
def test_dot(shapes, settings, check_against_keras):
    left, right = (keras.Input(shape) for shape in shapes)
    model = keras.Model([left, right], layers.Dot(**settings)([left, right]))
    check_against_keras(model, batch_size=2)


def test_repeat_vector(check_against_keras):
    check_layer(check_against_keras, (5,), layers.RepeatVector(3))


def test_embedding(check_against_keras):
    inputs = keras.Input((7,), dtype="int32")
    check_against_keras(keras.Model(inputs, layers.Embedding(8, 5)(inputs)), batch_size=2)


@pytest.mark.parametrize("settings", [{}, {"use_bias": False}, {"value_dim": 3, "dropout": 0.1}])
@pytest.mark.parametrize("causal", [False, True])
def test_multi_head_attention(settings, causal, check_against_keras):
    query, value = keras.Input((5, 8)), keras.Input((7, 6))
    attention = layers.MultiHeadAttention(num_heads=2, key_dim=4, **settings)
    outputs = attention(query, value, use_causal_mask=causal)
    check_against_keras(keras.Model([query, value], outputs), batch_size=2)


def test_multi_head_attention_mask_and_scores(check_against_keras):
    query, mask = keras.Input((5, 8)), keras.Input((5, 5), dtype="int32")
    attention = layers.MultiHeadAttention(num_heads=2, key_dim=4)
    allowed = keras.ops.greater(mask, 3)
    outputs = attention(query, query, attention_mask=allowed, return_attention_scores=True)
    check_against_keras(keras.Model([query, mask], list(outputs)), batch_size=2)


def test_attention(check_against_keras):
    query, value = keras.Input((5, 8)), keras.Input((7, 8))
    outputs = layers.Attention(use_scale=True)([query, value])
    check_against_keras(keras.Model([query, value], outputs), batch_size=2)
