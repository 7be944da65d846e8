"""Tests of nested, shared and unusual models, and of errors about unsupported models."""

from __future__ import annotations

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from tvm import relax

from cprune_tf.compiler.importer import (
    UnsupportedOperationError,
    import_model,
    register_converter,
)
from tests.graph.naming_test import odd_model

from .beside_keras import compile_imported, random_inputs, relative_errors


def test_nested_functional_and_sequential(check_against_keras):
    inner_inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, name="inner_conv")(inner_inputs)
    inner = keras.Model(inner_inputs, layers.BatchNormalization(name="inner_bn")(x))
    head = keras.Sequential([layers.Flatten(), layers.Dense(5, name="classes")], name="head")
    inputs = keras.Input((8, 8, 3), name="image")
    imported = check_against_keras(keras.Model(inputs, head(layers.ReLU()(inner(inputs)))))
    assert imported.layers_of_param["inner_conv/kernel"] == ("inner_conv", "inner_bn")
    assert "classes/kernel" in imported.params


def test_odd_names_of_layers(check_against_keras):
    imported = check_against_keras(odd_model())
    assert {"größe 1/kernel", "%s{0}/kernel"} <= set(imported.params)


def test_sequential_of_models(check_against_keras):
    backbone = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 3, name="conv")])
    model = keras.Sequential([backbone, layers.GlobalAveragePooling2D(), layers.Dense(2)])
    check_against_keras(model)


def test_shared_layer_and_model_have_one_set_of_parameters(check_against_keras):
    tower_inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, name="conv")(tower_inputs)
    tower = keras.Model(tower_inputs, layers.BatchNormalization(name="bn")(x), name="tower")
    left, right = keras.Input((8, 8, 3), name="left"), keras.Input((8, 8, 3), name="right")
    merged = layers.Subtract()([tower(left), tower(right)])
    imported = check_against_keras(keras.Model([left, right], merged))
    assert list(imported.params) == ["conv/kernel", "conv/bias", "bn/scale", "bn/shift"]


def test_same_layer_names_in_two_nested_models(check_against_keras):
    def tower(name):
        inputs = keras.Input((6,))
        return keras.Model(inputs, layers.Dense(3, name="dense")(inputs), name=name)

    inputs = keras.Input((6,))
    outputs = layers.Add()([tower("first")(inputs), tower("second")(inputs)])
    imported = check_against_keras(keras.Model(inputs, outputs))
    assert len([name for name in imported.params if name.endswith("/kernel")]) == 2


def test_layers_used_elsewhere_do_not_disturb(check_against_keras):
    conv = layers.Conv2D(4, 3, name="conv")
    inputs = keras.Input((8, 8, 3))
    x = layers.BatchNormalization(name="bn")(conv(inputs))
    model = keras.Model(inputs, x)
    conv(keras.Input((9, 9, 3)))
    layers.ReLU()(x)
    imported = check_against_keras(model)
    assert "bn/scale" not in imported.params


def test_several_outputs_one_of_them_inside_and_one_an_input(check_against_keras):
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3)(inputs)
    y = layers.ReLU()(x)
    check_against_keras(keras.Model(inputs, [y, x, y, inputs]))


def test_unknown_dimensions_are_given():
    inputs = keras.Input((None, None, 3), name="image")
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3, padding="same")(inputs))
    model = keras.Model(inputs, x)
    with pytest.raises(ValueError, match=r'fix_inputs\(model, \{"image": '):
        import_model(model)
    with pytest.raises(ValueError, match=r"input_shapes names \['picture'\]"):
        import_model(model, input_shapes={"picture": (8, 8, 3)})
    imported = import_model(model, input_shapes={"image": (8, 6, 3)})
    images = np.random.default_rng(0).normal(size=(1, 8, 6, 3)).astype("float32")
    assert max(relative_errors(model, [images], compile_imported(imported)([images]))) < 1e-4


def test_image_bytes_as_input(check_against_keras):
    inputs = keras.Input((8, 8, 3), dtype="uint8")
    x = layers.Conv2D(4, 3)(layers.Rescaling(1 / 255)(inputs))
    check_against_keras(keras.Model(inputs, x))


@pytest.mark.parametrize(
    "function",
    [
        keras.layers.BatchNormalization(),
        keras.layers.GlobalAveragePooling2D(),
        lambda x: keras.ops.mean(x, (1, 2)),
    ],
)
def test_means_and_norms_of_integers_are_no_integers(check_against_keras, function):
    inputs = keras.Input((4, 3, 3), dtype="uint8")
    check_against_keras(keras.Model(inputs, function(inputs)))


def test_integers_as_input_of_a_dense_layer(check_against_keras):
    inputs = keras.Input((4, 4, 3), dtype="int32")
    x = layers.Flatten()(layers.MaxPooling2D()(inputs))
    check_against_keras(keras.Model(inputs, layers.Dense(2)(x)))


