from __future__ import annotations

import functools
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from cprune_tf.config import DataConfig
from cprune_tf.data import DataError, load

# All training images, none set apart for validation.
WholeConfig = functools.partial(DataConfig, validation_fraction=0.0)

_IMAGENET = pathlib.Path(__file__).parents[3] / "shared" / "data" / "imagenet_sample"


def _write(path: pathlib.Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tf.io.write_file(str(path), tf.io.encode_png(image))


def _write_embedded(root: pathlib.Path, part: str, count: int) -> np.ndarray:
    """Real images of the first three classes as PNG, `count` of each."""
    data = load(WholeConfig())
    written = []
    for label in range(3):
        name = data.class_names[label].replace("/", "_")
        indices = np.flatnonzero(data.test_labels == label)[:count]
        for i in indices:
            image = np.rint(data.test_images[i] * 255).astype(np.uint8)
            _write(root / part / f"{label}_{name}" / f"{i:05d}.png", image)
            written.append(image)
    return np.stack(written)


def test_train_and_test_folders(tmp_path):
    _write_embedded(tmp_path, "train", 8)
    test_images = _write_embedded(tmp_path, "test", 3)
    config = WholeConfig(name=str(tmp_path), batch_size=8, augment=False)
    data = load(config, input_shape=(28, 28, 1), num_classes=3)
    assert data.class_names == ("0_t-shirt_top", "1_trouser", "2_pullover")
    assert data.num_train == 24
    np.testing.assert_allclose(data.test_images, test_images / 255.0, atol=1e-6)
    assert data.test_labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    dataset = data.train_dataset(5)
    epochs = [np.concatenate([x.numpy() for x, _ in dataset]) for _ in range(2)]
    assert epochs[0].shape == (24, 28, 28, 1)
    assert not np.array_equal(*epochs)
    np.testing.assert_allclose(*(np.sort(e.sum((1, 2, 3))) for e in epochs), rtol=1e-5)
    again = np.concatenate([x.numpy() for x, _ in data.train_dataset(5)])
    np.testing.assert_array_equal(epochs[0], again)


def test_a_single_level_is_split_the_same_way_every_time(tmp_path):
    _write_embedded(tmp_path, ".", 10)
    one, two = (load(WholeConfig(name=str(tmp_path)), input_shape=(28, 28, 1)) for _ in range(2))
    assert one.num_train == 24 and np.bincount(one.test_labels).tolist() == [2, 2, 2]
    np.testing.assert_array_equal(one.test_images, two.test_images)


def test_images_are_brought_to_the_size_of_the_model(tmp_path):
    _write_embedded(tmp_path, ".", 4)
    data = load(WholeConfig(name=str(tmp_path)), input_shape=(16, 20, 3), num_classes=3)
    assert data.test_images.shape[1:] == (16, 20, 3)
    assert next(iter(data.train))[0].shape == (9, 16, 20, 3)
    assert load(WholeConfig(name=str(tmp_path))).input_shape == (28, 28, 3)


def _empty_class(root: pathlib.Path) -> None:
    for part in ("train", "test"):
        (root / part / "empty").mkdir()


def _no_test(root: pathlib.Path) -> None:
    (root / "test").rename(root / "other")


def _unknown_test_class(root: pathlib.Path) -> None:
    _write(root / "test" / "unknown" / "a.png", np.zeros((4, 4, 1), np.uint8))


def _damaged(root: pathlib.Path) -> None:
    sorted((root / "train" / "1_trouser").iterdir())[0].write_bytes(b"GIF? no")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_empty_class, "empty has no images"),
        (_no_test, "none for testing"),
        (_unknown_test_class, "has 'unknown', which .* has not"),
        (_damaged, r"1 of 12 image files cannot be read: .*trouser.*\(not a JPEG, PNG"),
    ],
)
def test_damaged_folders_are_refused(tmp_path, damage, message):
    for part in ("train", "test"):
        _write_embedded(tmp_path, part, 2)
    damage(tmp_path)
    with pytest.raises(DataError, match=message):
        load(WholeConfig(name=str(tmp_path)))


def test_other_folders_are_refused(tmp_path):
    with pytest.raises(DataError, match="has no folders"):
        load(WholeConfig(name=str(tmp_path)))
    _write_embedded(tmp_path, ".", 1)
    with pytest.raises(DataError, match="a single image"):
        load(WholeConfig(name=str(tmp_path)))


@pytest.mark.parametrize("outputs", [2, 10])
def test_another_number_of_classes_than_outputs_is_refused(tmp_path, outputs):
    _write_embedded(tmp_path, ".", 2)
    with pytest.raises(DataError, match=f"has 3 classes; expected {outputs}"):
        load(WholeConfig(name=str(tmp_path)), num_classes=outputs)


def test_class_names_give_the_order_and_what_the_folder_lacks(tmp_path):
    _write_embedded(tmp_path, ".", 3)
    names = ("2_pullover", "none", "0_t-shirt_top", "1_trouser")
    data = load(WholeConfig(name=str(tmp_path), class_names=names), num_classes=4)
    assert data.class_names == names and data.num_classes == 4
    assert sorted(set(data.test_labels.tolist())) == [0, 2, 3]
    with pytest.raises(DataError, match=r"'0_t-shirt_top', which data\.class_names lacks"):
        load(WholeConfig(name=str(tmp_path), class_names=names[:2]))
    with pytest.raises(DataError, match=r"data.class_names has 4 classes; expected 3"):
        load(WholeConfig(name=str(tmp_path), class_names=names), num_classes=3)


@pytest.mark.skipif(not _IMAGENET.is_dir(), reason="no ImageNet sample in ../shared/data")
def test_photographs(tmp_path):
    files = sorted((_IMAGENET / "jpeg224_q95").glob("*.jpg"))[:20]
    for i, file in enumerate(files):
        target = tmp_path / f"class{i % 2}" / file.name
        target.parent.mkdir(exist_ok=True)
        target.symlink_to(file)
    data = load(WholeConfig(name=str(tmp_path), mean=(127.5,), std=(127.5,), batch_size=4))
    assert data.input_shape == (224, 224, 3)
    assert len(data.test_labels) == 4
    images, _ = next(iter(data.train))
    assert images.shape == (4, 224, 224, 3)
    assert -1.0 <= float(tf.reduce_min(images)) < -0.5 < 0.5 < float(tf.reduce_max(images)) <= 1.0
