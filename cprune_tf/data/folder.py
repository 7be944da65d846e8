"""Images in folders, one folder a class; decoded while training, never all at once."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tensorflow as tf

from cprune_tf.config import DataConfig
from cprune_tf.data import checks, image_files, layout, pipeline
from cprune_tf.data.image_data import DataError, ImageData
from cprune_tf.data.image_files import FileChecks
from cprune_tf.data.splitting import SPLIT_SEED, stratified_split

# Without a test folder, one image in so many of each class is a test image.
_TEST_ONE_IN = 5


@dataclasses.dataclass(frozen=True, eq=False)
class _Files:
    paths: np.ndarray
    labels: np.ndarray

    def first(self, limit: int) -> _Files:
        return _Files(checks.first_items(self.paths, limit), checks.first_items(self.labels, limit))

    def where(self, chosen: np.ndarray) -> _Files:
        return _Files(self.paths[chosen], self.labels[chosen])


@dataclasses.dataclass(frozen=True, eq=False)
class _Parts:
    """The files of each part, and what the user should know about them."""

    train: _Files
    validation: _Files
    test: _Files
    validation_source: str
    notes: tuple[str, ...]


def read_folder(
    root: pathlib.Path,
    config: DataConfig,
    *,
    input_shape: tuple[int, int, int] | None,
    num_classes: int | None,
    files: FileChecks | None = None,
) -> ImageData:
    """Reads `root/train/CLASS/*` and `root/test/CLASS/*`, or splits `root/CLASS/*`.

    The folders may have other usual names, and be wrapped; see `layout.find_layout`. If there are
    three splits, the validation images decide. Classes are numbered in the order of their names,
    or of config.class_names. A split is the same in every run.

    Args:
        root: The folder.
        config: Preprocessing, batch size, augmentation, limits, class names.
        input_shape: Images are cropped in the middle and resized to it. None: to the size of the
            first image, in colour.
        num_classes: Outputs of the model; None: the number of class folders.
        files: Checks the files; None: a new one.

    Raises:
        DataError: For a folder without classes, a class without images, other classes than the
            model's, or files that cannot be read (unless config.skip_unreadable).
    """
    channels = 3 if input_shape is None else input_shape[-1]
    image_files.check_channels(str(root), channels)
    found = layout.find_layout(root)
    names = checks.ordered_classes(str(root), found.classes, config.class_names, num_classes)
    checked = files or FileChecks()
    parts = _parts(root, found, names, config, lambda paths: checked.unreadable(paths, channels))
    train, validation, test = parts.train, parts.validation, parts.test
    first_shape = image_files.read(str(train.paths[0]), channels).shape
    shape = input_shape or (int(first_shape[0]), int(first_shape[1]), channels)
    checks.check_channels(config, shape[-1])
    checks.check_test_size(str(root), len(test.labels) + len(validation.labels), shape)
    return ImageData(
        name=str(root),
        input_shape=shape,
        num_classes=len(names),
        class_names=names,
        test_images=_read(test, shape, config),
        test_labels=test.labels,
        num_train=len(train.labels),
        train_dataset=pipeline.stream_batches(
            lambda seed: _stream(train, shape, seed),
            len(train.labels),
            config,
        ),
        validation_images=_read(validation, shape, config) if len(validation.labels) else None,
        validation_labels=validation.labels if len(validation.labels) else None,
        validation_source=parts.validation_source,
        notes=parts.notes,
    )


def _parts(
    root: pathlib.Path,
    found: layout.Layout,
    names: Sequence[str],
    config: DataConfig,
    unreadable: Callable[[list[str]], dict[str, str]],
) -> _Parts:
    """Lists, checks and splits the files, as the folder and the config say."""
    files = {"train": _list(found.train, found.classes, names)}
    notes = list(found.notes)
    if found.test is None:
        files["train"], files["test"] = _split_off_test(files["train"])
    else:
        files["test"] = _list(found.test, found.classes, names)
    if found.validation is not None:
        files["validation"] = _list(found.validation, found.classes, names)
        notes.append(f"The images in {found.validation} decide; those in {found.test} are quoted.")
    for part, whole in files.items():
        files[part] = whole.first(config.max_train if part == "train" else config.max_test)
    paths = [path for part in files.values() for path in part.paths.tolist()]
    reasons = unreadable(paths)
    if reasons:
        listed = image_files.list_unreadable(str(root), reasons, len(paths))
        files = {part: _without(whole, reasons, listed, config) for part, whole in files.items()}
        notes.append(f"{listed}; they are skipped.")
    if found.validation is None:
        files["train"], files["validation"] = _split(files["train"], config.validation_fraction)
    source = "train" if found.validation is None else "given"
    return _Parts(**files, validation_source=source, notes=tuple(notes))


def _without(files: _Files, reasons: Mapping[str, str], listed: str, config: DataConfig) -> _Files:
    """Leaves out the files that cannot be read, or raises DataError that names all of them."""
    if not config.skip_unreadable:
        raise DataError(
            f"{listed}. Remove or repair them, or leave them out with "
            "config.data.skip_unreadable=True."
        )
    kept = files.where(np.array([path not in reasons for path in files.paths.tolist()], bool))
    lost = set(files.labels.tolist()) - set(kept.labels.tolist())
    if lost:
        folder = os.path.dirname(files.paths[files.labels == min(lost)][0])
        raise DataError(f"{listed}; so {folder} has no readable images. Repair some of them.")
    return kept


def _read(files: _Files, shape: tuple[int, int, int], config: DataConfig) -> np.ndarray:
    """Reads images into memory, preprocessed: float32 [n, height, width, channels]."""
    images = np.empty((len(files.labels), *shape), np.float32)
    for i, path in enumerate(files.paths):
        image = pipeline.resize(image_files.read(str(path), shape[-1]), shape)
        images[i] = pipeline.preprocess(image, config.mean, config.std)
    return images


def _stream(files: _Files, shape: tuple[int, int, int], seed: int) -> tf.data.Dataset:
    """Single decoded (image, label) pairs in another order at each pass."""

    def decode(path: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        image = image_files.decode(tf.io.read_file(path), shape[-1])
        return pipeline.resize(image, shape), label

    paths, labels = tf.constant(files.paths.tolist()), tf.constant(files.labels)
    return pipeline.epoch_plan(len(files.labels), 1, seed).map(
        lambda index, _: decode(paths[index[0]], labels[index[0]]),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )


def _list(folder: pathlib.Path, classes: Sequence[str], names: Sequence[str]) -> _Files:
    """The image files of `classes`, numbered by their place in `names`."""
    paths: list[str] = []
    labels: list[int] = []
    for name in classes:
        files = layout.image_paths(folder / name)
        if not files:
            raise DataError(
                f"{folder / name} has no images; expected files ending in .jpg, .png or another "
                "image format. Remove the folder if there is no such class."
            )
        paths += files
        labels += [names.index(name)] * len(files)
    return _Files(np.array(paths), np.array(labels, np.int32))


def _split(files: _Files, fraction: float) -> tuple[_Files, _Files]:
    """Sets a part of each class apart."""
    kept, apart = stratified_split(files.labels, fraction, SPLIT_SEED)
    return files.where(kept), files.where(apart)


def _split_off_test(files: _Files) -> tuple[_Files, _Files]:
    """Sets the test images of an undivided folder apart."""
    labels, counts = np.unique(files.labels, return_counts=True)
    if (counts < 2).any():
        first = np.flatnonzero(files.labels == labels[np.argmin(counts)])[0]
        raise DataError(
            f"{pathlib.Path(files.paths[first]).parent} has a single image; expected two or more, "
            "to train and to test with."
        )
    return _split(files, 1 / _TEST_ONE_IN)
