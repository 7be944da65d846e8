"""A file's operators alone: what they are, and that they run as in the file."""

from __future__ import annotations

import functools
import time

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from keras import layers

from cprune_tf.litert import convert
from cprune_tf.litert.dividing import UnsupportedOperatorError, divide
from cprune_tf.litert.writing import empty_workload, reference_workload, write


def _net():
    keras.utils.set_random_seed(2)
    image = keras.Input((12, 12, 3), name="image")
    x = layers.Conv2D(8, 3, padding="same", activation="relu6", name="stem")(image)
    x = layers.ZeroPadding2D(1, name="padding")(x)
    x = layers.Conv2D(16, 3, strides=2, use_bias=False, name="strided")(x)
    x = layers.ReLU(name="relu")(layers.BatchNormalization(name="bn")(x))
    y = layers.DepthwiseConv2D(3, padding="same", dilation_rate=2, name="depthwise")(x)
    x = layers.Add(name="add")([x, y])
    x = layers.MaxPooling2D(3, 2, name="pool")(x)
    x = layers.Reshape((2, 2, 16), name="reshape")(x)
    x = layers.Flatten(name="flatten")(x)
    return keras.Model(image, layers.Dense(5, activation="softmax", name="head")(x))


@pytest.fixture(scope="module")
def model():
    return _net()


@pytest.fixture(scope="module")
def parts(model):
    return divide(convert(model))


def run(content, inputs=None):
    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    generator = np.random.default_rng(1)
    for detail in interpreter.get_input_details():
        values = generator.normal(size=detail["shape"]) if inputs is None else inputs
        interpreter.set_tensor(detail["index"], values.astype(detail["dtype"]))
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def test_every_operator_is_in_one_workload_with_its_options(parts):
    kinds = [workload.kind for workload, _ in parts]
    assert kinds[0] == "conv_2d(relu6)"
    assert kinds[1] == "pad + conv_2d(relu, stride 2x2, valid)"
    assert "depthwise_conv_2d(dilation 2x2, depthMultiplier 1)" in kinds
    assert "max_pool_2d(stride 2x2, window 3x3, valid)" in kinds
    assert kinds[-1].startswith("softmax")
    numbers = [number for _, numbers in parts for number in numbers]
    assert numbers == list(range(len(numbers)))


def test_the_flops_are_those_of_the_layers(parts):
    flops = {workload.label: workload.flops for workload, _ in parts}
    assert flops["conv_2d"] == 2 * 3 * 3 * 3 * 12 * 12 * 8
    assert flops["pad+conv_2d"] == 2 * 3 * 3 * 8 * 6 * 6 * 16 + 14 * 14 * 8
    assert flops["depthwise_conv_2d"] == 2 * 3 * 3 * 6 * 6 * 16
    assert flops["max_pool_2d"] == 3 * 3 * 2 * 2 * 16
    assert flops["fully_connected"] == 2 * 64 * 5


def test_a_written_workload_is_the_same_workload_again(parts):
    for workload, _ in (*parts, (reference_workload(), ()), (empty_workload(), ())):
        ((again, _),) = divide(write(workload))
        assert again == workload and again.digest == workload.digest


def test_a_written_workload_runs_with_the_shape_and_options_of_the_file(parts):
    start = time.monotonic()
    for workload, _ in parts:
        output = run(write(workload))
        assert output.shape == workload.result.shape
        if "relu" in workload.kind:
            assert output.min() == 0 and output.max() > 0
    assert time.monotonic() - start < 5


def test_a_padding_that_others_read_stays_alone():
    image = keras.Input((6, 6, 4))
    padded = layers.ZeroPadding2D(2)(image)
    branches = [layers.Conv2D(4, 3)(padded), layers.DepthwiseConv2D(3)(padded)]
    labels = [w.label for w, _ in divide(convert(keras.Model(image, layers.Add()(branches))))]
    assert labels.count("pad") == 1 and "pad+conv_2d" not in labels


def test_weights_in_float16_halve_the_file_and_leave_the_workloads(model, parts):
    content = convert(model, precision="float16")
    assert len(content) < 0.75 * len(convert(model))
    assert [w for w, _ in divide(content)] == [w for w, _ in parts]
    image = np.random.default_rng(0).random((1, 12, 12, 3), dtype=np.float32)
    np.testing.assert_allclose(run(content, image), model(image), atol=5e-3)


def test_a_custom_operator_is_named():
    import tensorflow as tf

    @functools.partial(tf.function, input_signature=[tf.TensorSpec((1, 4), tf.float32)])
    def forward(x):
        return tf.raw_ops.Erfinv(x=x)

    converter = tf.lite.TFLiteConverter.from_concrete_functions([forward.get_concrete_function()])
    converter.allow_custom_ops = True
    with pytest.raises(UnsupportedOperatorError, match="CUSTOM"):
        divide(converter.convert())
