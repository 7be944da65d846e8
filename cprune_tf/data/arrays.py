"""Data sets that fit in memory: embedded, keras.datasets, .npz; checked and turned to ImageData."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.resources
import pathlib
import zipfile
from collections.abc import Mapping

import numpy as np

from cprune_tf.config import DataConfig
from cprune_tf.data import checks, labels, pipeline
from cprune_tf.data.image_data import DataError, ImageData
from cprune_tf.data.splitting import SPLIT_SEED, stratified_split

EMBEDDED = "fashion_mnist_subset"

_NPZ_KEYS = ("x_train", "y_train", "x_test", "y_test")
_FASHION_CLASSES = (
    "t-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
_KERAS_CLASSES: Mapping[str, tuple[str, ...]] = {
    "fashion_mnist": _FASHION_CLASSES,
    "cifar10": (
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ),
}


@dataclasses.dataclass(frozen=True, eq=False)
class RawArrays:
    """Images in memory as their source holds them.

    Attributes:
        name: Where they come from.
        train_images: [n, height, width] or [n, height, width, channels], 0..255.
        train_labels: [n] or [n, 1] whole numbers or names, or [n, classes], one-hot or smoothed.
        test_images: Like train_images.
        test_labels: Like train_labels.
        class_names: One for each class, or empty.
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    class_names: tuple[str, ...] = ()


def read_embedded() -> RawArrays:
    """The Fashion-MNIST subset that comes with the package."""
    folder = importlib.resources.files("cprune_tf.data") / "fashion_mnist"
    with importlib.resources.as_file(folder / f"{EMBEDDED}.npz") as path:
        return dataclasses.replace(read_npz(path), name=EMBEDDED, class_names=_FASHION_CLASSES)


def read_keras(name: str) -> RawArrays:
    """A data set of `keras.datasets`, downloaded by Keras unless it has it already.

    Args:
        name: "cifar10", "cifar100", "mnist" or "fashion_mnist".

    Raises:
        DataError: For another name, or when the download fails.
    """
    known_names = ("cifar10", "cifar100", "fashion_mnist", "mnist")
    if name not in known_names:
        raise DataError(
            f"keras.datasets has no image set {name!r}; expected one of {', '.join(known_names)}."
        )
    module = importlib.import_module(f"keras.datasets.{name}")
    try:
        (x_train, y_train), (x_test, y_test) = module.load_data()
    except Exception as error:  # keras raises a bare Exception when a download fails
        raise DataError(
            f"keras.datasets.{name} could not be loaded ({error}). Without a network, put its "
            f"arrays into an .npz ({', '.join(_NPZ_KEYS)}) and give that path as data.name."
        ) from error
    classes = _KERAS_CLASSES.get(name, ())
    return RawArrays(f"keras:{name}", x_train, y_train, x_test, y_test, classes)


def read_npz(path: pathlib.Path) -> RawArrays:
    """Images from an .npz with x_train, y_train, x_test, y_test.

    Raises:
        DataError: When the file cannot be read or lacks an array.
    """
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path} is not a readable .npz file; expected one made by numpy.savez.")
    try:
        with np.load(path) as file:
            missing = [key for key in _NPZ_KEYS if key not in file.files]
            if missing:
                raise DataError(
                    f"{path} has the arrays {', '.join(file.files)}; expected "
                    f"{', '.join(_NPZ_KEYS)} ({', '.join(missing)} missing)."
                )
            arrays = [file[key] for key in _NPZ_KEYS]
    except (OSError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is not a readable .npz file ({error}).") from error
    except ValueError as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{path} cannot be read without unpickling ({error}); expected numeric arrays only."
        ) from error
    return RawArrays(str(path), *arrays)


