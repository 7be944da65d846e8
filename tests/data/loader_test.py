from __future__ import annotations

import functools
import gzip
import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from cprune_tf.config import ConfigError, DataConfig
from cprune_tf.data import DataError, ImageData, from_datasets, load

from . import cifar10_webp

# All training images, none set apart for validation.
WholeConfig = functools.partial(DataConfig, validation_fraction=0.0)

_SMALL = WholeConfig(max_train=300, max_test=100)


@pytest.fixture(scope="module")
def embedded() -> ImageData:
    return load(WholeConfig())


def _first_batches(data: ImageData, seed: int, epochs: int = 2) -> list[np.ndarray]:
    dataset = data.train_dataset(seed)
    return [next(iter(dataset))[0].numpy() for _ in range(epochs)]


def test_embedded_set_is_stratified_and_preprocessed(embedded):
    assert embedded.input_shape == (28, 28, 1)
    assert embedded.num_classes == len(embedded.class_names) == 10
    assert embedded.num_train == 12_000
    assert embedded.test_images.shape == (2000, 28, 28, 1)
    assert embedded.test_images.dtype == np.float32
    assert embedded.test_images.min() == 0.0
    assert embedded.test_images.max() == pytest.approx(1.0)
    assert np.bincount(embedded.test_labels).tolist() == [200] * 10
    labels = np.concatenate([y.numpy() for _, y in load(WholeConfig(batch_size=1000)).train])
    assert np.bincount(labels).tolist() == [1200] * 10


def test_test_dataset_is_the_arrays_in_order(embedded):
    batches = [(x.numpy(), y.numpy()) for x, y in embedded.test]
    np.testing.assert_array_equal(np.concatenate([x for x, _ in batches]), embedded.test_images)
    np.testing.assert_array_equal(np.concatenate([y for _, y in batches]), embedded.test_labels)


def test_training_batches_are_decided_by_the_seed(embedded):
    results = []
    for seed in (3, 3, 4):
        tf.random.set_seed(len(results))  # what the program does beside must not count
        results.append(_first_batches(embedded, seed))
    first, again, other = results
    assert first[0].shape == (64, 28, 28, 1)
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(first[0], other[0])


def test_limits_choose_from_all_classes_and_always_the_same_images():
    one, two = load(_SMALL), load(_SMALL)
    assert one.num_train == 300 and len(one.test_labels) == 100
    assert len(np.unique(one.test_labels)) == 10
    np.testing.assert_array_equal(one.test_images, two.test_images)


def _arrays(**changes: np.ndarray) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    arrays = {
        "x_train": rng.integers(0, 256, (60, 12, 12, 3)).astype(np.uint8),
        "y_train": np.arange(60) % 3,
        "x_test": rng.integers(0, 256, (30, 12, 12, 3)).astype(np.uint8),
        "y_test": np.arange(30) % 3,
    }
    return {key: value for key, value in {**arrays, **changes}.items() if value is not None}


def test_npz_gives_its_images(tmp_path):
    arrays = _arrays()
    np.savez(tmp_path / "a.npz", **arrays)
    config = WholeConfig(name=str(tmp_path / "a.npz"), mean=(1.0, 2.0, 3.0), std=(2.0,))
    data = load(config, input_shape=(12, 12, 3), num_classes=3)
    expected = (arrays["x_test"] - np.array([1.0, 2.0, 3.0])) / 2.0
    np.testing.assert_allclose(data.test_images, expected, rtol=1e-6)
    np.testing.assert_array_equal(data.test_labels, arrays["y_test"])
    assert next(iter(data.train))[0].shape == (60, 12, 12, 3)


_BAD_ARRAYS = {
    "missing array": ({"y_test": None}, "y_test missing"),
    "flat images": ({"x_train": np.zeros((60, 144))}, "height x width"),
    "text labels": ({"y_train": np.array(["a"] * 60)}, "one are names and the other numbers"),
    "regression": ({"y_train": np.arange(60) / 60}, r"labels: number 1 .* 0\.0166667; .* whole"),
    "complex labels": ({"y_train": np.zeros(60, complex)}, "expected integers"),
    "wide labels": ({"y_train": np.eye(4)[np.arange(60) % 3]}, "4 values .*; expected 3"),
    "two classes": ({"y_test": np.ones((30, 3))}, r"number 0 .* \[1, 1, 1\]; expected one class"),
    "label count": ({"y_train": np.zeros(59, np.int64)}, "expected 60, one for each"),
    "negative label": ({"y_test": np.arange(30) - 1}, "are -1..28; expected 0..2.*number 0 .*: -1"),
    "high label": ({"y_train": np.arange(60) % 4}, "are 0..3; expected 0..2.*number 3 .*: 3"),
    "no images": ({"x_test": np.zeros((0, 12, 12, 3)), "y_test": np.zeros(0, int)}, "are none"),
    "nan": ({"x_train": np.full((60, 12, 12, 3), np.nan)}, "60 of 60 images hold NaN"),
    "infinite": ({"x_test": np.full((30, 12, 12, 3), np.inf)}, "NaN or infinite"),
    "other test shape": ({"x_test": np.zeros((30, 12, 11, 3))}, "12x11x3; expected 12x12x3"),
    "objects": ({"x_train": np.array([{}, []], object)}, "numeric arrays only"),
}


