"""Data of any task: one or several inputs, labels in whatever form the model's losses take them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from cprune_tf.data import checks, labels, sources
from cprune_tf.data.image_data import DataError
from cprune_tf.data.image_files import FileProgress
from cprune_tf.data.interface import Interface
from cprune_tf.data.sources import Source, as_source

# Validation and test samples are kept in memory: this many bytes of each at most.
_MAX_BYTES = 1 << 30


@dataclasses.dataclass(frozen=True, eq=False)
class SampleData:
    """Labelled samples, ready for a model of any inputs and outputs.

    Where models do not sort one image into classes, this takes the place of `ImageData`; attributes
    of equal names mean the same.

    Attributes:
        name: Where the samples come from.
        interface: What the model takes and gives.
        test_images: One array for each input, in the model's order: [n, ...].
        test_labels: As given, nested as the model's losses and metrics take them: [n, ...].
        num_train: Training samples in an epoch; None where the source does not tell.
        train_dataset: Called with a seed, gives the training batches (inputs, labels) or (inputs,
            labels, sample weights), with inputs nested as the model takes them.
        validation_images: The samples that decide; None if the test samples do.
        validation_labels: Their labels.
        validation_source: "given".
        notes: What the user should know about the data.
    """

    name: str
    interface: Interface
    test_images: tuple[np.ndarray, ...] = dataclasses.field(repr=False)
    test_labels: Any = dataclasses.field(repr=False)
    num_train: int | None
    train_dataset: Callable[[int], tf.data.Dataset] = dataclasses.field(repr=False)
    validation_images: tuple[np.ndarray, ...] | None = dataclasses.field(default=None, repr=False)
    validation_labels: Any = dataclasses.field(default=None, repr=False)
    validation_source: str = "given"
    notes: tuple[str, ...] = ()

    @property
    def judges(self) -> tuple[tuple[np.ndarray, ...], Any]:
        """Inputs and labels that decide: those for validation, or for the test without any."""
        if self.validation_images is None:
            return self.test_images, self.test_labels
        return self.validation_images, self.validation_labels

    @property
    def num_test(self) -> int:
        """Number of test samples."""
        return len(self.test_images[0])

    @property
    def num_validation(self) -> int:
        """Number of validation samples; 0 without any."""
        return 0 if self.validation_images is None else len(self.validation_images[0])

    def as_compiled(self, seed: int) -> tf.data.Dataset:
        """Training batches for a model that the caller compiled."""
        return self.train_dataset(seed)


def from_samples(
    interface: Interface,
    train: Any,
    validation: Any,
    test: Any = None,
    *,
    name: str = "the given data",
    batch_size: int = 64,
    max_test: int = 0,
    steps_per_epoch: int = 0,
    on_progress: FileProgress | None = None,
) -> SampleData:
    """Takes data as they are, already preprocessed, and looks at all of them once.

    Args:
        interface: What the model takes and gives.
        train: A `tf.data.Dataset`, a `keras.utils.PyDataset` or arrays, of (inputs, labels) or
            (inputs, labels, sample weights), as `model.fit` takes them.
        validation: The same, finite: it decides which candidates are accepted.
        test: The same, looked at once, at the end. None: the validation data are quoted too.
        name: What reports call the data.
        batch_size: Samples in a batch, where `train` gives single ones.
        max_test: Use at most this many validation samples, and test samples (0: all).
        steps_per_epoch: Batches in an epoch of training data that repeat without end.
        on_progress: Told how far the check of the training data is.

    Returns:
        The data.

    Raises:
        DataError: If inputs or labels do not fit the model, are not finite, or are missing.
    """
    judges = _collect(as_source(validation, "The validation data", batch_size, 0, interface),
                      interface, max_test)  # fmt: skip
    parts = {"test_images": judges[0], "test_labels": judges[1]}
    if test is not None:
        quoted = _collect(as_source(test, "The test data", batch_size, 0, interface),
                          interface, max_test)  # fmt: skip
        parts = {"test_images": quoted[0], "test_labels": quoted[1]}
        parts |= {"validation_images": judges[0], "validation_labels": judges[1]}
    source = sources.as_training_source(
        train, "The training data", batch_size, steps_per_epoch, interface
    )

    def dataset(seed: int) -> tf.data.Dataset:
        batches = source.dataset(seed)
        return batches.take(steps_per_epoch) if steps_per_epoch else batches

    num_train = None
    if train is not validation:
        batches = _checked(dataset(0).as_numpy_iterator(), source.what, interface)
        sizes = (len(flat[0]) for flat, _ in batches)
        num_train = sources.count_epoch(sizes, source, steps_per_epoch, "samples", on_progress)
    return SampleData(name, interface, num_train=num_train, train_dataset=dataset, **parts)


def _collect(
    source: Source, interface: Interface, limit: int
) -> tuple[tuple[np.ndarray, ...], Any]:
    """Reads a finite source into memory: inputs in the model's order, and labels as they are."""
    sources.require_end(source, limit, "samples")
    inputs: list[list[np.ndarray]] = []
    given: list[Any] = []
    count = 0
    for flat, batch_labels in _checked(source.in_order(), source.what, interface):
        inputs.append(flat)
        given.append(batch_labels)
        count += len(flat[0])
        _check_size(source.what, flat, batch_labels, count)
        if limit and count >= limit:
            break
    if not count:
        raise DataError(f"{source.what} are empty; at least one sample is needed.")
    end = limit or count
    joined = [np.concatenate(arrays)[:end] for arrays in zip(*inputs, strict=True)]
    return tuple(joined), keras.tree.map_structure(lambda *parts: np.concatenate(parts)[:end],
                                                   *given)  # fmt: skip


