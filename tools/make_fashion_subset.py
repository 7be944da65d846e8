"""Makes the embedded Fashion-MNIST subset: 12,000 training and 2,000 test images, stratified.

    python tools/make_fashion_subset.py --source=fashion_mnist_70k_by_class.npz

The source holds all 70,000 images (`x`: [70000, 28, 28] uint8, `y`: [70000]) grouped by class, with
the official training and test images merged: which image belonged to which is not recorded there.
So the split made here is our own, and accuracies on it are not comparable with published ones.
The same source and seed give the same file, byte for byte.
"""

from __future__ import annotations

import pathlib

import numpy as np
from absl import app, flags

_SOURCE = flags.DEFINE_string("source", None, "The .npz with all images (keys x, y).")
_OUTPUT = flags.DEFINE_string(
    "output", "cprune_tf/data/fashion_mnist/fashion_mnist_subset.npz", "The file to write."
)
_NUM_TRAIN = flags.DEFINE_integer("num_train", 12_000, "Training images, over all classes.")
_NUM_TEST = flags.DEFINE_integer("num_test", 2_000, "Test images, over all classes.")
_SEED = flags.DEFINE_integer("seed", 0, "Of the choice of images.")


def choose(
    labels: np.ndarray, num_train: int, num_test: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Chooses disjoint training and test images, equally many of each class, in random order.

    Args:
        labels: [n] integers.
        num_train: A multiple of the number of classes.
        num_test: A multiple of the number of classes.
        seed: Of the choice and the order.

    Returns:
        The indices of the training images and of the test images.

    Raises:
        ValueError: When a class has too few images or the counts cannot be divided equally.
    """
    classes = np.unique(labels)
    if num_train % len(classes) or num_test % len(classes):
        raise ValueError(
            f"num_train={num_train} and num_test={num_test} must be multiples of the "
            f"{len(classes)} classes."
        )
    train_each, test_each = num_train // len(classes), num_test // len(classes)
    rng = np.random.default_rng(seed)
    train, test = [], []
    for label in classes:
        members = rng.permutation(np.flatnonzero(labels == label))
        if len(members) < train_each + test_each:
            raise ValueError(
                f"class {label} has {len(members)} images; {train_each + test_each} are needed."
            )
        train.append(members[:train_each])
        test.append(members[train_each : train_each + test_each])
    return rng.permutation(np.concatenate(train)), rng.permutation(np.concatenate(test))


def main(argv: list[str]) -> None:
    """Reads the source, chooses and writes."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    with np.load(_SOURCE.value) as source:
        images, labels = source["x"], source["y"].astype(np.uint8)
    train, test = choose(labels, _NUM_TRAIN.value, _NUM_TEST.value, _SEED.value)
    output = pathlib.Path(_OUTPUT.value)
    np.savez_compressed(
        output,
        x_train=images[train],
        y_train=labels[train],
        x_test=images[test],
        y_test=labels[test],
    )
    print(f"{output}: {len(train)} + {len(test)} images, {output.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    flags.mark_flag_as_required("source")
    app.run(main)
