"""Data sets of tensorflow-datasets, which is an optional package."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import tensorflow as tf

from cprune_tf.config import DataConfig
from cprune_tf.data import checks, pipeline
from cprune_tf.data.image_data import DataError, ImageData

_TEST_SPLITS = ("test", "validation")
# Decoded images that are kept for shuffling.
_SHUFFLE_BYTES = 128 << 20


def read_tfds(
    name: str,
    config: DataConfig,
    *,
    input_shape: tuple[int, int, int] | None,
    num_classes: int | None,
) -> ImageData:
    """Streams a data set of tensorflow-datasets; the first use downloads it.

    Args:
        name: As tensorflow-datasets knows it, e.g. "imagenette/160px-v2".
        config: Preprocessing, batch size, augmentation, limits.
        input_shape: Images are cropped in the middle and resized to it. None: as the images are,
            which must then be of one size.
        num_classes: Outputs of the model; None: as the data set says.

    Raises:
        DataError: When the package is missing, or the data set is no image classification set.
    """
    try:
        tfds = importlib.import_module("tensorflow_datasets")
    except ImportError as error:
        raise DataError(
            f"data.name is 'tfds:{name}', but tensorflow-datasets is not installed; "
            "run `pip install tensorflow-datasets`."
        ) from error
    try:
        builder = tfds.builder(name)
    except Exception as error:  # its own hierarchy differs between versions
        reason = str(error).strip().splitlines()[0][:200]
        raise DataError(f"tensorflow-datasets cannot give {name!r}: {reason}") from error
    shape, classes = _features(builder, name, input_shape)
    if num_classes is not None and classes != num_classes:
        raise DataError(
            f"tfds:{name} has {classes} classes; expected {num_classes}, the model's outputs."
        )
    builder.download_and_prepare()
    splits = [split for split in _TEST_SPLITS if split in builder.info.splits]
    if "train" not in builder.info.splits or not splits:
        raise DataError(
            f"tfds:{name} has the splits {', '.join(builder.info.splits)}; expected 'train' and "
            f"one of {', '.join(_TEST_SPLITS)}."
        )
    checks.check_channels(config, shape[-1])
    num_train = builder.info.splits["train"].num_examples
    num_train = min(num_train, config.max_train or num_train)
    num_validation = int(num_train * config.validation_fraction)
    num_train -= num_validation
    num_test = builder.info.splits[splits[0]].num_examples
    num_test = min(num_test, config.max_test or num_test)
    checks.check_test_size(f"tfds:{name}", num_test + num_validation, shape)
    images, labels = _arrays(builder, splits[0], num_test, shape, config)
    validation_images = validation_labels = None
    if num_validation:
        # A stream's classes are not known, so the end of it is taken: sets are shuffled when they
        # are made.
        part = f"train[{num_train}:{num_train + num_validation}]"
        validation_images, validation_labels = _arrays(builder, part, num_validation, shape, config)
    return ImageData(
        name=f"tfds:{name}",
        input_shape=shape,
        num_classes=classes,
        class_names=tuple(builder.info.features["label"].names),
        test_images=images,
        test_labels=labels,
        num_train=num_train,
        train_dataset=pipeline.stream_batches(
            lambda seed: _train_stream(builder, shape, num_train, seed),
            num_train,
            config,
        ),
        validation_images=validation_images,
        validation_labels=validation_labels,
    )


def _features(
    builder: Any, name: str, input_shape: tuple[int, int, int] | None
) -> tuple[tuple[int, int, int], int]:
    """The shape of the images as they will be, and the number of classes."""
    features = builder.info.features
    if "image" not in features or "label" not in features:
        raise DataError(
            f"tfds:{name} has the features {', '.join(features)}; expected 'image' and 'label'."
        )
    shape = input_shape or tuple(features["image"].shape)
    if None in shape:
        raise DataError(
            f"tfds:{name} has images of different sizes ({checks.by(shape)}); expected a model "
            "whose input tells to which size to bring them."
        )
    channels = features["image"].shape[-1]
    if channels != shape[-1]:
        raise DataError(
            f"tfds:{name} has images of {channels} channels; expected {shape[-1]}, as the model's."
        )
    return (shape[0], shape[1], shape[2]), int(features["label"].num_classes)


def _train_stream(
    builder: Any, shape: tuple[int, int, int], count: int, seed: int
) -> tf.data.Dataset:
    dataset = builder.as_dataset(split="train", as_supervised=True, shuffle_files=False)
    dataset = dataset.take(count).map(
        lambda image, label: (pipeline.resize(image, shape), label),
        num_parallel_calls=tf.data.AUTOTUNE,
    )
    # tf.data's own shuffling: a stream cannot be indexed. So its order, unlike that of the other
    # sources, also depends on a global seed that the program may set.
    buffer = max(1, min(count, _SHUFFLE_BYTES // int(np.prod(shape))))
    return dataset.shuffle(buffer, seed=seed)


def _arrays(
    builder: Any, split: str, count: int, shape: tuple[int, int, int], config: DataConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Reads the first images of a split into memory, preprocessed, with their labels."""
    images = np.empty((count, *shape), np.float32)
    labels = np.empty(count, np.int32)
    dataset = builder.as_dataset(split=split, as_supervised=True, shuffle_files=False)
    for i, (image, label) in enumerate(dataset.take(count)):
        images[i] = pipeline.preprocess(pipeline.resize(image, shape), config.mean, config.std)
        labels[i] = label
    return images, labels
