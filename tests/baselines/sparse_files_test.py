"""Zeros in a `.tflite` file: what they save, and that it computes the same."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from cprune_tf import litert
from cprune_tf.baselines.tfmot import sparse_files
from cprune_tf.baselines.tfmot.errors import TfmotError
from cprune_tf.config import MeasureConfig
from cprune_tf.devices import open_device


def test_sparse_encoding_saves_bytes_and_computes_the_same(tmp_path):
    image = keras.Input((8, 8, 16))
    x = keras.layers.Conv2D(64, 3, name="conv")(image)
    model = keras.Model(image, keras.layers.Dense(4)(keras.layers.GlobalMaxPooling2D()(x)))
    (tmp_path / "original.tflite").write_bytes(litert.convert(model))
    kernel, bias = model.get_layer("conv").get_weights()
    kept = np.random.default_rng(0).random(kernel.shape) < 0.2
    model.get_layer("conv").set_weights([kernel * kept, bias])
    model.save(tmp_path / "final.keras")
    (tmp_path / "final.tflite").write_bytes(litert.convert(model))
    with open_device("local") as device:
        measure = MeasureConfig(max_time_sec=0.1, min_samples=5, warmup_ms=1.0)
        written = sparse_files.write_sparse_files(tmp_path, device, measure, 1)
    assert written.dense.file_bytes == written.original.file_bytes
    assert written.sparse.file_bytes < 0.5 * written.dense.file_bytes
    assert written.dense.gzip_bytes < 0.5 * written.original.gzip_bytes
    assert written.max_relative_error < 1e-5
    assert written.zeros == pytest.approx(0.78, abs=0.03)
    assert sparse_files.read_sparse_files(tmp_path) == written
    (tmp_path / "sparse.json").write_text("{}")
    with pytest.raises(TfmotError, match=r"sparse\.json cannot be read"):
        sparse_files.read_sparse_files(tmp_path)
