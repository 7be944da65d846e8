"""Images in folders, one folder a class; decoded while training, never all at once."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np
import tensorflow as tf

from cprune_tf.config import DataConfig
from cprune_tf.data import checks, pipeline
from cprune_tf.data.image_data import DataError, ImageData
from cprune_tf.data.splitting import SPLIT_SEED, stratified_split

_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")
_TEST_NAMES = ("test", "val", "validation")
# Without a test folder, one image in so many of each class is a test image.
_TEST_ONE_IN = 5


@dataclasses.dataclass(frozen=True, eq=False)
class _Files:
    paths: np.ndarray
    labels: np.ndarray

    def first(self, limit: int) -> _Files:
        return _Files(checks.first_items(self.paths, limit), checks.first_items(self.labels, limit))


def read_folder(
    root: pathlib.Path,
    config: DataConfig,
    *,
    input_shape: tuple[int, int, int] | None,
    num_classes: int | None,
) -> ImageData:
    """Reads `root/train/CLASS/*` and `root/test/CLASS/*`, or splits `root/CLASS/*`.

    Classes are numbered in the order of their names. A split is the same in every run.

    Args:
        root: The folder.
        config: Preprocessing, batch size, augmentation, limits.
        input_shape: Images are cropped in the middle and resized to it. None: to the size of the
            first image, in colour.
        num_classes: Outputs of the model; None: the number of class folders.

    Raises:
        DataError: For a folder without classes, a class without images, or unreadable ones.
    """
    names, train, test = _find(root)
    if num_classes is not None and len(names) > num_classes:
        raise DataError(
            f"{root} has {len(names)} classes; expected {num_classes}, the model's outputs."
        )
    train, test = train.first(config.max_train), test.first(config.max_test)
    _check_first_of_each_class(train)
    train, validation = _split(train, config.validation_fraction)
    shape = input_shape or (*_decode(pathlib.Path(train.paths[0]), 3).shape[:2], 3)
    checks.check_channels(config, shape[-1])
    checks.check_test_size(str(root), len(test.labels) + len(validation.labels), shape)
    return ImageData(
        name=str(root),
        input_shape=shape,
        num_classes=num_classes or len(names),
        class_names=tuple(names) if num_classes in (None, len(names)) else (),
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
    )


def _read(files: _Files, shape: tuple[int, int, int], config: DataConfig) -> np.ndarray:
    """Reads images into memory, preprocessed: float32 [n, height, width, channels]."""
    images = np.empty((len(files.labels), *shape), np.float32)
    for i, path in enumerate(files.paths):
        image = pipeline.resize(_decode(pathlib.Path(path), shape[-1]), shape)
        images[i] = pipeline.preprocess(image, config.mean, config.std)
    return images


def _stream(files: _Files, shape: tuple[int, int, int], seed: int) -> tf.data.Dataset:
    """Single decoded (image, label) pairs in another order at each pass."""

    def decode(path: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        image = tf.io.decode_image(
            tf.io.read_file(path), channels=shape[-1], expand_animations=False
        )
        return pipeline.resize(image, shape), label

    paths, labels = tf.constant(files.paths.tolist()), tf.constant(files.labels)
    return pipeline.epoch_plan(len(files.labels), 1, seed).map(
        lambda index, _: decode(paths[index[0]], labels[index[0]]),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )


def _find(root: pathlib.Path) -> tuple[list[str], _Files, _Files]:
    if not (root / "train").is_dir():
        names = _classes(root)
        return names, *_split_off_test(_list(root, names))
    names = _classes(root / "train")
    tests = [root / name for name in _TEST_NAMES if (root / name).is_dir()]
    if not tests:
        raise DataError(
            f"{root} has a folder 'train' but none for testing; expected one of "
            f"{', '.join(_TEST_NAMES)} beside it, with the same classes."
        )
    unknown = sorted(set(_classes(tests[0])) - set(names))
    if unknown:
        raise DataError(
            f"{tests[0]} has the class {unknown[0]!r}, which {root / 'train'} has not; expected "
            "the same class folders in both."
        )
    present = [name for name in names if (tests[0] / name).is_dir()]
    return names, _list(root / "train", names), _list(tests[0], present, names)


def _classes(folder: pathlib.Path) -> list[str]:
    try:
        names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    except OSError as error:
        raise DataError(
            f"The folder {folder} cannot be read: {error.strerror}; check its permissions."
        ) from error
    names = [name for name in names if not name.startswith(".")]
    if not names:
        raise DataError(f"{folder} has no folders; expected one for each class, with its images.")
    return names


def _list(folder: pathlib.Path, names: list[str], all_names: list[str] | None = None) -> _Files:
    """The image files of the classes `names`, numbered by their place in `all_names`."""
    paths: list[str] = []
    labels: list[int] = []
    for name in names:
        files = sorted(p for p in (folder / name).rglob("*") if p.suffix.lower() in _SUFFIXES)
        if not files:
            raise DataError(
                f"{folder / name} has no images; expected files ending in {', '.join(_SUFFIXES)}. "
                "Remove the folder if there is no such class."
            )
        paths += [str(path) for path in files]
        labels += [(all_names or names).index(name)] * len(files)
    return _Files(np.array(paths), np.array(labels, np.int32))


def _split(files: _Files, fraction: float) -> tuple[_Files, _Files]:
    """Sets a part of each class apart."""
    kept, apart = stratified_split(files.labels, fraction, SPLIT_SEED)
    parts = [_Files(files.paths[part], files.labels[part]) for part in (kept, apart)]
    return parts[0], parts[1]


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


def _check_first_of_each_class(files: _Files) -> None:
    """All would take too long; this finds files that are no images before training starts."""
    for index in np.unique(files.labels, return_index=True)[1]:
        _decode(pathlib.Path(files.paths[index]), 3)


def _decode(path: pathlib.Path, channels: int) -> tf.Tensor:
    try:
        return tf.io.decode_image(path.read_bytes(), channels=channels, expand_animations=False)
    except (tf.errors.InvalidArgumentError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else error.message.splitlines()[0]
        reason = str(reason)[:200]
        raise DataError(
            f"{path} is not a readable image ({reason}). Remove or repair it."
        ) from error
