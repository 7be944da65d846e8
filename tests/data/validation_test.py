"""What decides and what is quoted are different images, whatever the data come from."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from cprune_tf.config import ConfigError, DataConfig
from cprune_tf.data import DataError, from_datasets, load, set_apart
from cprune_tf.data.splitting import stratified_split
from cprune_tf.training.evaluation import evaluate


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=200),
    st.floats(0, 0.9),
    st.integers(0, 5),
)
def test_a_split_takes_its_share_of_every_class_and_leaves_some(labels, fraction, seed):
    labels = np.array(labels, np.int32)
    kept, apart = stratified_split(labels, fraction, seed)
    assert sorted([*kept, *apart]) == list(range(len(labels)))
    for label in np.unique(labels):
        count = int((labels == label).sum())
        taken = int((labels[apart] == label).sum())
        assert taken < count
        if fraction == 0 or count == 1:
            assert taken == 0
        else:
            assert max(1, fraction * count - 1) <= taken <= max(1, fraction * count + 1e-6)
    again = stratified_split(labels, fraction, seed)
    assert np.array_equal(again[0], kept) and np.array_equal(again[1], apart)


def _images(batches):
    return np.concatenate([images.numpy() for images, _ in batches])


def _keys(images):
    return {image.tobytes() for image in np.asarray(images, np.float32)}


def test_embedded_validation_images_are_neither_trained_nor_quoted():
    data = load(DataConfig(augment=False))
    assert data.num_train == 10_800 and len(data.validation_labels) == 1_200
    assert np.bincount(data.validation_labels).tolist() == [120] * 10
    assert np.bincount(data.test_labels).tolist() == [200] * 10
    trained, judged = _keys(_images(data.train)), _keys(data.validation_images)
    assert 10_700 < len(trained) <= 10_800  # the last batch of an epoch may be left out
    assert not trained & judged and not judged & _keys(data.test_images)


def test_the_split_is_the_same_every_time():
    one, two = (load(DataConfig(max_train=500)) for _ in range(2))
    assert np.array_equal(one.validation_images, two.validation_images)


def test_without_a_fraction_the_test_images_decide():
    data = load(DataConfig(max_train=300, max_test=100, validation_fraction=0.0))
    assert data.validation_images is None
    assert data.judges[0] is data.test_images


def test_a_folder_is_split_too(tmp_path):
    rng = np.random.default_rng(0)
    for part, count in (("train", 10), ("test", 3)):
        for name in ("cat", "dog"):
            folder = tmp_path / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                image = rng.integers(0, 256, (8, 8, 3), np.uint8)
                (folder / f"{number}.png").write_bytes(tf.io.encode_png(image).numpy())
    data = load(DataConfig(name=str(tmp_path), augment=False, validation_fraction=0.2))
    assert (data.num_train, len(data.validation_labels), len(data.test_labels)) == (16, 4, 6)
    assert np.bincount(data.validation_labels).tolist() == [2, 2]
    trained, judged = _keys(_images(data.train)), _keys(data.validation_images)
    assert len(trained) == 16 and len(judged) == 4
    assert not trained & judged and not judged & _keys(data.test_images)


def _pairs(value, count):
    images = np.full((count, 4, 4, 1), value, np.float32)
    return tf.data.Dataset.from_tensor_slices((images, np.arange(count) % 2)).batch(2)


def test_the_callers_validation_decides_and_their_test_is_quoted():
    data = from_datasets(_pairs(1, 8), _pairs(2, 4), _pairs(3, 6))
    assert len(data.validation_labels) == 4 and len(data.test_labels) == 6
    assert data.judges[0].mean() == 2 and data.test_images.mean() == 3
    quoted_too = from_datasets(_pairs(1, 8), _pairs(2, 4))
    assert quoted_too.validation_images is None
    assert quoted_too.judges[0].mean() == quoted_too.test_images.mean() == 2


@pytest.mark.parametrize(
    ("labels", "per_class"),
    [
        (np.repeat([0, 1], [30, 10]), [6, 2]),
        (np.repeat(["a", "b"], [30, 10]), [6, 2]),
        (np.eye(2)[np.repeat([0, 1], [30, 10])], [6, 2]),
        (np.linspace(0, 1, 40), None),
        (np.arange(40), None),  # a number for each sample is no class
    ],
    ids=["numbers", "names", "one-hot", "values", "identities"],
)
def test_a_part_of_the_callers_training_arrays_decides(labels, per_class):
    inputs = np.arange(40.0).reshape(40, 1, 1, 1)
    kept, apart = set_apart((inputs, labels), 0.2)
    assert len(kept[0]) == len(kept[1]) == 32 and len(apart[0]) == len(apart[1]) == 8
    assert sorted([*kept[0].ravel(), *apart[0].ravel()]) == list(range(40))
    for numbers, own in (kept, apart):  # each sample keeps its label
        assert np.array_equal(own, labels[numbers.ravel().astype(int)])
    if per_class:
        classes = apart[1].argmax(axis=1) if apart[1].ndim == 2 else apart[1]
        assert np.unique(classes, return_counts=True)[1].tolist() == per_class
    again = set_apart((inputs, labels), 0.2)
    assert np.array_equal(again[1][0], apart[0])


@pytest.mark.parametrize(
    ("given", "fraction", "message"),
    [
        (_pairs(1, 40), 0.1, "with .*Dataset; expected both.*Only from arrays"),
        ((np.zeros((40, 4, 4, 1)), np.zeros(40, int)), 0.0, "data.validation_fraction=0; expected"),
        ((np.zeros((3, 4, 4, 1)), np.zeros(3, int)), 0.5, "are 3 images without validation_data"),
    ],
)
def test_what_cannot_be_split_is_refused(given, fraction, message):
    with pytest.raises(DataError, match=message):
        set_apart(given, fraction)


def test_evaluation_looks_at_the_images_that_it_is_told_to():
    # The model's class is the sign of the pixels: right for the test images, never for the others.
    images = keras.Input((4, 4, 1))
    mean = keras.layers.GlobalAveragePooling2D()(images)
    outputs = keras.layers.Concatenate()([-mean, mean])
    model = keras.Model(images, outputs)
    ones = np.ones((4, 4, 4, 1), np.float32)
    validation = tf.data.Dataset.from_tensor_slices((-ones, np.ones(4, int))).batch(2)
    test = tf.data.Dataset.from_tensor_slices((ones, np.ones(4, int))).batch(2)
    data = from_datasets(validation, validation, test, num_classes=2)
    assert evaluate(model, data) == 1.0
    assert evaluate(model, data, part="validation") == 0.0


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 2.0])
def test_a_fraction_that_leaves_nothing_is_refused(fraction):
    with pytest.raises(ConfigError, match=r"data.validation_fraction is .* in \[0, 1\)"):
        DataConfig(validation_fraction=fraction).validate()
