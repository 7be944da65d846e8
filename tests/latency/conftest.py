from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import pytest

from cprune_tf.config import TuningConfig

# One round and no evolution: a few seconds for each task.
FEW_TRIALS = TuningConfig(
    trials_per_task=4,
    trials_per_round=4,
    population_size=16,
    programs_per_task=2,
    build_timeout_sec=120.0,
    run_timeout_sec=60.0,
    num_build_workers=2,
)


def small_net():
    """A stem, a separable block, a residual block of two convolutions, and a classifier."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(3)
    image = keras.Input((8, 8, 4), name="image")
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="stem")(image)
    x = layers.DepthwiseConv2D(3, padding="same", activation="relu", name="depthwise")(x)
    x = y = layers.Conv2D(16, 1, activation="relu", name="pointwise")(x)
    y = layers.Conv2D(16, 3, padding="same", activation="relu", name="inner")(y)
    y = layers.Conv2D(16, 3, padding="same", name="outer")(y)
    x = layers.ReLU(name="relu")(layers.Add(name="add")([x, y]))
    x = layers.Flatten(name="flatten")(layers.MaxPooling2D(4, name="pool")(x))
    return keras.Model(image, layers.Dense(4, name="classifier")(x))


@pytest.fixture(scope="session")
def workdir(tmp_path_factory):
    return tmp_path_factory.mktemp("latency")


@pytest.fixture(scope="session")
def opened(workdir):
    """The small net, tuned a little on this machine."""
    from cprune_tf.latency.workspace import open_model

    with open_model(small_net(), "local", workdir, FEW_TRIALS, seed=1) as result:
        result.tune(FEW_TRIALS.trials_per_task)
        yield result


@pytest.fixture(scope="session")
def lab(opened):
    with opened.lab() as result:
        yield result