@pytest.mark.parametrize("case", _BAD_ARRAYS)
def test_bad_arrays_are_refused_with_the_reason(tmp_path, case):
    changes, message = _BAD_ARRAYS[case]
    np.savez(tmp_path / "bad.npz", **_arrays(**changes))
    with pytest.raises(DataError, match=message) as error:
        load(WholeConfig(name=str(tmp_path / "bad.npz")), num_classes=3)
    assert "\n" not in str(error.value)


_NAMES = np.array(["dog", "ant", "cat"])


@pytest.mark.parametrize(
    ("form", "names"),
    [
        (lambda labels: labels.astype(np.float64), ()),
        (lambda labels: labels[:, None].astype(np.uint8), ()),
        (lambda labels: np.eye(3)[labels], ()),
        (lambda labels: np.eye(3)[labels] * 0.9 + 0.1 / 3, ()),
        (lambda labels: _NAMES[labels], ("dog", "ant", "cat")),
    ],
)
def test_labels_of_all_forms_mean_the_same(tmp_path, form, names):
    labels = {key: form(np.arange(count) % 3) for key, count in (("y_train", 60), ("y_test", 30))}
    np.savez(tmp_path / "a.npz", **_arrays(**labels))
    config = WholeConfig(name=str(tmp_path / "a.npz"), class_names=names)
    data = load(config, num_classes=3)
    assert data.test_labels.tolist() == (np.arange(30) % 3).tolist()
    assert data.class_names == names and data.test_labels.dtype == np.int32


def test_without_class_names_names_are_numbered_in_their_order(tmp_path):
    labels = {"y_train": _NAMES[np.arange(60) % 3], "y_test": _NAMES[np.arange(30) % 3]}
    np.savez(tmp_path / "a.npz", **_arrays(**labels))
    data = load(WholeConfig(name=str(tmp_path / "a.npz")))
    assert data.class_names == ("ant", "cat", "dog")
    assert data.test_labels[:3].tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    ("std", "is_noted"), [((255.0,), True), ((58.0, 57.0, 57.0), True), ((1.0,), False)]
)
def test_pixels_that_are_scaled_already_are_noticed(tmp_path, std, is_noted):
    arrays = _arrays()
    scaled = {key: arrays[key] / np.float32(255) for key in ("x_train", "x_test")}
    np.savez(tmp_path / "a.npz", **{**arrays, **scaled})
    data = load(WholeConfig(name=str(tmp_path / "a.npz"), std=std))
    assert any("0..1, but data.mean and data.std" in note for note in data.notes) == is_noted
    np.savez(tmp_path / "b.npz", **arrays)
    assert not load(WholeConfig(name=str(tmp_path / "b.npz"), std=std)).notes


def test_labels_with_gaps_are_refused_without_a_model(tmp_path):
    labels = {"y_train": np.arange(60) % 3 + 1, "y_test": np.arange(30) % 3 + 1}
    np.savez(tmp_path / "a.npz", **_arrays(**labels))
    with pytest.raises(DataError, match="the first is 0"):
        load(WholeConfig(name=str(tmp_path / "a.npz")))
    assert load(WholeConfig(name=str(tmp_path / "a.npz")), num_classes=4).num_classes == 4


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_set", "does not exist; expected 'fashion_mnist_subset'"),
        ("no/such/file.npz", "does not exist"),
        ("keras:imagenet", "expected one of cifar10"),
        ("no_such_module:load", "cannot be imported"),
        ("math:no_such_function", "has no such function"),
        ("time:time", "gives float; expected ImageData"),
    ],
)
def test_unknown_names_are_refused(name, message):
    with pytest.raises(DataError, match=message):
        load(WholeConfig(name=name))


def test_a_file_that_is_no_npz_is_refused(tmp_path):
    path = tmp_path / "a.npz"
    path.write_bytes(b"not an archive")
    with pytest.raises(DataError, match="not a readable"):
        load(WholeConfig(name=str(path)))
    text = tmp_path / "a.txt"
    text.write_text("x")
    with pytest.raises(DataError, match=r"is not an \.npz file"):
        load(WholeConfig(name=str(text)))


def test_images_must_fit_the_model():
    with pytest.raises(DataError, match="28x28x1; expected 32x32x3"):
        load(_SMALL, input_shape=(32, 32, 3))
    with pytest.raises(DataError, match=r"expected 0\.\.4 for 5 classes"):
        load(_SMALL, num_classes=5)
    with pytest.raises(DataError, match="mean has 3 values; expected 1"):
        load(WholeConfig(mean=(1.0, 2.0, 3.0)))
    with pytest.raises(ConfigError, match="batch_size"):
        load(WholeConfig(batch_size=0))


