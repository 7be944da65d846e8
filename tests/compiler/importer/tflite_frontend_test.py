"""Tests of the TFLite frontend, which is compared with Keras and with the Keras importer."""

from __future__ import annotations

import sys

import keras
import numpy as np
import pytest
import tvm
from keras import layers

from cprune_tf import models
from cprune_tf.compiler.importer import (
    MissingTfliteError,
    UnsupportedOperationError,
    import_model,
    import_through,
)
from cprune_tf.compiler.tasks import lower_model

from ..workloads import conv_task
from .beside_keras import (
    TARGET,
    check_provenance,
    compile_imported,
    random_inputs,
    randomize,
    relative_errors,
)
from .small_models import conv1d_classifier, mobilenet, resnet8, transformer, unet, vgg


def check(model, *, shuffle_weights=True):
    """Imports a model through both frontends and compares the outputs with each other and Keras."""
    if shuffle_weights:
        randomize(model)
    imported = import_through("tflite", model)
    inputs = random_inputs(model)
    outputs = compile_imported(imported)(inputs)
    assert max(relative_errors(model, inputs, outputs)) < 1e-4
    expected_outputs = compile_imported(import_model(model))(inputs)
    for output, expected in zip(outputs, expected_outputs, strict=True):
        assert np.abs(output - expected).max() < 1e-4 * max(np.abs(expected).max(), 1e-6)
    check_provenance(imported, model)
    return imported


def weighted_layers(model):
    return {layer.name for layer in model.layers if layer.weights}


@pytest.mark.parametrize("build", [resnet8, vgg, mobilenet, conv1d_classifier, transformer])
def test_same_outputs_and_every_weighted_layer_in_the_table(build):
    model = build()
    imported = check(model)
    lowered = lower_model(imported, tvm.target.Target(TARGET))
    task_layers = {layer for task in lowered.tasks for layer in task.layers}
    assert weighted_layers(model) <= task_layers <= {layer.name for layer in model.layers}
    assert not weighted_layers(model) & set(imported.untied_layers)


def test_the_embedded_model_has_the_same_table_as_with_the_keras_importer():
    model = models.load_model("resnet8_fashion")
    imported = check(model, shuffle_weights=False)
    assert imported.untied_layers == ()
    target = tvm.target.Target(TARGET)
    table = lower_model(imported, target)
    keras_table = lower_model(import_model(model), target)
    differences = {(task.layers, task.key) for task in keras_table.tasks} ^ {
        (task.layers, task.key) for task in table.tasks
    }
    # The outputs of two convolutions are added here. The addition is fused into one of them, and
    # the order of operators in the file decides which.
    summands = {f"stack{n}_{conv}" for n in (2, 3) for conv in ("conv2", "shortcut_conv")}
    assert {names[0] for names, _ in differences} <= summands
    for layer in model.layers:
        if isinstance(layer, layers.Conv2D):
            norm = layer.name.replace("conv", "bn")
            assert norm in conv_task(table, layer.name).layers
            assert imported.layers_of_param[f"{layer.name}/kernel"] == (layer.name, norm)
            kernel = imported.params[f"{layer.name}/kernel"]
            keras_kernel = keras_table.imported.params[f"{layer.name}/kernel"]
            assert np.abs(kernel - keras_kernel).max() < 1e-5


def test_names_that_look_like_the_scopes_of_other_layers_mislead_nobody():
    inputs = keras.Input((8, 8, 3), name="keras_call_2")
    x = layers.Conv2D(4, 3, name="keras_call_1")(inputs)
    x = layers.ReLU(name="keras_call_0")(x)
    x = layers.Conv2D(5, 3, name="conv")(x)
    imported = check(keras.Model(inputs, layers.Flatten(name="conv_1")(x)))
    assert imported.params["keras_call_1/kernel"].shape == (3, 3, 3, 4)
    assert imported.params["conv/kernel"].shape == (3, 3, 4, 5)
    assert ("keras_call_1", "keras_call_0") in set(imported.layers_of_var.values())


def test_inputs_and_outputs_keep_their_order():
    left, right = keras.Input((6, 6, 2), name="z"), keras.Input((6, 6, 3), name="a")
    x = layers.Conv2D(4, 3, name="on_left")(left)
    y = layers.Conv2D(5, 3, name="on_right")(right)
    both = layers.Concatenate(name="both")([y, x])
    imported = check(keras.Model([left, right], [both, x, y]))
    assert imported.input_names == ("z", "a")


def test_a_shared_layer_keeps_one_kernel():
    left, right = keras.Input((6, 6, 2)), keras.Input((6, 6, 2))
    conv = layers.Conv2D(4, 3, name="conv")
    imported = check(keras.Model([left, right], layers.Add(name="add")([conv(left), conv(right)])))
    assert [name for name in imported.params if "kernel" in name] == ["conv/kernel"]


def test_what_leaves_no_trace_is_said_and_not_guessed():
    model = vgg()
    dropout = next(layer.name for layer in model.layers if isinstance(layer, layers.Dropout))
    imported = check(model)
    assert imported.untied_layers == (dropout,)
    assert not any(dropout in names for names in imported.layers_of_var.values())


def test_an_operator_that_tvm_cannot_compile_is_named_with_its_layer():
    with pytest.raises(UnsupportedOperationError, match=r"conv2d_transpose of up2.*'keras'"):
        import_through("tflite", unet())


def test_an_operator_without_a_converter_is_named_with_its_layer(monkeypatch):
    from cprune_tf.compiler.importer import tflite_frontend

    class WithoutMean(tflite_frontend.OperatorRecorder):
        def __init__(self, *args):
            super().__init__(*args)
            del self.convert_map["MEAN"]

    monkeypatch.setattr(tflite_frontend, "OperatorRecorder", WithoutMean)
    with pytest.raises(UnsupportedOperationError, match=r"MEAN of pool.*'keras'"):
        import_through("tflite", mobilenet())


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "tflite", None)
    with pytest.raises(MissingTfliteError, match="pip install tflite"):
        import_through("tflite", mobilenet())


def test_an_unknown_frontend_is_refused():
    with pytest.raises(ValueError, match="'onnx'; expected 'keras' or 'tflite'"):
        import_through("onnx", mobilenet())
