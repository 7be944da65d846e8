"""Data of tasks with several inputs and outputs in all forms that `model.fit` takes."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from cprune_tf.data import DataError, from_samples
from cprune_tf.data.interface import Interface, Port

_COUNT = 12
_INTERFACE = Interface(
    (Port("image", (4, 4, 1), "float32"), Port("few", (2,), "float32")),
    (Port("kind", (3,), "float32"), Port("size", (1,), "float32")),
    (0, 1),
)
# The sample of number i holds i everywhere, so that batches show which samples they hold.
_NUMBERS = np.arange(_COUNT, dtype=np.float32)
_IMAGES = _NUMBERS[:, None, None, None] * np.ones((1, 4, 4, 1), "f")
_FEW = _NUMBERS[:, None] * np.ones((1, 2), "f")
_KINDS, _SIZES = np.arange(_COUNT) % 3, _NUMBERS[:, None] / 10
_BY_NAME = {"kind": _KINDS, "size": _SIZES}


class _Batches(keras.utils.PyDataset):
    """Batches of nested arrays."""

    def __init__(self, inputs, labels, is_endless=False):
        super().__init__()
        self.given, self.is_endless = (inputs, labels), is_endless

    def __len__(self):
        return 3

    @property
    def num_batches(self):
        return None if self.is_endless else 3

    def __getitem__(self, index):
        start = index % 3 * 5
        return keras.tree.map_structure(lambda one: one[start : start + 5], self.given)


def _tf(*parts):
    return tf.data.Dataset.from_tensor_slices(parts)


_GOOD = {
    "arrays": ((_IMAGES, _FEW), _BY_NAME),
    "lists of arrays": ([_IMAGES, _FEW], [_KINDS, _SIZES]),
    "other order": ({"few": _FEW, "image": _IMAGES}, _BY_NAME),
    "more inputs than are used": ({"few": _FEW, "id": _NUMBERS, "image": _IMAGES}, _BY_NAME),
    "weights": ((_IMAGES, _FEW), _BY_NAME, {"kind": _NUMBERS, "size": _NUMBERS}),
    "singles": _tf((_IMAGES, _FEW), _BY_NAME),
    "batches": _tf({"few": _FEW, "image": _IMAGES}, (_KINDS, _SIZES)).batch(5),
    "weighted batches": _tf((_IMAGES, _FEW), _BY_NAME, _NUMBERS).batch(5),
    "unknown length": _tf((_IMAGES, _FEW), _BY_NAME).batch(5).filter(lambda x, y: True),
    "PyDataset": _Batches({"few": _FEW, "image": _IMAGES}, _BY_NAME),
}


@pytest.mark.parametrize("kind", _GOOD)
def test_all_forms_give_the_same_samples(kind):
    given = _GOOD[kind]
    data = from_samples(_INTERFACE, given, given, given, batch_size=5)
    for inputs, labels in (data.judges, (data.test_images, data.test_labels)):
        np.testing.assert_array_equal(inputs[0], _IMAGES)
        np.testing.assert_array_equal(inputs[1], _FEW)
        kinds, sizes = keras.tree.flatten(labels)
        assert kinds.tolist() == _KINDS.tolist() and sizes.tolist() == _SIZES.tolist()
    batches = list(data.train_dataset(3).as_numpy_iterator())
    for (images, few), labels, *weights in batches:
        kinds, sizes = keras.tree.flatten(labels)
        assert (images[:, 0, 0, 0] == few[:, 0]).all() and (few[:, 0] % 3 == kinds).all()
        np.testing.assert_allclose(sizes[:, 0], few[:, 0] / 10, rtol=1e-6)
        for weight in keras.tree.flatten(weights):
            np.testing.assert_array_equal(weight, few[:, 0])
    # Arrays are cut into whole batches.
    is_tf = not isinstance(given, tuple)
    assert sum(len(images) for (images, _), *_ in batches) == (_COUNT if is_tf else 10)


@pytest.mark.parametrize("kind", _GOOD)
def test_max_test_limits_all_forms(kind):
    data = from_samples(_INTERFACE, _GOOD[kind], _GOOD[kind], _GOOD[kind], max_test=7)
    for parts in (data.judges, (data.test_images, data.test_labels)):
        assert {len(array) for array in keras.tree.flatten(parts)} == {7}


@pytest.mark.parametrize(
    "endless",
    [
        _tf((_IMAGES, _FEW), _BY_NAME).batch(5).repeat(),
        _Batches((_IMAGES, _FEW), _BY_NAME, is_endless=True),
    ],
    ids=["tf.data", "PyDataset"],
)
def test_samples_without_an_end_are_refused_or_cut(endless):
    finite = _GOOD["arrays"]
    with pytest.raises(DataError, match=r"training data repeat without end.*steps_per_epoch"):
        from_samples(_INTERFACE, endless, finite)
    with pytest.raises(DataError, match=r"validation data repeat without end.*data\.max_test"):
        from_samples(_INTERFACE, finite, endless)
    data = from_samples(_INTERFACE, endless, finite, steps_per_epoch=4)
    assert [len(list(data.train_dataset(0))) for _ in range(2)] == [4, 4]


def _changed(array, value):
    changed = array.copy()
    changed[7] = value
    return changed


_BAD = {
    "NaN": ((_changed(_IMAGES, np.nan), _FEW), _BY_NAME, "'image' of sample 7 .* NaN"),
    "infinite": ((_IMAGES, _changed(_FEW, np.inf)), _BY_NAME, "'few' of sample 7 .* infinite"),
    "NaN label": (
        (_IMAGES, _FEW),
        {**_BY_NAME, "size": _changed(_SIZES, np.nan)},
        "a label of sample 7 .* NaN",
    ),
    "names": (
        (_IMAGES, _FEW),
        {**_BY_NAME, "kind": np.array(["ant", "cat", "dog"])[_KINDS]},
        "names as labels; expected numbers",
    ),
    "other size": ((_IMAGES[:, :3], _FEW), _BY_NAME, "'image' is 3x4x1; expected 4x4x1"),
}


@pytest.mark.parametrize("as_training", [True, False])
@pytest.mark.parametrize("kind", _BAD)
def test_what_is_wrong_in_a_later_batch_is_named(kind, as_training):
    inputs, labels, message = _BAD[kind]
    bad, good = _tf(inputs, labels).batch(5), _tf((_IMAGES, _FEW), _BY_NAME).batch(5)
    train, validation = (bad, good) if as_training else (good, bad)
    with pytest.raises(DataError, match=message) as error:
        from_samples(_INTERFACE, train, validation)
    assert "\n" not in str(error.value)


def test_validation_data_that_memory_cannot_hold_are_refused_with_a_number_that_it_can(
    monkeypatch,
):
    monkeypatch.setattr("cprune_tf.data.samples._MAX_BYTES", 7 * (16 + 2 + 2 + 1) * 4)
    with pytest.raises(DataError, match=r"Set data\.max_test=(7|6) or lower"):
        from_samples(_INTERFACE, _GOOD["batches"], _GOOD["batches"])
    assert from_samples(_INTERFACE, _GOOD["batches"], _GOOD["batches"], max_test=5).num_test == 5