def test_half_precision_is_computed_in_float32():
    inputs = keras.Input((8, 8, 3), dtype="float16")
    x = layers.Conv2D(4, 3, dtype="mixed_float16")(inputs)
    x = keras.ops.cast(x * 2.0, "float16") + 1.0
    model = keras.Model(inputs, layers.Dense(3, dtype="mixed_float16")(x))
    imported = import_model(model)
    assert {value.dtype for value in imported.params.values()} == {np.dtype("float32")}
    arrays = random_inputs(model)
    assert max(relative_errors(model, arrays, compile_imported(imported)(arrays))) < 1e-2


def test_fixed_batch_size(check_against_keras):
    inputs = keras.Input(batch_shape=(2, 8), name="row")
    model = keras.Model(inputs, keras.ops.reshape(layers.Dense(6)(inputs), (2, 3, 2)))
    check_against_keras(model, batch_size=2)
    with pytest.raises(ValueError, match=r"fixed batch size 2; .*fix_inputs\(model\) frees"):
        import_model(model)


def test_quantized_layers_are_refused():
    inputs = keras.Input((8,))
    model = keras.Model(inputs, layers.Dense(4, name="dense")(inputs))
    model.quantize("int8")
    with pytest.raises(UnsupportedOperationError, match=r"quantized \(int8\)"):
        import_model(model)


def test_low_rank_adapters_are_merged(check_against_keras):
    inputs = keras.Input((8,))
    dense = layers.Dense(4, name="dense")
    model = keras.Model(inputs, dense(inputs))
    dense.enable_lora(2)
    check_against_keras(model)


@keras.saving.register_keras_serializable("importer_test")
class Unknown(layers.Layer):
    """Cannot be followed inside, because its function is none of Keras's."""

    def call(self, x):
        return tf.add(x, 1.0)


@keras.saving.register_keras_serializable("importer_test")
class AddOne(layers.Layer):
    def call(self, x):
        return x + 1.0


def test_everything_unsupported_is_named_at_once():
    inputs = keras.Input((8, 8, 3))
    x = Unknown(name="mystery")(inputs)
    x = layers.Conv2D(4, 3, name="fine")(x)
    x = Unknown(name="riddle")(x)
    x = keras.ops.sort(x)
    with pytest.raises(UnsupportedOperationError) as error:
        import_model(keras.Model(inputs, x))
    assert [op.name for op in error.value.operations] == ["mystery", "riddle", "sort"]
    for part in ("mystery, riddle", "Unknown", "sort", "register_converter"):
        assert part in str(error.value)
    assert "fine" not in str(error.value)


def test_every_unsupported_setting_is_named_at_once(capfd):
    inputs = keras.Input((8, 8, 4), name="image")
    first = layers.UpSampling2D(2, interpolation="bicubic", name="cubic")(inputs)
    second = layers.Activation(lambda x: tf.multiply(x, 2.0), name="own")(inputs)
    pooled = layers.MaxPooling2D(2, data_format="channels_first", name="nchw")(inputs)
    with pytest.raises(UnsupportedOperationError) as error:
        import_model(keras.Model(inputs, [first, second, pooled]))
    assert {op.name for op in error.value.operations} == {"cubic", "own", "nchw"}
    assert "bicubic" in str(error.value)
    assert "channels_first" in str(error.value)
    assert "BlockBuilder" not in capfd.readouterr().err


def test_a_registered_converter_is_used(check_against_keras):
    @register_converter(AddOne)
    def convert(emitter, layer, x):
        return emitter.emit(relax.op.add(x, relax.const(1.0)))

    inputs = keras.Input((8, 8, 3))
    imported = check_against_keras(keras.Model(inputs, AddOne(name="one_more")(inputs)))
    assert set(imported.layers_of_var.values()) == {("one_more",)}


def test_a_subclass_is_not_taken_for_its_base(check_against_keras):
    class Doubling(layers.Dense):
        def call(self, x):
            return super().call(x) * 2

    class Unlike(layers.Dense):
        def call(self, x):
            return tf.identity(super().call(x))

    inputs = keras.Input((4,))
    check_against_keras(keras.Model(inputs, Doubling(3)(inputs)))
    with pytest.raises(UnsupportedOperationError, match="Unlike"):
        import_model(keras.Model(inputs, Unlike(3)(inputs)))


def test_a_converter_with_a_wrong_shape_is_caught():
    @keras.saving.register_keras_serializable("importer_test")
    class Wrong(layers.Layer):
        def call(self, x):
            return x

    @register_converter(Wrong)
    def convert(emitter, layer, x):
        return emitter.emit(relax.op.expand_dims(x, 1))

    inputs = keras.Input((4,))
    with pytest.raises(UnsupportedOperationError, match="Keras says"):
        import_model(keras.Model(inputs, Wrong()(inputs)))


def test_models_without_a_graph_are_refused():
    class Subclassed(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(ValueError, match="subclassed"):
        import_model(Subclassed())
    with pytest.raises(ValueError, match="has not been built"):
        import_model(keras.Sequential([layers.Dense(3)]))


def test_importing_the_compiler_package_stays_light():
    heavy = {"tensorflow", "keras", "tvm"}
    code = f"import sys, cprune_tf.compiler; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
