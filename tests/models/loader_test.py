from __future__ import annotations

import importlib.resources
import json
import pathlib
import warnings
import zipfile
from collections.abc import Callable

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

from cprune_tf import graph
from cprune_tf.config import DataConfig
from cprune_tf.data import load
from cprune_tf.models import ModelError, load_model, vgg_small
from cprune_tf.training import evaluate

_SHARED = pathlib.Path(__file__).parents[3] / "shared" / "data" / "models"
_requires_models = pytest.mark.skipif(not _SHARED.is_dir(), reason="no models in ../shared/data")


def test_embedded_resnet8_is_small_and_good():
    model = load_model("resnet8_fashion")
    assert model.name == "resnet8"
    assert model.input_shape == (None, 28, 28, 1)
    assert not model.compiled
    assert evaluate(model, load(DataConfig())) > 0.9
    resource = importlib.resources.files("cprune_tf.models") / "pretrained/resnet8_fashion.keras"
    with importlib.resources.as_file(resource) as path:
        assert path.stat().st_size < 1e6
        with zipfile.ZipFile(path) as archive, archive.open("model.weights.h5") as weights:
            assert "optimizer" not in h5py.File(weights)


@_requires_models
@pytest.mark.parametrize(
    ("name", "input_shape", "outputs"),
    [
        ("autoencoder_ad_mlperf_tiny.h5", (640,), 640),
        ("mobilenet_v1_025_vww96_mlperf_tiny.h5", (96, 96, 3), 2),
        ("mobilenet_v1_224_imagenet1001.keras", (224, 224, 3), 1001),
        ("resnet20_cifar10.h5", (32, 32, 3), 10),
        ("resnet32_cifar10.h5", (32, 32, 3), 10),
        ("resnet56_cifar10.h5", (32, 32, 3), 10),
        ("resnet8_cifar10_mlperf_tiny.h5", (32, 32, 3), 10),
    ],
)
def test_pretrained_models_are_loaded(name, input_shape, outputs):
    model = load_model(_SHARED / name)
    assert model.input_shape == (None, *input_shape)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = model(np.ones((2, *input_shape), np.float32)).numpy()
    assert result.shape == (2, outputs) and np.isfinite(result).all()


def test_sequential_and_compiled_models_are_loaded_uncompiled(tmp_path):
    model = vgg_small()
    model.compile("adam", "mse")
    model.save(tmp_path / "model.keras")
    loaded = load_model(str(tmp_path / "model.keras"))
    assert isinstance(loaded, keras.Sequential) and not loaded.compiled


class Scale(keras.layers.Layer):
    def call(self, x: tf.Tensor) -> tf.Tensor:
        return 2.0 * x


