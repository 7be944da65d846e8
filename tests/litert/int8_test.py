"""int8 files: what is in them, how accurate they are, what stays float, and what is refused."""

from __future__ import annotations

import logging

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from cprune_tf import litert
from cprune_tf.data.representative import representative_images
from cprune_tf.litert import ConversionError, evaluation
from cprune_tf.models import load_model
from cprune_tf.training import evaluate
from tests.training.conftest import small_data  # noqa: F401

IMAGES = np.random.default_rng(0).normal(size=(24, 8, 8, 3)).astype(np.float32)


def tiny(activation="relu", seed=1):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(8, 3, padding="same", use_bias=False, name="conv")(inputs)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.Activation(activation, name="act")(x)
    x = keras.layers.DepthwiseConv2D(3, padding="same", activation="relu", name="depthwise")(x)
    x = keras.layers.Flatten(name="flat")(x)
    return keras.Model(inputs, keras.layers.Dense(6, name="head")(x), name="tiny")


def outputs(content, images=IMAGES):
    return evaluation.outputs_of_file(content, images)[0]


@pytest.fixture(scope="module")
def resnet8(small_data):  # noqa: F811
    model = load_model("resnet8_fashion")
    return model, litert.quantize(model, representative_images(small_data, 100))


def test_int8_keeps_accuracy_in_a_third_of_the_bytes(small_data, resnet8):  # noqa: F811
    model, quantized = resnet8
    data = small_data
    accuracies = [
        litert.evaluate(content, data.test_images, data.test_labels)
        for content in (quantized.float_content, quantized.content)
    ]
    assert accuracies[0] == pytest.approx(evaluate(model, data), abs=1 / len(data.test_labels))
    assert accuracies[1] == pytest.approx(accuracies[0], abs=0.012)
    assert len(quantized.content) < 0.35 * len(quantized.float_content)
    assert quantized.float_operators == ()
    top5 = litert.evaluate(quantized.content, data.test_images, data.test_labels, "top5")
    assert top5 == pytest.approx(evaluate(model, data, "top5"), abs=0.01)


def test_ranges_hold_what_the_images_showed(small_data, resnet8):  # noqa: F811
    # Ranges that are narrower than the data clip them, which halves the signal-to-noise ratio.
    errors = litert.compare_layers(resnet8[1], small_data.test_images)
    by_code = {error.code: error for error in errors}
    assert by_code["MEAN"].storage_db > 30
    assert by_code["FULLY_CONNECTED"].storage_db > 30
    assert not [error for error in errors if "clipped" in error.reason and error.storage_db < 25]


def test_every_layer_is_named_and_the_worst_comes_first(resnet8, small_data):  # noqa: F811
    model, quantized = resnet8
    errors = litert.compare_layers(quantized, small_data.test_images, num_images=4)
    named = {layer for error in errors for layer in error.layers}
    convolutions = {la.name for la in model.layers if isinstance(la, keras.layers.Conv2D)}
    assert convolutions <= named
    shares = [error.introduced for error in errors]
    assert shares == sorted(shares, reverse=True)
    assert all(20 < e.signal_to_noise_db < 50 for e in errors if e.code != "SOFTMAX")


def test_a_channel_of_another_range_is_found_and_named():
    model = tiny()
    norm = model.get_layer("norm")
    norm.gamma.assign(np.where(np.arange(8) == 3, 100.0, 1.0))
    depthwise = model.get_layer("depthwise")
    kernel = np.asarray(depthwise.kernel).copy()
    kernel[:, :, 3] /= 100
    depthwise.kernel.assign(kernel)
    (worst, *_) = litert.compare_layers(litert.quantize(model, IMAGES), IMAGES)
    assert "conv" in worst.layers
    assert worst.reason.startswith("one scale for channels of different ranges")


def with_coarse_weights():
    """A model whose largest weights meet an empty channel, so that the others round coarsely."""
    model = tiny()
    layer = model.get_layer("conv")
    kernel = np.asarray(layer.kernel).copy()
    kernel[:, :, 2] *= 100
    layer.kernel.assign(kernel)
    return model


def test_a_layer_stays_float_where_asked():
    model, images = with_coarse_weights(), IMAGES * (1.0, 1.0, 0.0)
    whole = litert.quantize(model, images)
    part = litert.quantize(model, images, keep_float=["con*"])
    (operator,) = part.float_operators
    assert (operator.code, operator.requested, part.remarks) == ("CONV_2D", True, ())
    (worst, *_) = litert.compare_layers(whole, images)
    assert "conv" in worst.layers and worst.reason.startswith("its weights are rounded")
    (conv,) = [e for e in litert.compare_layers(part, images) if "conv" in e.layers]
    assert conv.signal_to_noise_db > worst.signal_to_noise_db + 20
    assert conv.weight_db == np.inf


def test_first_and_last_layers_can_stay_float():
    part = litert.quantize(tiny(), IMAGES, keep_float=["head", "act"])
    assert [op.requested for op in part.float_operators] == [True, True]
    assert "act" in part.float_operators[0].layers
    assert "head" in part.float_operators[1].layers


def test_what_int8_cannot_hold_is_named_and_stays_float():
    quantized = litert.quantize(tiny("elu"), IMAGES)
    (operator,) = quantized.float_operators
    assert (operator.code, operator.layers, operator.requested) == ("ELU", ("act",), False)
    assert "no int8 form" in quantized.remarks[0] and "act (ELU)" in quantized.remarks[0]


