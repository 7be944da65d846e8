from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from cprune_tf.config import DataConfig
from cprune_tf.data import pipeline


def _shifted(image: np.ndarray, down: int, right: int) -> np.ndarray:
    """The image moved by so many pixels, zeros coming in."""
    height, width = image.shape[:2]
    border = max(abs(down), abs(right))
    padded = np.pad(image, [(border, border), (border, border), (0, 0)])
    return padded[border - down :, border - right :][:height, :width]


def test_augment_gives_shifted_and_mirrored_images_and_nothing_else():
    rng = np.random.default_rng(0)
    images = rng.integers(1, 256, (64, 16, 24, 3)).astype(np.uint8)
    augmented = pipeline.augment(images, tf.constant([1, 2], tf.int64)).numpy()
    assert augmented.dtype == np.uint8 and augmented.shape == images.shape
    seen = set()
    for before, after in zip(images, augmented, strict=True):
        matches = [
            (down, right, flip)
            for down in range(-2, 3)
            for right in range(-3, 4)
            for flip in (False, True)
            if np.array_equal(after, _shifted(before[:, ::-1] if flip else before, down, right))
        ]
        assert len(matches) == 1
        seen.add(matches[0])
    assert len(seen) > 30
    assert {flip for _, _, flip in seen} == {False, True}


def test_augment_repeats_with_its_seed():
    images = np.random.default_rng(0).integers(0, 256, (8, 28, 28, 1)).astype(np.uint8)
    first, same, other = (
        pipeline.augment(images, tf.constant(seed, tf.int64)).numpy()
        for seed in ([1, 2], [1, 2], [1, 3])
    )
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    ("mean", "std", "expected"),
    [
        ((0.0,), (255.0,), [0.0, 0.5, 1.0]),
        ((127.5,), (127.5,), [-1.0, 0.0, 1.0]),
        ((0.0, 27.5, 55.0), (1.0, 10.0, 100.0), [0.0, 10.0, 2.0]),
    ],
)
def test_preprocess_is_in_units_of_raw_pixels(mean, std, expected):
    raw = np.array([[[[0.0, 127.5, 255.0]]]], np.float32)
    result = pipeline.preprocess(raw, mean, std)
    assert result.dtype == tf.float32
    np.testing.assert_allclose(result.numpy()[0, 0, 0], expected, rtol=1e-6)


def test_batches_hold_each_image_once_an_epoch_with_its_own_label():
    images = np.arange(50, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 1), np.uint8)
    labels = np.arange(50, dtype=np.int32)
    config = DataConfig(batch_size=8, mean=(0.0,), std=(1.0,), augment=False)
    make = pipeline.array_batches(images, labels, config)
    dataset = make(0)
    orders = []
    for _ in range(2):
        batches = [(x.numpy(), y.numpy()) for x, y in dataset]
        assert [len(y) for _, y in batches] == [8] * 6
        for x, y in batches:
            np.testing.assert_array_equal(x[:, 3, 3, 0], y)
        orders.append(np.concatenate([y for _, y in batches]).tolist())
        assert len(set(orders[-1])) == 48
    assert orders[0] != orders[1]


@pytest.mark.parametrize("size", [(20, 40), (40, 20), (28, 28)])
def test_resize_keeps_the_middle(size):
    image = np.zeros((*size, 3), np.uint8)
    middle = [slice(n // 2 - 5, n // 2 + 5) for n in size]
    image[middle[0], middle[1]] = 200
    result = pipeline.resize(tf.constant(image), (20, 20, 3)).numpy()
    assert result.shape == (20, 20, 3) and result.dtype == np.uint8
    rows, columns = np.nonzero(result[..., 0] > 100)
    assert abs(rows.mean() - 9.5) < 1 and abs(columns.mean() - 9.5) < 1
