"""CIFAR-10 from ../shared/data beside the repository, for `data.name = "module:function"`."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
import tensorflow as tf

FOLDER = pathlib.Path(__file__).parents[3] / "shared" / "data" / "cifar10"

requires_cifar10 = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="CIFAR-10 is not in ../shared/data"
)


def load() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """10,000 training images (the first batch) and all 10,000 test images, raw."""
    with np.load(FOLDER / "labels.npz") as labels:
        train, test = labels["train"][:10_000], labels["test"]
    return (_decode("data_batch_1"), train), (_decode("test_batch"), test)


def load_all() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """All 50,000 training images and all 10,000 test images, raw."""
    with np.load(FOLDER / "labels.npz") as labels:
        train, test = labels["train"], labels["test"]
    images = np.concatenate([_decode(f"data_batch_{number}") for number in range(1, 6)])
    return (images, train), (_decode("test_batch"), test)


def _decode(name: str) -> np.ndarray:
    content = (FOLDER / f"{name}.webp").read_bytes()
    grid = tf.io.decode_webp(content, channels=3).numpy().reshape(100, 32, 100, 32, 3)
    return grid.transpose(0, 2, 1, 3, 4).reshape(10_000, 32, 32, 3)