def input_and_output_types(content):
    interpreter = Interpreter(model_content=content)
    details = [*interpreter.get_input_details(), *interpreter.get_output_details()]
    return [np.dtype(detail["dtype"]).name for detail in details]


def test_inputs_have_the_type_that_was_asked_for(resnet8):
    quantized = litert.quantize(tiny(), IMAGES, inputs="int8")
    assert input_and_output_types(quantized.content) == ["int8", "int8"]
    assert input_and_output_types(resnet8[1].content) == ["float32", "float32"]
    expected = outputs(quantized.float_content)
    error = np.abs(outputs(quantized.content) - expected).max()
    assert error < 0.1 * np.abs(expected).max()


def test_convert_gives_the_same_int8_file_for_several_inputs():
    first, second = keras.Input((8, 8, 3)), keras.Input((8, 8, 3))
    x = keras.layers.Add()([keras.layers.Conv2D(3, 1)(second), first])
    model, images = keras.Model([first, second], x), [IMAGES, 50 * IMAGES]
    quantized = litert.quantize(model, images)
    assert len(Interpreter(model_content=quantized.content).get_input_details()) == 2
    assert not quantized.float_operators
    assert litert.convert(model, precision="int8", representative=images) == quantized.content


def test_float16_halves_the_file():
    model = tiny()
    contents = [litert.convert(model, precision=p) for p in ("float32", "float16")]
    weights = 4 * model.count_params()
    assert weights * 0.4 < len(contents[0]) - len(contents[1]) < weights * 0.6
    np.testing.assert_allclose(outputs(contents[1]), outputs(contents[0]), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "float16"])
def test_other_precisions_are_converted_through_a_float32_copy(policy, caplog):
    keras.config.set_dtype_policy(policy)
    try:
        model = tiny()
    finally:
        keras.config.set_dtype_policy("float32")
    weights = model.get_weights()
    with caplog.at_level(logging.WARNING):
        content = litert.convert(model)
    assert f"uses {policy.removeprefix('mixed_')}; it is converted" in caplog.text
    expected = np.asarray(keras.ops.cast(model(IMAGES), "float32"))
    np.testing.assert_allclose(outputs(content), expected, rtol=0.1, atol=0.1)
    for old, new in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def keras_int8():
    model = tiny()
    model.quantize("int8")
    return model


def nothing_to_quantize():
    inputs = keras.Input((8, 8, 3))
    return keras.Model(inputs, keras.layers.Activation("elu", name="act")(inputs), name="empty")


@pytest.mark.parametrize(
    ("build", "arguments", "reason"),
    [
        (tiny, {"images": None}, "no representative images"),
        (tiny, {"images": IMAGES[:0]}, "no representative images"),
        (tiny, {"images": IMAGES[:, :4]}, r"shapes \[\(24, 4, 8, 3\)\]; model 'tiny' takes"),
        (tiny, {"images": IMAGES * np.nan}, "NaN or infinite"),
        (tiny, {"images": IMAGES, "inputs": "uint8"}, "inputs is 'uint8'; expected one of"),
        (tiny, {"images": IMAGES, "keep_float": ["hat"]}, "pattern 'hat'.*conv.*depthwise.*head"),
        (keras_int8, {"images": IMAGES}, r"quantised by Keras \(int8: head\).*before model.quan"),
        (nothing_to_quantize, {"images": IMAGES}, r"Nothing of model 'empty'.*act \(ELU\)"),
    ],
)
def test_what_cannot_be_quantised_is_told(build, arguments, reason):
    with pytest.raises(ConversionError, match=reason):
        litert.quantize(build(), **arguments)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"precision": "int4"}, "precision is 'int4'; expected one of float32, float16, int8"),
        ({"representative": IMAGES}, "needs neither"),
        ({"precision": "int8", "forward": lambda x: x}, "takes no `forward`"),
    ],
)
def test_arguments_of_convert_that_do_not_fit_are_told(arguments, reason):
    with pytest.raises(ConversionError, match=reason):
        litert.convert(tiny(), **arguments)


def test_the_bias_of_an_empty_filter_is_kept():
    # Its bias is stored in steps of the scale of its weights, which are next to nothing.
    model = tiny()
    depthwise, norm = model.get_layer("depthwise"), model.get_layer("norm")
    kernel = np.asarray(depthwise.kernel).copy()
    kernel[:, :, 5] = 1e-13
    depthwise.kernel.assign(kernel)
    depthwise.bias.assign(np.where(np.arange(8) == 5, 3.0, 0.0))
    norm.gamma.assign(np.where(np.arange(8) == 2, 0.0, 1.0))
    norm.beta.assign(np.where(np.arange(8) == 2, 3.0, 0.0))
    errors = litert.compare_layers(litert.quantize(model, IMAGES), IMAGES)
    assert min(e.signal_to_noise_db for e in errors) > 15


def test_biases_are_corrected_in_the_int8_file_only():
    model = with_coarse_weights()
    plain, corrected = (litert.quantize(model, IMAGES, correct_bias=c) for c in (False, True))
    assert corrected.float_content == plain.float_content
    assert corrected.content != plain.content and corrected.correction.corrected
    shifts = [
        np.abs((outputs(q.content) - outputs(q.float_content)).mean(axis=0)).max()
        for q in (plain, corrected)
    ]
    assert shifts[1] < shifts[0]
