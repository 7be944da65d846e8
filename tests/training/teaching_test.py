from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from cprune_tf.config import DataConfig, FitConfig
from cprune_tf.data import load
from cprune_tf.models import vgg_small
from cprune_tf.training import fit
from cprune_tf.training.teaching import Teacher

_CONFIG = FitConfig(epochs=2, learning_rate=0.02, distill=0.5)


def _model(seed: int = 0) -> keras.Model:
    keras.utils.set_random_seed(seed)
    return vgg_small(num_classes=10)


@pytest.fixture(scope="module")
def data():
    return load(DataConfig(validation_fraction=0.0, max_train=200, max_test=100, augment=False))


class Counting(keras.layers.Layer):
    """Counts the batches that pass through it."""

    def build(self, input_shape):
        self.count = tf.Variable(0, trainable=False)

    def call(self, inputs):
        self.count.assign_add(1)
        return tf.identity(inputs)


def test_the_numbers_are_those_of_the_images(data):
    by_number = {}
    for seed in (1, 2):
        for (images, labels), numbers in zip(
            data.train_dataset(seed), data.train_indices(seed), strict=True
        ):
            for image, label, number in zip(images, labels, numbers.numpy(), strict=True):
                pair = image.numpy().tobytes(), int(label)
                assert by_number.setdefault(number, pair) == pair
    assert len(set(by_number.values())) == len(by_number) > 150


def test_augmented_images_have_no_numbers():
    config = DataConfig(validation_fraction=0.0, max_train=200, max_test=100, augment=True)
    assert load(config).train_indices is None


def test_a_shared_teacher_computes_each_output_once_and_teaches_the_same(data):
    without = dataclasses.replace(data, train_indices=None)
    expected, received = _model(), _model()
    original = _model(seed=1)
    fit(expected, without, _CONFIG, seed=0, teacher=original)
    teacher = Teacher(original, data)
    fit(received, data, _CONFIG, seed=0, teacher=teacher)
    for one, two in zip(expected.get_weights(), received.get_weights(), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)
    # Whatever the teacher would compute now, it has all answers.
    num_images = sum(len(labels) for _, labels in data.train_dataset(0))
    indices = tf.range(num_images, dtype=tf.int64)
    images = tf.zeros([num_images, *data.input_shape])
    first = teacher.outputs(images, indices)
    again = teacher.outputs(images + 9.0, indices)
    np.testing.assert_array_equal(first, again)


def test_only_batches_with_an_unknown_image_are_computed(data):
    inputs = keras.Input(data.input_shape)
    counting = Counting()
    x = keras.layers.GlobalAveragePooling2D()(counting(inputs))
    teacher = Teacher(keras.Model(inputs, keras.layers.Dense(10)(x)), data)
    counter = next(one for one in teacher._twin.layers if isinstance(one, Counting)).count
    images = tf.random.stateless_uniform([4, *data.input_shape], [1, 2])
    before = int(counter)
    for indices, computed in (([0, 1, 2, 3], 1), ([3, 2, 1, 0], 1), ([0, 1, 2, 4], 2), ([4, 0], 2)):
        numbers = tf.constant(indices, tf.int64)
        teacher.outputs(tf.gather(images, numbers % 4), numbers)
        assert int(counter) - before == computed
