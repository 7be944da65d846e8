from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from cprune_tf.config import DataConfig
from cprune_tf.data import DataError, load
from cprune_tf.data.representative import representative_images


@pytest.fixture(scope="module")
def data():
    return load(DataConfig(max_train=200, max_test=50, augment=False, batch_size=32))


def rows(images):
    return {image.tobytes() for image in images}


def test_images_are_drawn_from_training_by_seed(data):
    images = representative_images(data, 70, seed=3)
    assert images.shape == (70, 28, 28, 1) and images.dtype == np.float32
    np.testing.assert_array_equal(images, representative_images(data, 70, seed=3))
    assert rows(images) != rows(representative_images(data, 70, seed=4))
    assert not rows(images) & (rows(data.test_images) | rows(data.validation_images))


def test_an_epoch_is_all_there_is(data):
    assert len(representative_images(data, 10_000)) == data.num_train // 32 * 32


def test_no_training_images_is_told(data):
    empty = dataclasses.replace(
        data, train_dataset=lambda seed: data.train_dataset(seed).take(0), name="nothing"
    )
    assert isinstance(empty.train, tf.data.Dataset)
    with pytest.raises(DataError, match="nothing has no training images; int8 needs some, 5"):
        representative_images(empty, 5)
