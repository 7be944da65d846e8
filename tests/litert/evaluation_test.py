"""Files are judged as Keras models are, in batches where a file allows them."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from cprune_tf import litert
from cprune_tf.litert import ConversionError, evaluation

IMAGES = np.random.default_rng(0).normal(size=(70, 4, 4, 2)).astype(np.float32)
LABELS = np.arange(70) % 6


def file_of(*layers):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4, 4, 2)), *layers])
    return model, litert.convert(model)


@pytest.fixture(scope="module")
def classifier():
    return file_of(keras.layers.Flatten(), keras.layers.Dense(6))


def test_a_batch_gives_what_single_images_give(classifier):
    model, content = classifier
    found = evaluation.outputs_of_file(content, IMAGES)[0]
    np.testing.assert_allclose(found, np.asarray(model(IMAGES)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_a_file_that_takes_pixels_gets_the_nearest(policy):
    keras.utils.set_random_seed(0)
    image = keras.Input((4, 4, 2), dtype="uint8")
    x = keras.layers.Rescaling(0.5)(image)
    dense = keras.layers.Dense(6, dtype=policy)
    model = keras.Model(image, dense(keras.layers.Flatten(dtype="float32")(x)))
    content = litert.convert(model)
    pixels = np.random.default_rng(0).integers(1, 5, (5, 4, 4, 2))
    (found,) = evaluation.outputs_of_file(content, pixels.astype(np.float32) - 0.4)
    np.testing.assert_allclose(found, np.asarray(model(pixels)), rtol=1e-2, atol=1e-2)


def test_a_file_for_one_image_alone_is_run_one_by_one():
    # The shape in the file holds the batch of 1: in a batch, it would mix the images.
    _, content = file_of(
        keras.layers.Lambda(lambda x: keras.ops.reshape(x, (1, 32)) * 2.0, output_shape=(32,))
    )
    found = evaluation.outputs_of_file(content, IMAGES[:5])[0]
    np.testing.assert_allclose(found, 2 * IMAGES[:5].reshape(5, 32), rtol=1e-6)


def test_accuracy_counts_the_highest_outputs(classifier):
    model, content = classifier
    order = np.argsort(-np.asarray(model(IMAGES)), axis=-1)
    assert litert.evaluate(content, IMAGES, order[:, 0]) == 1.0
    assert litert.evaluate(content, IMAGES, order[:, 4]) == 0.0
    assert litert.evaluate(content, IMAGES, order[:, 4], "top5") == 1.0
    assert litert.evaluate(content, IMAGES, order[:, 5], "top5") == 0.0


@pytest.mark.parametrize(
    ("images", "labels", "metric", "reason"),
    [
        (IMAGES, LABELS[:3], "top1", "70 images and 3 labels do not match"),
        (IMAGES[:0], LABELS[:0], "top1", "at least one image"),
        (IMAGES, LABELS, "top3", "metric is 'top3'; expected top1 or top5"),
        (IMAGES[:, :3], LABELS, "top1", r"file takes inputs of shape \[\(4, 4, 2\)\]"),
        (IMAGES * np.nan, LABELS, "top1", "NaN or infinite outputs"),
    ],
)
def test_what_cannot_be_judged_is_told(classifier, images, labels, metric, reason):
    with pytest.raises(ConversionError, match=reason):
        litert.evaluate(classifier[1], images, labels, metric)


def test_a_file_that_is_none_is_told():
    with pytest.raises(ConversionError, match="LiteRT cannot run the file"):
        litert.evaluate(b"TFL3 no file", IMAGES, LABELS)
