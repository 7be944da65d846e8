"""Data as callers hand them over: tf.data, PyDataset and arrays, of all forms, good and bad."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from cprune_tf.config import DataConfig
from cprune_tf.data import DataError, from_datasets, load

_COUNT = 12
# The image of number i holds i everywhere, so that batches show which images they hold.
_IMAGES = np.arange(_COUNT, dtype=np.float32)[:, None, None, None] * np.ones((1, 4, 4, 1), "f")
_LABELS = np.arange(_COUNT) % 3
_ONE_HOT = np.eye(3, dtype=np.float32)[_LABELS]
_WEIGHTS = np.arange(_COUNT, dtype=np.float32)
_TEXT = np.array(["ant", "cat", "dog"])[_LABELS]


class _Batches(keras.utils.PyDataset):
    """Batches of arrays, as people write them."""

    def __init__(self, *arrays, size=5, bad=None, is_endless=False, **options):
        super().__init__(**options)
        self.arrays, self.size, self.is_endless = arrays, size, is_endless
        self.num_epochs = 0

    def __len__(self):
        return -(-_COUNT // self.size)

    @property
    def num_batches(self):
        return None if self.is_endless else len(self)

    def __getitem__(self, index):
        start = index % len(self) * self.size
        return tuple(array[start : start + self.size] for array in self.arrays)

    def on_epoch_end(self):
        self.num_epochs += 1


def _tf(*arrays):
    return tf.data.Dataset.from_tensor_slices(arrays)


def _dicts(images, labels):
    return tf.data.Dataset.from_tensor_slices({"image": images, "label": labels, "id": labels})


_GOOD = {
    "pairs": _tf(_IMAGES, _LABELS),
    "batches": _tf(_IMAGES, _LABELS).batch(5),
    "columns": _tf(_IMAGES, _LABELS[:, None]).batch(5),
    "uint8": _tf(_IMAGES.astype(np.uint8), _LABELS.astype(np.uint8)),
    "float labels": _tf(_IMAGES, _LABELS.astype(np.float32)),
    "one-hot": _tf(_IMAGES, _ONE_HOT).batch(5),
    "smoothed": _tf(_IMAGES, _ONE_HOT * 0.9 + 0.1 / 3),
    "names": _tf(_IMAGES, _TEXT).batch(5),
    "weights": _tf(_IMAGES, _LABELS, _WEIGHTS).batch(5),
    "dicts": _dicts(_IMAGES, _LABELS),
    "batched dicts": _dicts(_IMAGES, _LABELS).batch(5),
    "named input": _tf({"input_1": _IMAGES}, _LABELS).batch(5),
    "unknown length": _tf(_IMAGES, _LABELS).filter(lambda x, y: True),
    "arrays": (_IMAGES, _LABELS),
    "arrays of names": (_IMAGES, _TEXT),
    "arrays with weights": (_IMAGES.astype(np.float64), _ONE_HOT, _WEIGHTS),
    "PyDataset": _Batches(_IMAGES, _LABELS),
    "PyDataset of names": _Batches(_IMAGES, _TEXT),
    "PyDataset with weights": _Batches(_IMAGES, _ONE_HOT, _WEIGHTS, workers=2),
}


@pytest.mark.parametrize("kind", _GOOD)
def test_all_forms_give_the_same_images_and_labels(kind):
    given = _GOOD[kind]
    data = from_datasets(given, given, given, batch_size=5, num_classes=3, input_shape=(4, 4, 1))
    for images, labels in (data.judges, (data.test_images, data.test_labels)):
        np.testing.assert_array_equal(images, _IMAGES)
        assert labels.tolist() == _LABELS.tolist() and labels.dtype == np.int32
    assert data.class_names == (("ant", "cat", "dog") if "names" in kind else ())
    for _ in range(2):
        batches = list(data.train_dataset(3).as_numpy_iterator())
        images = np.concatenate([images for images, _ in batches])
        labels = np.concatenate([labels for _, labels in batches])
        assert images.dtype == np.float32 and labels.dtype == np.int32
        assert (images[:, 0, 0, 0] % 3 == labels).all()
        # Arrays are cut into whole batches.
        assert len(set(images[:, 0, 0, 0])) == (10 if "arrays" in kind else _COUNT)
    is_weighted = "weights" in kind
    assert any("sample weights" in note for note in data.notes) == is_weighted


@pytest.mark.parametrize("kind", ["one-hot", "smoothed", "weights", "PyDataset with weights"])
def test_a_compiled_model_gets_labels_and_weights_as_they_were_given(kind):
    data = from_datasets(_GOOD[kind], _GOOD[kind], batch_size=5)
    images, labels, *weights = next(iter(data.as_compiled(0)))
    numbers = images[:, 0, 0, 0].numpy().astype(int)
    expected = _ONE_HOT if kind != "weights" else _LABELS
    if kind == "smoothed":
        expected = _ONE_HOT * 0.9 + 0.1 / 3
    np.testing.assert_allclose(labels, expected[numbers], rtol=1e-5)
    if "weights" in kind:
        np.testing.assert_array_equal(weights[0], _WEIGHTS[numbers])


@pytest.mark.parametrize("given", [(_IMAGES, _LABELS), _Batches(_IMAGES, _LABELS, size=2)])
def test_arrays_and_py_datasets_are_shuffled_by_the_seed(given):
    data = from_datasets(given, (_IMAGES, _LABELS), batch_size=2)

    def orders(seed):
        dataset = data.train_dataset(seed)
        return [[int(x[0, 0, 0, 0]) for x, _ in dataset] for _ in range(2)]

    assert orders(1) == orders(1) != orders(2)
    assert orders(1)[0] != orders(1)[1]


def test_a_py_dataset_is_told_when_an_epoch_ends():
    given = _Batches(_IMAGES, _LABELS)
    data = from_datasets(given, (_IMAGES, _LABELS))
    before = given.num_epochs
    for _ in range(2):
        list(data.train)
    assert given.num_epochs == before + 2


_ENDLESS = {
    "tf.data": _tf(_IMAGES, _LABELS).batch(5).repeat(),
    "single pairs": _tf(_IMAGES, _LABELS).repeat(),
    "PyDataset": _Batches(_IMAGES, _LABELS, is_endless=True),
}


@pytest.mark.parametrize("kind", _ENDLESS)
def test_data_without_an_end_are_refused_or_cut(kind):
    endless, finite = _ENDLESS[kind], (_IMAGES, _LABELS)
    with pytest.raises(DataError, match=r"training data repeat without end.*steps_per_epoch"):
        from_datasets(endless, finite)
    data = from_datasets(endless, finite, batch_size=5, steps_per_epoch=4)
    assert [len(list(data.train)) for _ in range(2)] == [4, 4]
    with pytest.raises(DataError, match=r"validation data repeat without end.*data\.max_test"):
        from_datasets(finite, endless)
    with pytest.raises(DataError, match="test data repeat without end"):
        from_datasets(finite, finite, endless)
    assert len(from_datasets(finite, endless, max_test=7).test_labels) == 7


@pytest.mark.parametrize("kind", ["pairs", "batches", "dicts", "arrays", "PyDataset"])
def test_max_test_limits_validation_and_test_images(kind):
    data = from_datasets(_GOOD[kind], _GOOD[kind], _GOOD[kind], batch_size=5, max_test=7)
    assert len(data.validation_labels) == len(data.test_labels) == 7
    assert data.validation_images.shape == data.test_images.shape == (7, 4, 4, 1)


def _changed(array, index, value):
    changed = array.copy()
    changed[index] = value
    return changed


_BAD = {
    "high label": (_IMAGES, _changed(_LABELS, 7, 3), "labels.*expected 0..2.*number 7 .*: 3"),
    "negative label": (_IMAGES, _changed(_LABELS, 7, -1), "number 7 .*: -1"),
    "fraction": (_IMAGES, _changed(_LABELS.astype("f"), 7, 0.5), r"number 7 .* 0\.5; .* whole"),
    "NaN label": (_IMAGES, _changed(_LABELS.astype("f"), 7, np.nan), "number 7 .* nan"),
    "two classes": (_IMAGES, _changed(_ONE_HOT, 7, 1), r"number 7 .* \[1, 1, 1\]; expected one"),
    "no class": (_IMAGES, _changed(_ONE_HOT, 7, 0), "number 7 .* expected one class"),
    "fewer values": (_IMAGES, _ONE_HOT[:, :2], "2 values for each image; expected 3"),
    "other name": (_IMAGES, _changed(_TEXT, 7, "fox"), "'fox'"),
    "NaN pixel": (_changed(_IMAGES, 7, np.nan), _LABELS, "first is number 7"),
    "infinite pixel": (_changed(_IMAGES, 7, np.inf), _LABELS, "first is number 7"),
    "other size": (np.zeros((_COUNT, 5, 4, 1), "f"), _LABELS, "5x4x1; expected 4x4x1"),
}


@pytest.mark.parametrize("as_training", [True, False])
@pytest.mark.parametrize("kind", _BAD)
def test_what_is_wrong_is_named_with_its_number(kind, as_training):
    images, labels, message = _BAD[kind]
    bad = _tf(images, labels).batch(5)
    good = _tf(_IMAGES, _TEXT if labels.dtype.kind == "U" else _LABELS).batch(5)
    train, validation = (bad, good) if as_training else (good, bad)
    names = ("ant", "cat", "dog") if labels.dtype.kind == "U" else ()
    with pytest.raises(DataError, match=message) as error:
        from_datasets(train, validation, num_classes=3, input_shape=(4, 4, 1), class_names=names)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("a folder", "are str; expected a tf.data.Dataset"),
        ((_IMAGES, _LABELS[:3]), "12 images and 3 labels"),
        ((_IMAGES[..., 0], _LABELS), "expected .* height x width x channels"),
        ((_IMAGES[:0], _LABELS[:0]), "are empty"),
        (_Batches(_LABELS, _LABELS), r"give \[\(5,\), \(5,\)\]; expected"),
        (tf.data.Dataset.from_tensor_slices({"x": _IMAGES, "y": _LABELS}), "dicts with 'image'"),
        (_tf((_IMAGES, _IMAGES), _LABELS), "training data give"),
    ],
)
def test_other_things_are_refused(given, message):
    with pytest.raises(DataError, match=message):
        from_datasets(given, (_IMAGES, _LABELS))


def test_the_check_of_the_training_data_tells_its_progress():
    told = []
    given = _tf(_IMAGES, _LABELS).batch(5)
    from_datasets(
        given, given.take(1), num_classes=3, on_progress=lambda *report: told.append(report)
    )
    assert [report[:2] for report in told] == [(1, 3), (2, 3), (3, 3)]
    assert told[-1][2] == "12 training images"


def endless_by_function():
    finite = _tf(_IMAGES, _LABELS).batch(5)
    return finite.repeat(), _Batches(_IMAGES, _LABELS)


def test_a_function_may_give_endless_data_where_the_config_says_their_length():
    name = f"{__name__}:endless_by_function"
    with pytest.raises(DataError, match=r"data\.steps_per_epoch"):
        load(DataConfig(name=name))
    data = load(DataConfig(name=name, steps_per_epoch=6))
    assert len(list(data.train)) == 6
