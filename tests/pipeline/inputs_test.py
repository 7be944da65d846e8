"""Whole runs of models whose inputs are of any size, of a fixed batch, or integers."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import rich.console
from keras import layers

import cprune_tf
from cprune_tf.config import ConfigError
from cprune_tf.data import DataError
from cprune_tf.graph import GraphError
from tests.pipeline import tiny_config

_BATCH = 8


def _pixels_model():
    """A classifier of images of any size, in batches of 8, of uint8 pixels that it scales."""
    image = keras.Input(batch_shape=(_BATCH, None, None, 3), dtype="uint8", name="pixels")
    x = layers.Rescaling(1 / 127.5, -1, name="scaling")(image)
    x = layers.Conv2D(16, 3, strides=2, padding="same", activation="relu", name="stem")(x)
    x = layers.Conv2D(32, 3, padding="same", activation="relu", name="wide")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, layers.Dense(3, activation="softmax", name="kind")(x))


def _pixels(dtype="uint8"):
    images = np.random.default_rng(0).integers(0, 256, (96, 16, 16, 3)).astype(dtype)
    labels = images.mean((1, 2)).argmax(-1)
    return {"train_data": (images[:64], labels[:64]), "validation_data": (images[64:], labels[64:])}


def _prune(model, runtime, **options):
    config = tiny_config.get_config()
    config.runtime = runtime
    config.strategy.name = "uniform"
    config.strategy.max_iterations = 1
    config.measure.max_time_sec = 0.05
    for name in ("trials_per_task", "trials_per_accepted_task", "final_trials_per_task"):
        setattr(config.tuning, name, 2)
    console = rich.console.Console(file=io.StringIO(), width=1000)
    settings = config.to_dict() | options.pop("config", {})
    result = cprune_tf.prune(model, config=settings, console=console, **options)
    return result, console.file.getvalue()


@pytest.mark.parametrize("runtime", ["litert", pytest.param("tvm", marks=pytest.mark.slow)])
def test_pixels_of_any_size_in_fixed_batches(tmp_path, runtime):
    data = _pixels()
    result, said = _prune(_pixels_model(), runtime, input_shape=(16, 16, 3), **data)
    assert "'pixels' from (8, None, None, 3) to (None, 16, 16, 3)" in said
    assert [step["decision"] for step in result.history] == ["accepted"]
    final = keras.models.load_model(result.workdir / "final.keras")
    assert final.input_shape == (None, 16, 16, 3) and final.inputs[0].dtype == "uint8"
    checks = result.report.cross_check.checks
    assert {check.runtime for check in checks} == {"keras", "litert", runtime}
    assert all(check.max_relative_error < 1e-3 for check in checks)
    (described,) = json.loads((result.workdir / "deploy" / "metadata.json").read_text())["inputs"]
    assert described == {"name": "pixels", "dtype": "uint8", "shape": [1, 16, 16, 3]}
    image = data["validation_data"][0][:1]
    # Numbers near whole ones, as a computation gives them, mean these.
    np.save(tmp_path / "image.npy", image - 0.001)
    command = [sys.executable, str(result.workdir / "deploy" / "run.py"), tmp_path / "image.npy"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    values = np.array(printed.replace("[", "").replace("]", "").split(), np.float32)
    np.testing.assert_allclose(values, final(image)[0], atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "with --input_shape=16,16,3, the shape of the data"),
        ({"input_shape": (16, 16)}, "expected 3 sizes without the batch"),
        ({"config": {"input_shape": "16x16"}}, "config.input_shape .* is '16x16'"),
    ],
)
def test_a_size_that_is_unknown_or_wrong_is_said_before_any_work(tmp_path, options, message):
    with pytest.raises((ConfigError, GraphError), match=message):
        _prune(_pixels_model(), "litert", workdir=tmp_path / "run", **_pixels(), **options)
    assert not (tmp_path / "run").exists()


def test_images_that_are_scaled_do_not_fit_integers(tmp_path):
    data = {name: (images / 255, labels) for name, (images, labels) in _pixels("float32").items()}
    with pytest.raises(DataError, match=r"images are 0\.\.1 .* uint8; expected whole numbers"):
        _prune(_pixels_model(), "litert", input_shape=(16, 16, 3), **data)


def test_what_cannot_compute_from_integers_is_named():
    image = keras.Input((16, 16, 3), dtype="uint8")
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(8, 3, name="first")(image))
    model = keras.Model(image, layers.Dense(3)(x))
    with pytest.raises(ConfigError, match=r"takes uint8, and Keras cannot compute.*Conv2D"):
        _prune(model, "litert", **_pixels())
    with pytest.raises(ConfigError, match=r"config\.deploy\.pixel_input is True.* takes uint8"):
        config = {"deploy": {"pixel_input": True}}
        _prune(_pixels_model(), "litert", input_shape=(16, 16, 3), config=config, **_pixels())
