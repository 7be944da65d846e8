from __future__ import annotations

import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from cprune_tf.devices import ModelFile
from cprune_tf.litert import ConversionError, convert
from tests.graph.naming_test import odd_model


def conv_model():
    inputs = x = keras.Input((8, 8, 3))
    for filters, stride in ((8, 1), (12, 2)):
        shortcut = keras.layers.Conv2D(filters, 1, strides=stride)(x)
        x = keras.layers.Conv2D(filters, 3, strides=stride, padding="same", use_bias=False)(x)
        x = keras.layers.BatchNormalization()(x)
        x = keras.layers.ReLU()(keras.layers.Add()([x, shortcut]))
    x = keras.layers.DepthwiseConv2D(3)(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(5, activation="softmax")(x))


def sequential_model():
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Conv2D(4, 3),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(3),
        ]
    )


def randomise(model):
    generator = np.random.default_rng(3)
    for variable in model.weights:
        variable.assign(generator.uniform(0.1, 0.9, variable.shape))
    return model


def run(device, tmp_path, model, inputs):
    path = tmp_path / "model.tflite"
    path.write_bytes(convert(model))
    return device.run_model(ModelFile("model", "litert", path), inputs)


@pytest.mark.parametrize("build", [conv_model, sequential_model])
def test_litert_computes_what_keras_computes(device, tmp_path, build):
    model = randomise(build())
    inputs = np.random.default_rng(0).normal(size=(7, 8, 8, 3)).astype(np.float32)
    (outputs,) = run(device, tmp_path, model, inputs)
    np.testing.assert_allclose(outputs, np.asarray(model(inputs)), rtol=1e-4, atol=1e-5)


def test_odd_names_of_layers_are_converted(device, tmp_path):
    model = randomise(odd_model())
    inputs = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
    (outputs,) = run(device, tmp_path, model, inputs)
    np.testing.assert_allclose(outputs, np.asarray(model(inputs)), rtol=1e-4)
    assert model.name == "my & model <ü>"


def test_several_inputs_and_outputs_keep_their_order(device, tmp_path):
    tensors = [keras.Input((2,), name=name) for name in "zyxwvutsrqpo"]
    outputs = [tensor * float(10**i) for i, tensor in enumerate(tensors[:3])]
    model = keras.Model(tensors, [*outputs, keras.layers.Concatenate()(tensors)])
    inputs = [np.full((2, 2), i + 1, np.float32) for i in range(len(tensors))]
    *scaled, joined = run(device, tmp_path, model, inputs)
    assert [float(output[0, 0]) for output in scaled] == [1.0, 20.0, 300.0]
    np.testing.assert_array_equal(joined[0], np.repeat(np.arange(1, 13), 2))


def test_the_weights_are_in_the_file_as_constants():
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(64, 3)])
    content = convert(model)
    kernel = np.asarray(model.layers[0].kernel)
    assert kernel.nbytes < len(content) < kernel.nbytes + 8000
    assert b"VAR_HANDLE" not in content


def test_conversion_leaves_the_model_as_it_was():
    model = randomise(conv_model())
    weights = [np.array(values) for values in model.get_weights()]
    inputs = np.ones((1, 8, 8, 3), np.float32)
    expected = np.asarray(model(inputs))
    assert convert(model) == convert(model)
    for old, new in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    np.testing.assert_array_equal(np.asarray(model(inputs)), expected)


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda: keras.Sequential([keras.layers.Dense(2)]), "has no defined inputs"),
        (
            lambda: keras.Sequential([keras.Input((None, None, 3)), keras.layers.Conv2D(2, 3)]),
            r"\(None, None, None, 3\); expected fixed sizes.*graph\.fix_inputs",
        ),
    ],
)
def test_what_cannot_be_converted_is_told(build, reason):
    with pytest.raises(ConversionError, match=reason):
        convert(build())


def test_an_operation_that_tflite_lacks_is_one_clear_error():
    inputs = keras.Input((4, 4))
    model = keras.Model(inputs, keras.ops.svd(inputs, compute_uv=False), name="odd")
    with pytest.raises(
        ConversionError, match=r"(?s)could not convert model 'odd' to TFLite.*Svd"
    ) as caught:
        convert(model)
    assert len(str(caught.value)) < 1000  # and not the whole model as MLIR


def test_a_lookup_table_is_refused_by_name():
    inputs = keras.Input((4,), dtype="int32")
    numbers = keras.layers.IntegerLookup(vocabulary=[5, 6], name="words")(inputs)
    model = keras.Model(inputs, keras.layers.Embedding(4, 2)(numbers))
    with pytest.raises(
        ConversionError, match=r"table: 'words' \(IntegerLookup\).*before the model"
    ):
        convert(model)


def test_conversion_writes_nothing_to_the_terminal():
    script = (
        "import keras, os, sys\n"
        "from cprune_tf.litert import convert\n"
        "model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3)])\n"
        "print('-- now --', flush=True)\n"
        "print('-- now --', file=sys.stderr, flush=True)\n"
        "convert(model)\n"
        "print('after', file=sys.stderr, flush=True)\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    process = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True
    )
    assert process.stdout.rpartition("-- now --")[2].strip() == ""
    assert process.stderr.rpartition("-- now --")[2].strip() == "after"
