"""Data for models whose inputs are integers."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from cprune_tf.data import DataError, from_datasets
from cprune_tf.data.whole_numbers import fit_to_input, to_type


@pytest.mark.parametrize("make", [np.asarray, tf.constant])
def test_numbers_become_the_nearest_that_the_type_has(make):
    values = make(np.array([-3.0, 0.6, 1.4, 254.9, 300.0], np.float32))
    assert np.asarray(to_type(values, "uint8")).tolist() == [0, 1, 1, 255, 255]
    assert np.asarray(to_type(values, "int32")).tolist() == [-3, 1, 1, 255, 300]
    assert np.asarray(to_type(values, "bool")).tolist() == [False, True, True, True, True]
    assert np.asarray(to_type(to_type(values, "uint8"), "float32")).dtype == np.float32


def _data(images):
    labels = np.arange(len(images)) % 2
    return from_datasets((images, labels), (images, labels), batch_size=4, num_classes=2)


def _model(dtype):
    return keras.Sequential([keras.Input((2, 2, 1), dtype=dtype), keras.layers.Flatten()])


def test_images_are_rounded_for_training_and_judging_alike():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 2, 2, 1)).astype(np.float32)
    given = _data(pixels - 0.01)
    data = fit_to_input(given, _model("uint8"))
    np.testing.assert_array_equal(data.test_images, pixels)
    assert data.test_images.dtype == np.float32
    for images, _ in data.train.as_numpy_iterator():
        assert images.dtype == np.float32 and not (images % 1).any()
    assert fit_to_input(given, _model("float32")) is given


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.linspace(0, 1, 32, dtype=np.float32), r"0\.\.1 .* uint8; expected whole numbers"),
        (np.linspace(-128, 127, 32, dtype=np.float32), r"-128\.\.127 .*data\.mean=\(0\.0,\)"),
    ],
)
def test_preprocessed_images_do_not_fit(images, message):
    with pytest.raises(DataError, match=message):
        fit_to_input(_data(images.reshape(8, 2, 2, 1)), _model("uint8"))
