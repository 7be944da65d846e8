"""int8 files through TVM's TFLite frontend, which must compute what LiteRT does."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tvm
from keras import layers, ops

from cprune_tf import litert
from cprune_tf.compiler.importer import UnsupportedOperationError
from cprune_tf.compiler.importer.tflite_int8 import import_quantized
from cprune_tf.compiler.tasks import lower_model
from cprune_tf.litert.evaluation import outputs_of_file
from cprune_tf.litert.tflite_graph import read_operators, repacked

from .beside_keras import TARGET, compile_imported, randomize
from .small_models import mobilenet, resnet8

pytest.importorskip("ai_edge_quantizer")
pytest.importorskip("tflite")

_NUM_IMAGES = 16


def quantized_model(model, **options):
    """Quantises a model with random weights; returns the images, too."""
    randomize(model)
    shape = (_NUM_IMAGES, *model.inputs[0].shape[1:])
    images = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    return litert.quantize(model, images, **options), images


def differences(quantized, images):
    """How many steps TVM's outputs are from LiteRT's."""
    run = compile_imported(import_quantized(quantized))
    (expected,) = outputs_of_file(quantized.content, images)
    outputs = np.concatenate([run([image])[0] for image in images[:, None]])
    assert np.unique(expected).size >= 8
    last = read_operators(quantized.content, quantized.graph)[-1]
    assert last.code == "DEQUANTIZE"
    return np.rint(np.abs(outputs - expected) / last.inputs[0].scales[0])


@pytest.mark.parametrize("build", [resnet8, mobilenet])
def test_networks_compute_what_they_do_in_litert(build):
    steps = differences(*quantized_model(build()))
    assert steps.max() <= 1
    assert np.mean(steps > 0) < 0.1


def operators_model():
    """Operators of which TVM converts the float32 form only, and some that it rounds itself."""
    image = keras.Input((8, 8, 6))
    x = layers.Conv2D(8, 3, padding="same", name="first")(image)
    x = layers.Conv2D(8, 3, strides=2, name="padded")(layers.ZeroPadding2D(1, name="pad")(x))
    x = layers.Resizing(8, 8, interpolation="nearest", name="larger")(x)
    left, right = ops.split(layers.Permute((2, 1, 3), name="turned")(x), 2, axis=-1)
    x = layers.Concatenate(name="joined")([left, layers.Conv2D(4, 1, name="mixed")(right)])
    x = layers.Multiply(name="gated")([x, layers.Activation("sigmoid", name="gate")(x)])
    x = layers.Cropping2D(1, name="cropped")(x)
    return keras.Model(image, layers.AveragePooling2D(3, strides=1, name="mean")(x))


def test_operators_without_an_int8_converter_lie_between_conversions():
    quantized, images = quantized_model(operators_model())
    codes = {operator.code for operator in read_operators(quantized.content, quantized.graph)}
    assert codes >= {"PAD", "RESIZE_NEAREST_NEIGHBOR", "TRANSPOSE", "SPLIT", "STRIDED_SLICE"}
    assert codes >= {"CONCATENATION", "LOGISTIC", "AVERAGE_POOL_2D"}
    steps = differences(quantized, images)
    assert steps.max() <= 1
    # Where TVM and LiteRT round a half to different sides; cutting off would be half of the values.
    assert np.mean(steps > 0) < 0.1


def test_layers_and_weights_are_known_by_name():
    quantized, _ = quantized_model(resnet8())
    imported = import_quantized(quantized)
    weighted = {call.name for call in quantized.graph.calls if call.name.endswith("conv")}
    assert weighted
    lowered = lower_model(imported, tvm.target.Target(TARGET))
    assert weighted <= {layer for task in lowered.tasks for layer in task.layers}
    for name in weighted:
        kernel = imported.params[f"{name}/kernel"]
        assert kernel.dtype == np.float32
        # What int8 holds: at most 255 values for each filter.
        assert max(np.unique(kernel[..., i]).size for i in range(kernel.shape[-1])) <= 255


def unsupported_model():
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, name="first")(image)
    x = layers.Activation("gelu", name="curve")(x)
    return keras.Model(image, layers.Conv2D(4, 1, name="last")(x))


def test_an_operator_without_a_conversion_is_named_and_can_stay_float():
    quantized, _ = quantized_model(unsupported_model())
    with pytest.raises(UnsupportedOperationError, match=r"GELU of curve\. Keep these layers in"):
        import_quantized(quantized)
    assert differences(*quantized_model(unsupported_model(), keep_float=["curve"])).max() <= 1


def test_a_repacked_file_is_the_same_for_litert():
    quantized, images = quantized_model(resnet8())
    assert b"TFL3" in repacked(quantized.content)[:16]
    for before, after in zip(
        outputs_of_file(quantized.content, images),
        outputs_of_file(repacked(quantized.content), images),
        strict=True,
    ):
        np.testing.assert_array_equal(after, before)