class Subclassed(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.dense = keras.layers.Dense(2)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return self.dense(x)

    def get_config(self) -> dict[str, object]:
        return {}


def test_custom_layers_need_custom_objects(tmp_path):
    inputs = keras.Input((3,))
    keras.Model(inputs, Scale()(inputs)).save(tmp_path / "model.keras")
    with pytest.raises(ModelError, match=r"not Keras' own.*custom_objects"):
        load_model(tmp_path / "model.keras")
    loaded = load_model(tmp_path / "model.keras", custom_objects={"Scale": Scale})
    np.testing.assert_array_equal(loaded(np.ones((1, 3), np.float32)), [[2.0, 2.0, 2.0]])


def test_a_layer_shared_with_a_wrapper_is_kept_by_a_twin(tmp_path):
    one, several = keras.Input((8, 8, 3)), keras.Input((4, 8, 8, 3))
    shared = keras.layers.Conv2D(4, 3, name="shared", bias_initializer="normal")
    wrapped = keras.layers.TimeDistributed(shared)(several)
    outputs = [
        keras.layers.GlobalAveragePooling2D()(shared(one)),
        keras.layers.Dense(2)(keras.layers.Flatten()(wrapped)),
    ]
    model = keras.Model([several, one], outputs)
    model.save(tmp_path / "model.keras")
    with pytest.raises(ModelError, match=r"lacks weights of Layer 'shared'; .*functional_twin"):
        load_model(tmp_path / "model.keras")
    twin = graph.functional_twin(model)
    graph.check_storable(twin)
    twin.save(tmp_path / "twin.keras")
    images = [np.ones((2, *tensor.shape[1:]), np.float32) for tensor in model.inputs]
    for value, expected in zip(
        load_model(tmp_path / "twin.keras")(images), model(images), strict=True
    ):
        np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_subclassed_models_are_refused(tmp_path):
    model = Subclassed()
    model(np.ones((1, 3), np.float32))
    model.save(tmp_path / "model.keras")
    with pytest.raises(ModelError, match="custom_objects"):
        load_model(tmp_path / "model.keras")
    with pytest.raises(ModelError, match=r"subclassed model \(Subclassed\); expected"):
        load_model(tmp_path / "model.keras", custom_objects={"Subclassed": Subclassed})


def _missing(path: pathlib.Path) -> pathlib.Path:
    return path / "missing.keras"


def _saved_model(path: pathlib.Path) -> pathlib.Path:
    module = tf.Module()
    module.f = tf.function(lambda x: x, input_signature=[tf.TensorSpec([1])])
    tf.saved_model.save(module, str(path / "saved"))
    return path / "saved"


def _folder(path: pathlib.Path) -> pathlib.Path:
    return path


def _file(name: str, content: bytes) -> Callable[[pathlib.Path], pathlib.Path]:
    def write(path: pathlib.Path) -> pathlib.Path:
        (path / name).write_bytes(content)
        return path / name

    return write


def _old_weights(path: pathlib.Path) -> pathlib.Path:
    """Writes what `save_weights` of Keras 2 wrote."""
    with h5py.File(path / "model.h5", "w") as file:
        file.attrs["layer_names"] = [b"conv"]
        file.create_group("conv")
    return path / "model.h5"


def _other_hdf5(path: pathlib.Path) -> pathlib.Path:
    with h5py.File(path / "model.h5", "w") as file:
        file["images"] = [1.0]
    return path / "model.h5"


def _other_zip(path: pathlib.Path) -> pathlib.Path:
    with zipfile.ZipFile(path / "model.keras", "w") as file:
        file.writestr("notes.txt", "none")
    return path / "model.keras"


def _truncated(path: pathlib.Path) -> pathlib.Path:
    vgg_small().save(path / "whole.keras")
    content = (path / "whole.keras").read_bytes()
    (path / "model.keras").write_bytes(content[: len(content) // 2])
    return path / "model.keras"


def _weights_only(path: pathlib.Path) -> pathlib.Path:
    vgg_small().save_weights(path / "model.weights.h5")
    return path / "model.weights.h5"


def _keras2_archive(path: pathlib.Path) -> pathlib.Path:
    """Writes an archive like those of tf_keras, with its metadata and its names of weights."""
    vgg_small().save(path / "new.keras")
    with (
        zipfile.ZipFile(path / "new.keras") as new,
        zipfile.ZipFile(path / "model.keras", "w") as old,
    ):
        metadata = {"keras_version": "2.15.0", "date_saved": "2024-01-01@00:00:00"}
        old.writestr("metadata.json", json.dumps(metadata))
        old.writestr("config.json", new.read("config.json"))
        with h5py.File(path / "weights.h5", "w") as weights:
            weights.create_group("_layer_checkpoint_dependencies")
        old.write(path / "weights.h5", "model.weights.h5")
    return path / "model.keras"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_missing, "there is no model .*resnet8_fashion"),
        (_saved_model, "is a SavedModel; expected a Keras model saved as"),
        (_folder, "is a folder; expected"),
        (_file("model.tflite", b"TFL3"), "is a TFLite model; expected .* converted from"),
        (_file("model.bin", b""), "has the suffix '.bin'; expected"),
        (
            _file("model.pth", b"PK"),
            "is a PyTorch file; expected .* Rebuild the model with keras.layers",
        ),
        (_file("graph.pb", b""), "is a SavedModel; expected .* as .h5"),
        (_old_weights, "holds weights without a model; expected .*load_weights"),
        (_other_hdf5, "without a Keras model; expected"),
        (_other_zip, "without a model's config.json; expected"),
        (_file("model.keras", b"no zip"), "cannot be loaded"),
        (_file("model.h5", b"no hdf5"), "cannot be loaded"),
        (_truncated, "cannot be loaded"),
        (_weights_only, "holds weights without a model; expected .*load_weights"),
        (_keras2_archive, "saved by Keras 2.15.0 .* save it as .h5"),
    ],
)
def test_what_is_no_model_is_refused_in_one_line(tmp_path, make, message):
    with pytest.raises(ModelError, match=message) as error:
        load_model(make(tmp_path))
    assert "\n" not in str(error.value)
    assert "xpected" in str(error.value)


@_requires_models
@pytest.mark.parametrize(
    "name", ["ds_cnn_kws_mlperf_tiny_savedmodel", "ds_cnn_kws_mlperf_tiny.tflite"]
)
def test_real_files_of_other_kinds_are_refused(name):
    with pytest.raises(ModelError, match="expected a Keras model saved as"):
        load_model(_SHARED / name)
