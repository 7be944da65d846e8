"""The configuration of the data."""

from __future__ import annotations

import dataclasses

from cprune_tf.config.checks import require


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where images come from and how they become the model's input: (pixels - mean) / std.

    Attributes:
        name: The data set: "fashion_mnist_subset" (embedded), "keras:cifar10" (keras.datasets),
            "tfds:NAME", a path to an `.npz`, a path to an image folder, or "module:function", which
            is what other tasks than classifying one image need; see docs/tasks.md.
        batch_size: Number of images in a training batch.
        mean: Value subtracted from the raw pixels (0..255); one value, or one for each channel.
        std: Divisor of the difference; one value, or one for each channel.
        augment: Whether training images are randomly shifted and flipped horizontally.
        max_train: Maximum number of training images; 0: all.
        max_test: Maximum number of test images; 0: all.
        validation_fraction: The part of the training images (0..1) that is set apart to decide
            which candidates are accepted, the same share of every class. The test images are then
            looked at once, at the end. 0: the test images decide too, as in the CPrune paper.
        validation_source: Where the deciding images come from. "train": from the training images.
            "test": half of the test images, for a model that was trained on all training images:
            it knows them by heart, which no candidate can match. "auto": the first, unless the
            original is clearly better on them than on the test images.
        class_names: The names of all classes in the order of the model's outputs, for folders and
            for labels that are names; the data may lack some of them. Empty: the names that the
            data have, sorted.
        skip_unreadable: Whether image files that cannot be read are left out. False: they are
            listed, and the run ends before any work.
        steps_per_epoch: Batches in an epoch of the caller's own `tf.data` or PyDataset; needed if
            it repeats without end. 0: it is read to its end.
    """

    name: str = "fashion_mnist_subset"
    batch_size: int = 64
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (255.0,)
    augment: bool = True
    max_train: int = 0
    max_test: int = 0
    validation_fraction: float = 0.1
    validation_source: str = "auto"
    class_names: tuple[str, ...] = ()
    skip_unreadable: bool = False
    steps_per_epoch: int = 0

    def validate(self) -> None:
        """Raises ConfigError if a field is invalid."""
        require(bool(self.name), "data.name", self.name, "a data set's name or path")
        require(self.batch_size > 0, "data.batch_size", self.batch_size, "a positive number")
        require(all(s > 0 for s in self.std), "data.std", self.std, "positive numbers")
        require(self.max_train >= 0, "data.max_train", self.max_train, "0 (all) or more")
        fraction = self.validation_fraction
        require(0 <= fraction < 1, "data.validation_fraction", fraction, "a number in [0, 1)")
        sources = ("auto", "train", "test")
        source = self.validation_source
        require(source in sources, "data.validation_source", source, "one of " + ", ".join(sources))
        require(self.max_test >= 0, "data.max_test", self.max_test, "0 (all) or more")
        names = self.class_names
        require(len(set(names)) == len(names), "data.class_names", names, "different names")
        steps = self.steps_per_epoch
        require(steps >= 0, "data.steps_per_epoch", steps, "0 (all) or more")
