"""The child process, for real: what it builds, refuses, trains and says when it fails."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest

from cprune_tf.baselines.tfmot import description, running
from cprune_tf.baselines.tfmot import sparsifier as sparsifiers
from cprune_tf.baselines.tfmot.errors import TfmotError
from cprune_tf.baselines.tfmot.sparsifier import TWO_OF_FOUR, UNSTRUCTURED, TfmotSparsifier
from cprune_tf.config import ConfigError
from tests.baselines import tfmot_models
from tests.baselines.tfmot_models import CONFIG, needs_tfmot


def no_report(done, planned, text):
    pass


@needs_tfmot
def test_three_quarters_of_the_weights_of_a_resnet_become_zero():
    model = tfmot_models.randomised(tfmot_models.residual())
    before = {layer.name: layer.get_weights() for layer in model.layers}
    sparsify = TfmotSparsifier(CONFIG, UNSTRUCTURED)
    steps = []
    done = sparsify(model, tfmot_models.images(), lambda *step: steps.append(step[:2]))
    assert steps == [(number, 24) for number in range(1, 25)], "3 epochs of 8 batches"
    kernels = sparsifiers.pruned_kernels(model)
    assert len(kernels) == 4
    for kernel in kernels.values():
        assert np.mean(kernel == 0) == pytest.approx(0.75, abs=0.01)
    assert "75.0% of the weights of 4 kernels" in done
    beta = model.get_layer("a b").get_weights()[1]
    assert np.any(beta != before["a b"][1]) and np.all(beta != 0), "trained, but not pruned"


@needs_tfmot
def test_two_of_four_successive_input_channels_of_a_mobilenet_become_zero():
    model = tfmot_models.randomised(tfmot_models.depthwise())
    TfmotSparsifier(CONFIG, TWO_OF_FOUR)(model, tfmot_models.images(), no_report)
    kernels = sparsifiers.pruned_kernels(model)
    checked = 0
    for kernel in kernels.values():
        if kernel.shape[-2] % 4:
            continue
        blocks = np.moveaxis(kernel, -2, -1).reshape(-1, 4)
        assert np.all(np.count_nonzero(blocks, axis=1) <= 2)
        checked += 1
    assert (len(kernels), checked) == (4, 3), "the image has three channels"
    kernel = model.get_layer(index=4).get_weights()[0]
    assert isinstance(model.get_layer(index=4), keras.layers.DepthwiseConv2D)
    assert np.all(kernel != 0)


@needs_tfmot
def test_a_layer_that_computes_something_else_is_refused_by_name(monkeypatch):
    model = tfmot_models.randomised(tfmot_models.depthwise())
    describe = description.describe

    def other(model):
        described = describe(model)
        altered = [
            dataclasses.replace(layer, arguments={**layer.arguments, "negative_slope": 0.1})
            if layer.name == "re_lu_odd"
            else layer
            for layer in described.layers
        ]
        return dataclasses.replace(described, layers=tuple(altered))

    image = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(4, 3)(keras.layers.Rescaling(-1.0)(image))
    x = keras.layers.ReLU(name="re_lu_odd")(x)
    model = keras.Model(image, keras.layers.Dense(4)(keras.layers.Flatten()(x)))
    monkeypatch.setattr(description, "describe", other)
    with pytest.raises(TfmotError, match="layer 're_lu_odd' computes something else"):
        TfmotSparsifier(CONFIG, UNSTRUCTURED).check(model, tfmot_models.images())


@needs_tfmot
def test_a_child_that_fails_leaves_one_error_with_its_last_lines():
    model = tfmot_models.depthwise()
    before = model.get_weights()
    data = tfmot_models.images()
    wrong = dataclasses.replace(
        data, train_dataset=lambda seed: data.train_dataset(seed).map(lambda x, y: (x, y + 9))
    )
    with pytest.raises(TfmotError, match=r"ended with exit status 1\. Its last lines: .*Index"):
        TfmotSparsifier(CONFIG, UNSTRUCTURED)(model, wrong, no_report)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@needs_tfmot
def test_a_child_that_is_killed_is_named_with_its_signal(monkeypatch):
    popen = running.subprocess.Popen

    def start_and_kill(*args, **kwargs):
        process = popen(*args, **kwargs)
        process.kill()
        return process

    monkeypatch.setattr(running.subprocess, "Popen", start_and_kill)
    with pytest.raises(TfmotError, match="was ended by SIGKILL"):
        TfmotSparsifier(CONFIG, UNSTRUCTURED).check(tfmot_models.depthwise(), tfmot_models.images())


def test_without_training_there_is_nothing_that_tfmot_could_do():
    training = dataclasses.replace(
        CONFIG.training,
        short_term=dataclasses.replace(CONFIG.training.short_term, epochs=0),
        long_term=dataclasses.replace(CONFIG.training.long_term, epochs=0),
    )
    config = dataclasses.replace(CONFIG, training=training)
    with pytest.raises(ConfigError, match=r"epochs and long_term\.epochs are 0"):
        TfmotSparsifier(config, UNSTRUCTURED).check(tfmot_models.depthwise(), tfmot_models.images())
