"""Which images decide: not those that the original knows by heart."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest

from cprune_tf.config import DataConfig
from cprune_tf.data import load
from cprune_tf.models import load_model, vgg_small
from cprune_tf.training.judging import choose_judges


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> DataConfig:
    """Images of noise with labels by chance: nothing can be learned but by heart."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("noise") / "noise.npz"
    np.savez(
        path,
        x_train=rng.integers(0, 256, (300, 8, 8, 1), dtype=np.uint8),
        y_train=rng.integers(0, 4, 300),
        x_test=rng.integers(0, 256, (200, 8, 8, 1), dtype=np.uint8),
        y_test=rng.integers(0, 4, 200),
    )
    return DataConfig(name=str(path), augment=False, validation_fraction=0.3)


def new_model() -> keras.Model:
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(256, activation="relu"),
            keras.layers.Dense(4, activation="softmax"),
        ]
    )


@pytest.fixture(scope="module")
def memorising(config) -> keras.Model:
    model = new_model()
    model.compile("adam", "sparse_categorical_crossentropy")
    data = load(dataclasses.replace(config, validation_fraction=0.0))
    model.fit(data.train, epochs=60, verbose=0)
    return model


def test_a_model_that_was_trained_on_the_validation_images_is_judged_by_test_images(
    config, memorising
):
    data = load(config)
    judged = choose_judges(memorising, data, config, load)
    assert "probably trained on" in judged.reason and "%" in judged.reason
    assert judged.data.validation_source == "test"
    images, labels = judged.data.judges
    # Nothing is lost: the images set apart are trained on again, the test images are in two parts.
    assert judged.data.num_train == 300
    assert len(labels) + len(judged.data.test_labels) == 200
    together = np.concatenate([images, judged.data.test_images])
    assert len(np.unique(together.reshape(200, -1), axis=0)) == 200
    counts = np.bincount(labels, minlength=4), np.bincount(judged.data.test_labels, minlength=4)
    assert np.abs(counts[0] - counts[1]).max() <= 1


def test_a_model_that_never_saw_them_is_judged_by_them(config):
    data = load(config)
    judged = choose_judges(new_model(), data, config, load)
    assert judged.data is data and judged.reason == ""


def test_the_caller_may_insist(config, memorising):
    by_train = dataclasses.replace(config, validation_source="train")
    data = load(by_train)
    assert choose_judges(memorising, data, by_train, load).data is data
    by_test = dataclasses.replace(config, validation_source="test")
    judged = choose_judges(new_model(), load(by_test), by_test, load)
    assert judged.data.validation_source == "test" and "validation_source" in judged.reason


def test_without_validation_images_the_test_images_decide(config):
    none = dataclasses.replace(config, validation_fraction=0.0)
    data = load(none)
    assert choose_judges(new_model(), data, none, load).data is data


def test_the_embedded_model_was_trained_on_all_embedded_training_images():
    config = DataConfig()
    judged = choose_judges(load_model("resnet8_fashion"), load(config), config, load)
    assert judged.data.validation_source == "test"
    assert choose_judges(vgg_small(), load(config), config, load).reason == ""
