from __future__ import annotations

import pathlib

import keras
import pytest


def tiny_model() -> keras.Model:
    """Three convolutions, wide enough that removing half of the filters shows in the latency."""
    image = keras.Input((28, 28, 1), name="image")
    x = keras.layers.Conv2D(16, 3, strides=2, padding="same", name="stem")(image)
    x = keras.layers.BatchNormalization(name="stem_bn")(x)
    x = keras.layers.ReLU(name="stem_relu")(x)
    x = keras.layers.Conv2D(64, 3, padding="same", activation="relu", name="wide")(x)
    x = keras.layers.Conv2D(32, 3, strides=2, padding="same", activation="relu", name="last")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    outputs = keras.layers.Dense(10, activation="softmax", name="classifier")(x)
    return keras.Model(image, outputs, name="tiny")


@pytest.fixture(scope="session")
def tiny_model_path(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The tiny model, trained for a moment so that gates have something to judge."""
    from cprune_tf import data, training
    from cprune_tf.config import DataConfig, FitConfig

    keras.utils.set_random_seed(0)
    model = tiny_model()
    images = data.load(DataConfig(max_train=2000, max_test=200, augment=False))
    training.fit(model, images, FitConfig(epochs=3, learning_rate=0.1), seed=0)
    # The moving statistics of so few batches are a matter of luck.
    training.recalibrate_batch_norm(model, images)
    path = tmp_path_factory.mktemp("model") / "tiny.keras"
    model.save(path)
    return path
