"""Folders of images as people have them: which folders are splits, and which are classes."""

from __future__ import annotations

import pathlib

import numpy as np
import PIL.Image
import pytest

from cprune_tf.config import DataConfig
from cprune_tf.data import DataError, load
from cprune_tf.data.layout import find_layout, image_paths


def _fill(folder: pathlib.Path, *classes: str, count: int = 4) -> None:
    for level, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = np.full((6, 6, 3), 40 * level + i, np.uint8)
            PIL.Image.fromarray(pixels).save(folder / name / f"{i}.png")


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train", "valid"),
        ("train", "val"),
        ("train", "validation"),
        ("Training", "Test"),
        ("Train", "Testing"),
        ("TRAIN", "TEST"),
        ("training_set", "test_set"),
        ("trainset", "testset"),
        ("train_images", "test_images"),
        ("seg_train", "seg_test"),
    ],
)
def test_two_splits_by_their_usual_names(tmp_path, train, test):
    _fill(tmp_path / train, "cat", "dog")
    _fill(tmp_path / test, "cat", "dog", count=2)
    data = load(DataConfig(name=str(tmp_path), validation_fraction=0.0), num_classes=2)
    assert data.class_names == ("cat", "dog")
    assert data.num_train == 8 and data.test_labels.tolist() == [0, 0, 1, 1]
    assert data.validation_images is None


def test_of_three_splits_validation_decides_and_test_is_quoted(tmp_path):
    for name, count in (("train", 5), ("valid", 3), ("test", 2)):
        _fill(tmp_path / name, "cat", "dog", count=count)
    data = load(DataConfig(name=str(tmp_path)))
    assert (data.num_train, len(data.validation_labels), len(data.test_labels)) == (10, 6, 4)
    assert data.validation_source == "given"
    assert any("valid decide" in note for note in data.notes)
    limited = load(DataConfig(name=str(tmp_path), max_test=3))
    assert len(limited.validation_labels) == len(limited.test_labels) == 3


@pytest.mark.parametrize("wrapping", ["pets", "pets/pets", "pets/images of pets"])
@pytest.mark.parametrize("is_split", [True, False])
def test_wrapping_folders_are_unwrapped(tmp_path, wrapping, is_split):
    inner = tmp_path / wrapping
    if is_split:
        _fill(inner / "train" / "train", "cat", "dog")
        _fill(inner / "test", "cat", "dog")
    else:
        _fill(inner, "cat", "dog")
    (tmp_path / "__MACOSX" / "pets").mkdir(parents=True)
    (tmp_path / "readme.txt").write_text("pets")
    found = find_layout(tmp_path)
    assert found.classes == ("cat", "dog")
    assert (found.test is not None) == is_split


def test_what_systems_leave_behind_is_not_seen(tmp_path):
    _fill(tmp_path, "cat", "dog")
    for folder in (tmp_path, tmp_path / "cat"):
        (folder / ".ipynb_checkpoints").mkdir()
        (folder / ".ipynb_checkpoints" / "0.png").write_bytes(b"old")
        (folder / "__MACOSX").mkdir()
        (folder / "__MACOSX" / "._0.png").write_bytes(b"\0\5\x16\7")
        for name in ("._0.png", ".DS_Store", "Thumbs.db", "labels.csv"):
            (folder / name).write_bytes(b"\0\5\x16\7")
    data = load(DataConfig(name=str(tmp_path), validation_fraction=0.0), num_classes=2)
    assert data.class_names == ("cat", "dog") and data.num_train + len(data.test_labels) == 8
    assert len(image_paths(tmp_path / "cat")) == 4


def test_a_class_may_be_called_train_or_begin_like_a_split(tmp_path):
    names = ("airplane", "test_tube", "train", "training_shoe")
    _fill(tmp_path, *names)
    assert find_layout(tmp_path).classes == names


def test_an_unlabelled_test_folder_is_left_out_with_a_note(tmp_path):
    _fill(tmp_path / "train", "cat", "dog", count=10)
    _fill(tmp_path, "test")
    data = load(DataConfig(name=str(tmp_path), validation_fraction=0.0))
    assert data.class_names == ("cat", "dog")
    assert (data.num_train, len(data.test_labels)) == (16, 4)
    assert any("test is left out" in note and "no labels" in note for note in data.notes)


def _test_among_classes(root):
    _fill(root, "cat", "dog", "test")


def _test_alone(root):
    _fill(root / "Test", "cat")
    _fill(root / "valid", "cat")


def _two_trains(root):
    for name in ("train", "training_set", "test"):
        _fill(root / name, "cat")


def _other_classes(root):
    _fill(root / "train", "cat", "dog", "fox")
    _fill(root / "test", "cat", "Dog", "fox")


def _missing_class(root):
    _fill(root / "train", "cat", "dog", "fox")
    _fill(root / "val", "cat", "dog", "fox")
    _fill(root / "test", "cat")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_test_among_classes, "has 'test', which is no class but a split"),
        (_test_alone, "and no folder with the training images"),
        (_two_trains, "'train', 'training_set', which all look like the train split"),
        (_other_classes, "has 'Dog', which .* has not; .* has 'dog', which .* has not"),
        (_missing_class, "has 'dog', 'fox', which .*test has not"),
    ],
)
def test_unclear_folders_are_refused(tmp_path, make, message):
    make(tmp_path)
    with pytest.raises(DataError, match=message) as error:
        load(DataConfig(name=str(tmp_path)))
    assert "\n" not in str(error.value)