def to_image_data(
    raw: RawArrays,
    config: DataConfig,
    *,
    input_shape: tuple[int, int, int] | None,
    num_classes: int | None,
) -> ImageData:
    """Checks raw arrays and prepares them as `config` says.

    Args:
        raw: The images and labels.
        config: Preprocessing, batch size, augmentation, limits.
        input_shape: What the model takes; None: whatever the images are.
        num_classes: What the model gives; None: as many as there are labels.

    Raises:
        DataError: When the arrays are no labelled images, or not those the model takes.
    """
    train_images = _images(raw.train_images, f"{raw.name}: training images", config.max_train)
    test_images = _images(raw.test_images, f"{raw.name}: test images", config.max_test)
    names = _class_names(raw, config, num_classes)
    shape = train_images.shape[1:]
    checks.check_shape(raw.name, shape, input_shape)
    checks.check_shape(f"{raw.name}: test images", test_images.shape[1:], shape)
    checks.check_channels(config, shape[-1])
    if num_classes is None:
        num_classes = len(names) or _count_classes(raw)
    train_labels, test_labels = _class_numbers(raw, names, num_classes)
    note = checks.pixel_range_note(f"{raw.name}: pixels", train_images, config)
    train_labels = checks.first_items(train_labels, config.max_train)
    test_labels = checks.first_items(test_labels, config.max_test)
    kept, apart = stratified_split(train_labels, config.validation_fraction, SPLIT_SEED)
    validation_images = validation_labels = None
    if len(apart):
        validation_labels = train_labels[apart]
        validation_images = pipeline.preprocess(
            train_images[apart], config.mean, config.std
        ).numpy()
        train_images, train_labels = train_images[kept], train_labels[kept]
    batches = pipeline.array_batches(train_images, train_labels, config)
    return ImageData(
        name=raw.name,
        input_shape=shape,
        num_classes=num_classes,
        class_names=names if len(names) == num_classes else (),
        test_images=pipeline.preprocess(test_images, config.mean, config.std).numpy(),
        test_labels=test_labels,
        num_train=len(train_images),
        train_dataset=batches,
        train_indices=pipeline.array_indices(len(train_images), config),
        validation_images=validation_images,
        validation_labels=validation_labels,
        notes=(note,) if note else (),
    )


def _images(array: np.ndarray, what: str, limit: int) -> np.ndarray:
    numeric = np.issubdtype(array.dtype, np.number) and not np.iscomplexobj(array)
    if not numeric or array.ndim not in (3, 4):
        raise DataError(
            f"{what} are {array.dtype} of shape {checks.by(array.shape)}; expected numbers of "
            "n x height x width (x channels)."
        )
    if not len(array):
        raise DataError(f"{what}: there are none; at least one is needed.")
    checks.check_finite(what, array)  # all of them, so that it names the number in the source
    array = checks.first_items(array, limit)
    return array if array.ndim == 4 else array[..., np.newaxis]


def _class_names(raw: RawArrays, config: DataConfig, num_classes: int | None) -> tuple[str, ...]:
    """The names of the classes; empty where nothing tells."""
    found = [part for part in (raw.train_labels, raw.test_labels) if labels.is_text(part)]
    if len(found) == 1:
        raise DataError(
            f"{raw.name}: of the training and the test labels, one are names and the other "
            "numbers; expected the same of both."
        )
    if found:
        names = sorted({name for part in found for name in labels.names_in(part)})
        return checks.ordered_classes(raw.name, names, config.class_names, num_classes)
    if config.class_names:
        return checks.ordered_classes(raw.name, config.class_names, config.class_names, num_classes)
    return raw.class_names


def _count_classes(raw: RawArrays) -> int:
    """The number of classes where no model tells."""
    given = raw.train_labels
    if given.ndim == 2 and given.shape[1] > 1:
        return int(given.shape[1])
    classes = labels.as_classes(given, f"{raw.name}: training labels")
    return checks.count_classes(raw.name, classes)


def _class_numbers(
    raw: RawArrays, names: tuple[str, ...], num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """The classes of the training and the test images, int32."""
    results = []
    for images, given, part in (
        (raw.train_images, raw.train_labels, "training"),
        (raw.test_images, raw.test_labels, "test"),
    ):
        what = f"{raw.name}: {part} labels"
        if given.ndim not in (1, 2) or len(given) != len(images):
            raise DataError(
                f"{what} have the shape {checks.by(given.shape)}; expected {len(images)}, one for "
                "each image."
            )
        results.append(labels.class_numbers(given, what, names, num_classes))
    return results[0], results[1]