def _checked(
    batches: Iterator[Any], what: str, interface: Interface
) -> Iterator[tuple[list[np.ndarray], Any]]:
    """Yields inputs in the model's order and labels; raises DataError for wrong ones."""
    first = 0
    for inputs, given, *_ in batches:
        flat = interface.in_order(inputs, what)
        for port, array in zip(interface.inputs, flat, strict=True):
            if tuple(array.shape[1:]) != port.shape:
                raise DataError(
                    f"{what}: the input {port.name!r} is {checks.by(array.shape[1:])}; expected "
                    f"{checks.by(port.shape)}, as the model takes it."
                )
            _check_finite(f"{what}: the input {port.name!r}", array, first)
        for array in keras.tree.flatten(given):
            if labels.is_text(np.asarray(array)):
                raise DataError(
                    f"{what} have names as labels; expected numbers. Only classifiers of one image "
                    "take names, with config.strategy.metric 'top1' or 'top5'."
                )
            if len(array) != len(flat[0]):
                raise DataError(
                    f"{what} have {len(flat[0])} samples and {len(array)} labels in a batch; "
                    "expected as many of both."
                )
            _check_finite(f"{what}: a label", array, first)
        yield flat, given
        first += len(flat[0])


def _check_finite(what: str, array: np.ndarray, first: int) -> None:
    if not np.issubdtype(array.dtype, np.floating) or np.isfinite(array).all():
        return
    wrong = int(np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(axis=1))[0])
    raise DataError(
        f"{what} of sample {first + wrong} (counted from 0) is NaN or infinite; expected finite "
        "values. Remove or repair it."
    )


def _check_size(what: str, flat: list[np.ndarray], given: Any, count: int) -> None:
    arrays = [*flat, *map(np.asarray, keras.tree.flatten(given))]
    size = sum(array.nbytes for array in arrays) / len(flat[0])
    if count * size > _MAX_BYTES:
        raise DataError(
            f"{what} take more than {_MAX_BYTES >> 30} GiB with their labels; expected less, since "
            f"they are kept in memory. Set data.max_test={int(_MAX_BYTES / size)} or lower."
        )
