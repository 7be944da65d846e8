from __future__ import annotations

import numpy as np
import pytest

from cprune_tf.devices import open_device

from . import libraries


@pytest.fixture(scope="session")
def device():
    with open_device("local") as opened:
        yield opened


@pytest.fixture(scope="session")
def native_library(tmp_path_factory):
    return libraries.build_native(tmp_path_factory.mktemp("native"))


@pytest.fixture(scope="session")
def dense_weights():
    return np.random.default_rng(1).normal(size=(16, 4)).astype(np.float32)


@pytest.fixture(scope="session")
def dense_library(tmp_path_factory, dense_weights):
    directory = tmp_path_factory.mktemp("dense")
    module = libraries.dense_module(16, 4, weights=dense_weights)
    return libraries.export(module, directory / "dense.so")


@pytest.fixture(scope="session")
def conv_tflite(tmp_path_factory):
    """A convolution that is large enough for LiteRT to use several threads."""
    import keras

    from cprune_tf.litert import convert

    model = keras.Sequential(
        [keras.Input((32, 32, 16)), keras.layers.Conv2D(32, 3, padding="same")]
    )
    path = tmp_path_factory.mktemp("tflite") / "conv.tflite"
    path.write_bytes(convert(model))
    return path