@pytest.mark.skipif(
    importlib.util.find_spec("tensorflow_datasets") is not None, reason="it is installed"
)
def test_missing_tensorflow_datasets_names_the_package():
    with pytest.raises(DataError, match="pip install tensorflow-datasets"):
        load(WholeConfig(name="tfds:cifar10"))


def test_keras_datasets_are_read(tmp_path, embedded):
    """keras.datasets itself reads files in the cache; its variable counts at import only."""
    folder = tmp_path / "datasets" / "fashion-mnist"
    folder.mkdir(parents=True)
    raw = np.rint(embedded.test_images * 255).astype(np.uint8)
    labels = embedded.test_labels.astype(np.uint8)
    for part in ("train", "t10k"):
        for kind, header, content in (("images-idx3", 16, raw), ("labels-idx1", 8, labels)):
            with gzip.open(folder / f"{part}-{kind}-ubyte.gz", "wb") as file:
                file.write(b"\0" * header + content.tobytes())
    script = (
        "from cprune_tf.config import DataConfig; from cprune_tf.data import load\n"
        "name = 'keras:fashion_mnist'\n"
        "config = DataConfig(name=name, validation_fraction=0.0)\n"
        "data = load(config, input_shape=(28, 28, 1))\n"
        "print(data.num_train, data.test_images.sum(), data.class_names[9])"
    )
    environment = {**os.environ, "KERAS_HOME": str(tmp_path), "PYTHONPATH": ":".join(sys.path)}
    output = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    count, total, name = output.stdout.split(maxsplit=2)
    assert int(count) == 2000 and name.strip() == "ankle boot"
    assert float(total) == pytest.approx(embedded.test_images.sum(), rel=1e-4)


def as_image_data() -> ImageData:
    return load(_SMALL)


def as_datasets() -> tuple[tf.data.Dataset, tf.data.Dataset]:
    data = load(_SMALL)
    return data.train, data.test


def as_arrays() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    arrays = _arrays()
    return (arrays["x_train"], arrays["y_train"]), (arrays["x_test"], arrays["y_test"])


@pytest.mark.parametrize(
    ("function", "shape", "num_classes", "num_test"),
    [
        ("as_image_data", (28, 28, 1), 10, 100),
        ("as_datasets", (28, 28, 1), 10, 100),
        ("as_arrays", (12, 12, 3), 3, 30),
    ],
)
def test_a_function_may_give_the_data(function, shape, num_classes, num_test):
    config = WholeConfig(name=f"{__name__}:{function}", max_test=num_test)
    data = load(config, input_shape=shape, num_classes=num_classes)
    assert (data.input_shape, data.num_classes) == (shape, num_classes)
    assert len(data.test_labels) == num_test
    images, labels = next(iter(data.train))
    assert images.shape[1:] == shape and images.dtype == tf.float32 and labels.dtype == tf.int32
    with pytest.raises(DataError, match="expected 9x9x9"):
        load(config, input_shape=(9, 9, 9))
    with pytest.raises(DataError, match=r"classes|outputs"):
        load(config, num_classes=2)


def test_datasets_may_be_single_pairs_and_one_hot():
    images = np.random.default_rng(0).random((20, 8, 8, 1))
    labels = np.arange(20) % 4
    single = tf.data.Dataset.from_tensor_slices((images, tf.one_hot(labels, 4)))
    data = from_datasets(single, single, batch_size=6)
    assert data.num_classes == 4
    np.testing.assert_array_equal(data.test_labels, labels)
    np.testing.assert_allclose(data.test_images, images, rtol=1e-6)
    assert [len(y) for _, y in data.train] == [6, 6, 6, 2]


def test_datasets_of_something_else_are_refused():
    images = tf.data.Dataset.from_tensor_slices(np.zeros((4, 8, 8, 1), np.float32))
    pairs = tf.data.Dataset.zip(images, tf.data.Dataset.range(4))
    with pytest.raises(DataError, match="training data give"):
        from_datasets(images, pairs)
    with pytest.raises(DataError, match="validation data are empty"):
        from_datasets(pairs, pairs.take(0))
    with pytest.raises(DataError, match="training data are empty"):
        from_datasets(pairs.take(0), pairs)
    broken = pairs.map(lambda image, label: (image * float("nan"), label))
    with pytest.raises(DataError, match="training images: 4 of 4"):
        from_datasets(broken, pairs)


@cifar10_webp.requires_cifar10
def test_cifar10_through_a_function():
    name = f"{cifar10_webp.__name__}:load"
    data = load(WholeConfig(name=name, max_test=500), input_shape=(32, 32, 3), num_classes=10)
    assert data.num_train == 10_000
    assert data.test_images.shape == (500, 32, 32, 3)
    assert 0.4 < data.test_images.mean() < 0.55
