"""Where images come from."""

from __future__ import annotations

import dataclasses

from cprune_tf.config.checks import require


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where images come from and how they become the model's input.

    Attributes:
        name: "fashion_mnist_subset" (embedded), "keras:cifar10" (keras.datasets), "tfds:NAME",
            a path to an `.npz`, a path to an image folder, or "module:function".
        batch_size: Images in a training batch.
        mean: Subtracted from the raw 0..255 pixels, one value or one per channel.
        std: What the difference is divided by, one value or one per channel.
        augment: Random shift and horizontal flip while training.
        max_train: Use at most this many training images (0: all).
        max_test: Use at most this many test images (0: all).
    """

    name: str = "fashion_mnist_subset"
    batch_size: int = 64
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (255.0,)
    augment: bool = True
    max_train: int = 0
    max_test: int = 0

    def validate(self) -> None:
        """Raises ConfigError where a field cannot work."""
        require(bool(self.name), "data.name", self.name, "a data set's name or path")
        require(self.batch_size > 0, "data.batch_size", self.batch_size, "a positive number")
        require(all(s > 0 for s in self.std), "data.std", self.std, "positive numbers")
        require(self.max_train >= 0, "data.max_train", self.max_train, "0 (all) or more")
        require(self.max_test >= 0, "data.max_test", self.max_test, "0 (all) or more")
