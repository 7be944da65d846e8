"""Every fused call is tied to the Keras layers it computes."""

from __future__ import annotations

import keras
import pytest
import tvm
from keras import layers
from tvm import relax

from cprune_tf.compiler.building.lowering import lower
from cprune_tf.compiler.importer import ProvenanceError, import_model, provenance

from .small_models import conv1d_classifier, mobilenet, resnet8, transformer, unet, vgg

TARGET = tvm.target.Target({"kind": "llvm"})


def fused_layers(model):
    imported = import_model(model)
    return provenance(lower(imported.mod, TARGET), imported)


def test_resnet8_names_every_layer_of_every_call():
    calls = list(fused_layers(resnet8()).values())
    assert ("stem_conv", "stem_bn", "stem_relu") in calls
    assert ("s1_b_conv", "s1_b_bn", "s1_add", "s1_out") in calls
    assert ("s2_shortcut",) in calls
    assert ("pool",) in calls
    assert len([call for call in calls if "classes" in call]) >= 1


@pytest.mark.parametrize("build", [resnet8, vgg, mobilenet, unet, conv1d_classifier, transformer])
def test_every_working_layer_is_found(build):
    model = build()
    names = {name for call in fused_layers(model).values() for name in call}
    idle_classes = (layers.InputLayer, layers.Dropout)
    assert names == {layer.name for layer in model.layers if not isinstance(layer, idle_classes)}


def test_identical_operations_on_one_tensor_are_told_apart():
    """Two ReLUs of one tensor compute the same, but different calls read their outputs."""
    inputs = keras.Input((8, 8, 3), name="image")
    x = layers.Softmax(name="start")(inputs)
    left, right = layers.ReLU(name="left")(x), layers.ReLU(name="right")(x)
    left = layers.Conv2D(4, 1, name="left_conv")(left)
    right = layers.Softmax(name="right_softmax")(right)
    imported = import_model(keras.Model(inputs, [left, right]))
    fused = lower(imported.mod, TARGET)
    calls = provenance(fused, imported)
    reads_of = {
        calls[binding.var.name]: [arg.name for arg in binding.value.args[1].fields]
        for block in fused["main"].body.blocks
        for binding in block.bindings
    }
    assert calls[reads_of[("left_conv",)][0]] == ("left",)
    assert calls[reads_of[("right_softmax",)][0]] == ("right",)


def test_max_and_mean_of_one_tensor_are_told_apart():
    inputs = keras.Input((8, 8, 3), name="image")
    most = layers.GlobalMaxPooling2D(name="most")(inputs)
    mean = layers.GlobalAveragePooling2D(name="mean")(inputs)
    imported = import_model(keras.Model(inputs, [mean, most]))
    fused = lower(imported.mod, TARGET)
    calls = provenance(fused, imported)
    for block in fused["main"].body.blocks:
        for binding in block.bindings:
            function = binding.value.args[0].name_hint
            expected = ("most",) if function.startswith("max") else ("mean",)
            assert calls[binding.var.name] == expected


def test_the_plain_passes_work_as_well_as_lower():
    imported = import_model(resnet8())
    with TARGET:
        fused = relax.get_pipeline("zero")(imported.mod)
    calls = list(provenance(fused, imported).values())
    assert ("s3_b_conv", "s3_b_bn", "s3_add", "s3_out") in calls


def test_another_models_module_is_refused():
    other = lower(import_model(vgg()).mod, TARGET)
    with pytest.raises(ProvenanceError, match="matches no fusion group"):
        provenance(other, import_model(mobilenet()))


def test_layers_named_like_tvms_own_variables():
    """FuseOps names its variables lv, gv, ...; layers of the same names must not be confused."""
    inputs = keras.Input((8, 8, 3), name="lv")
    x = layers.Conv2D(4, 3, activation="relu", name="lv1")(inputs)
    x = layers.Softmax(name="gv")(x)
    y = layers.MaxPooling2D(name="output0")(x)
    x = layers.Conv2D(4, 3, activation="relu", name="gv1")(x)
    calls = fused_layers(keras.Model(inputs, [x, y]))
    assert sorted(calls.values()) == [("gv",), ("gv1",), ("lv1",), ("output0",)]


def test_an_output_that_is_fused_beside_one_that_is_not(check_against_keras):
    inputs = keras.Input((8, 8, 3), name="image")
    pooled = layers.MaxPooling2D(name="pool")(inputs)
    x = layers.Conv2D(4, 3, activation="relu", name="conv")(inputs)
    check_against_keras(keras.Model(inputs, [pooled, x]))


def test_order_of_layers_is_the_models():
    calls = list(fused_layers(mobilenet()).values())
    assert ("stem_pad", "stem_conv", "stem_bn", "stem_relu") in calls
