"""Weights stored in half the bits: smaller libraries that compute nearly the same."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tvm

from cprune_tf.compiler.building.weight_storage import check_weight_storage
from cprune_tf.compiler.session import CompilerSession
from cprune_tf.config import ConfigError, PruneConfig
from cprune_tf.devices import ModelFile

from .. import workloads


def _model():
    """All kinds of weights; two convolutions share a task, one can be computed with Winograd."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((8, 8, 64), name="x")
    x = layers.Conv2D(64, 1, activation="relu", name="pointwise1")(x)
    x = layers.Conv2D(64, 1, activation="relu", name="pointwise2")(x)
    x = layers.DepthwiseConv2D(3, padding="same", activation="relu", name="depthwise")(x)
    x = layers.Conv2D(64, 3, padding="same", activation="relu", name="winograd_or_not")(x)
    x = layers.Conv2D(64, 3, strides=2, padding="same", activation="relu", name="strided")(x)
    return keras.Model(inputs, layers.Dense(32, name="dense")(layers.Flatten()(x)))


@pytest.fixture(scope="module")
def model():
    return _model()


@pytest.fixture(scope="module")
def built(model, device, tmp_path_factory):
    """The libraries by type, from one database."""
    root = tmp_path_factory.mktemp("weights")
    config = dataclasses.replace(workloads.FEW_TRIALS, trials_per_round=4)
    paths = {}
    for weights in ("float32", "float16", "bfloat16"):
        paths[weights] = root / f"{weights}.so"
        with CompilerSession(
            device, root / "tuning", config, num_threads=1, seed=0, weights=weights
        ) as session:
            lowered = session.lower(model)
            session.tune(lowered, 4)
            session.build(lowered, paths[weights])
    return paths


@pytest.mark.parametrize(("weights", "error"), [("float16", 4e-3), ("bfloat16", 3e-2)])
def test_it_computes_nearly_the_same_from_half_the_bytes(built, model, device, weights, error):
    x = np.random.default_rng(0).normal(size=(3, 8, 8, 64)).astype(np.float32)
    expected = model(x).numpy()
    scale = np.abs(expected).max()
    exact = device.run_model(ModelFile("exact", "tvm", built["float32"]), x)[0]
    rounded = device.run_model(ModelFile("rounded", "tvm", built[weights]), x)[0]
    assert np.abs(exact - expected).max() < 1e-5 * scale
    assert 0 < np.abs(rounded - exact).max() < error * scale
    # Whichever lowering of the one convolution was faster: what surely is direct became smaller.
    halved = sum(
        model.get_layer(name).kernel.shape.num_elements() * 2
        for name in ("pointwise1", "pointwise2", "strided", "dense")
    )
    saved = built["float32"].stat().st_size - built[weights].stat().st_size
    assert saved > 0.9 * halved


def test_what_a_processor_cannot_read_is_refused_before_anything_is_tuned():
    old = tvm.target.Target({"kind": "llvm", "mcpu": "x86-64-v2"})
    check_weight_storage(old, "float32")
    check_weight_storage(old, "bfloat16")
    with pytest.raises(ConfigError, match=r"'float16', which x86-64-v2 cannot.*f16c.*'bfloat16'"):
        check_weight_storage(old, "float16")
    board = {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a53"}
    check_weight_storage(tvm.target.Target({**board, "mattr": ["+neon"]}), "float16")
    gpu = tvm.target.Target({"kind": "cuda", "arch": "sm_75"})
    with pytest.raises(ConfigError, match="for a GPU"):
        check_weight_storage(gpu, "bfloat16")


def test_other_types_are_refused():
    with pytest.raises(ConfigError, match=r"config\.weights is 'int8'.*float16, bfloat16"):
        PruneConfig(weights="int8").validate()
