"""Training for int8: rounding as the file rounds, gradients through it, and what comes of it."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from cprune_tf import litert
from cprune_tf.config import (
    ConfigError,
    FitConfig,
    PruneConfig,
    QuantizationConfig,
    TrainingConfig,
)
from cprune_tf.data.representative import representative_images
from cprune_tf.litert import evaluation
from cprune_tf.litert.imitation import read_rounding
from cprune_tf.training.aware import train_aware
from cprune_tf.training.hooks import Trainer
from cprune_tf.training.rounded import RoundedForward, rounded_weights
from cprune_tf.training.trainer import fit
from cprune_tf.training.twin import training_twin

IMAGES = np.random.default_rng(0).normal(size=(24, 8, 8, 3)).astype(np.float32)


def branched():
    """Batch norms, a depthwise layer, a residual sum, a concatenation and poolings."""
    layers = keras.layers
    keras.utils.set_random_seed(1)
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, padding="same", use_bias=False, name="stem")(inputs)
    x = start = layers.ReLU(6.0)(layers.BatchNormalization()(x))
    x = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="depthwise")(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.BatchNormalization()(layers.Conv2D(8, 1, use_bias=False, name="project")(x))
    x = layers.MaxPooling2D(2)(layers.ReLU()(layers.Add()([x, start])))
    x = layers.Concatenate()([x, layers.Conv2D(4, 3, padding="same", activation="relu")(x)])
    model = keras.Model(inputs, layers.Dense(6)(layers.GlobalAveragePooling2D()(x)))
    random = np.random.default_rng(3)
    for weight in model.weights:
        if weight.name in ("gamma", "moving_variance"):
            weight.assign(random.uniform(0.5, 1.5, weight.shape))
        elif weight.name in ("beta", "moving_mean"):
            weight.assign(random.normal(0, 0.3, weight.shape))
    return model


@pytest.fixture(scope="module")
def quantized():
    return litert.quantize(branched(), IMAGES)


def test_outputs_are_those_of_the_int8_file(quantized):
    rounding = read_rounding(quantized)
    forward = RoundedForward(training_twin(quantized.graph.model), rounding)
    imitated = forward(tf.constant(IMAGES), training=False).numpy()
    int8 = evaluation.outputs_of_file(quantized.content, IMAGES)[0]
    exact = quantized.graph.model(IMAGES).numpy()
    low, high = rounding.ranges[rounding.outputs[len(rounding.calls) - 1]]
    steps, missed = (np.abs(one - int8) * 255 / (high - low) for one in (imitated, exact))
    assert steps.max() < 2.5 and steps.mean() < 0.3 * missed.mean()


def test_a_layer_that_stays_float_is_not_rounded():
    model = branched()
    kept = read_rounding(litert.quantize(model, IMAGES, keep_float=["stem", "depthwise"]))
    kept_calls = [kept.calls.index(name) for name in ("stem", "depthwise")]
    assert not set(kept_calls) & set(kept.weights)
    assert kept.calls.index("project") in kept.weights and not kept.inputs


def test_what_only_moves_values_shares_their_range(quantized):
    rounding = read_rounding(quantized)
    kinds = [type(call.operation) for call in quantized.graph.calls]
    pooled, joined = (
        rounding.outputs[kinds.index(kind)]
        for kind in (keras.layers.MaxPooling2D, keras.layers.Concatenate)
    )
    assert pooled == joined != rounding.outputs[kinds.index(keras.layers.Dense)]


def test_gradients_reach_every_weight_and_ranges_follow(quantized):
    twin = training_twin(quantized.graph.model)
    forward = RoundedForward(twin, read_rounding(quantized))
    low, high = (variable.numpy() for variable in forward.variables)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(forward(tf.constant(3 * IMAGES))))
    for gradient in tape.gradient(loss, [v.value for v in twin.trainable_variables]):
        assert np.abs(tf.convert_to_tensor(gradient)).max() > 0
    number = read_rounding(quantized).inputs[0]
    new_low, new_high = (variable.numpy() for variable in forward.variables)
    assert new_high[number] == pytest.approx(3 * IMAGES.max())
    forward(tf.constant(IMAGES))
    assert 2.5 * IMAGES.max() < forward.variables[1].numpy()[number] < new_high[number]
    assert (new_low <= 0).all() and (new_high > 0).all() and (low <= 0).all() and (high > 0).all()


def test_depthwise_weights_have_a_scale_for_each_channel():
    kernel = np.random.default_rng(2).normal(size=(3, 3, 4, 2)).astype(np.float32)
    kernel[..., 1, 0] *= 1000
    rounded = rounded_weights(tf.constant(kernel), 2).numpy()
    steps = np.abs(kernel).max(axis=(0, 1)) / 127
    assert (np.abs(rounded - kernel) <= 0.51 * steps).all()
    np.testing.assert_allclose(rounded / steps, np.rint(rounded / steps), atol=1e-3)


def spoil(model):
    """Spoils a model for int8 and not for float32: large weights of a pixel that is always black.

    All other weights of a filter are left with a handful of steps.
    """
    layer = model.get_layer("first")
    kernel = layer.kernel.numpy().copy()
    kernel[0] = 200 * np.abs(kernel).max(axis=0)
    layer.kernel.assign(kernel)


@pytest.fixture(scope="module")
def trained(small_data):
    keras.utils.set_random_seed(0)
    inputs = keras.Input(small_data.input_shape)
    x = keras.layers.ZeroPadding2D(1)(keras.layers.AveragePooling2D(2)(inputs))
    x = keras.layers.Flatten()(x)
    x = keras.layers.Dense(48, activation="relu", name="first")(x)
    model = keras.Model(inputs, keras.layers.Dense(10, name="second")(x))
    fit(model, small_data, FitConfig(epochs=4, learning_rate=0.1), seed=0)
    spoil(model)
    return model


def settings(**fields):
    fields = {"epochs": 3, "learning_rate": 0.02, "weight_decay": 0.0, "distill": 1.0, **fields}
    return QuantizationConfig(num_images=64, aware=FitConfig(**fields))


def copy_of(model):
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy


def test_training_recovers_what_rounding_lost(trained, small_data):
    model = copy_of(trained)
    result = train_aware(model, small_data, settings(), seed=0)
    data = small_data
    exact = litert.evaluate(result.untrained.float_content, data.test_images, data.test_labels)
    assert result.before < exact - 0.2
    assert result.kept and result.after > exact - 0.06


def test_worse_weights_are_not_kept(trained, small_data):
    model = copy_of(trained)
    broken = settings(epochs=1, learning_rate=30.0, max_steps_per_epoch=5, distill=0.0)
    result = train_aware(model, small_data, broken, seed=0)
    assert not result.kept and "kept" in str(result)
    for now, before in zip(model.get_weights(), trained.get_weights(), strict=True):
        np.testing.assert_array_equal(now, before)


@pytest.mark.parametrize(("precision", "trains"), [("int8", True), ("float32", False)])
def test_it_follows_long_term_training_of_a_run_at_int8(trained, small_data, precision, trains):
    config = PruneConfig(
        precision=precision,
        training=TrainingConfig(long_term=FitConfig(epochs=0), recalibration_batches=0),
        quantization=settings(epochs=1, max_steps_per_epoch=3),
    )
    said = []
    trainer = Trainer(config, small_data, trained, on_step=lambda *step: said.append(step))
    trainer.long_term_train(copy_of(trained))
    assert bool(said) == trains
    if trains:
        assert said[-1][:2] == (3, 3) and "training for int8: int8 file" in said[-1][2]


def test_a_killed_training_goes_on_as_if_nothing_happened(trained, small_data, tmp_path):
    images = representative_images(small_data, 16, seed=0)
    rounding = read_rounding(litert.quantize(trained, images))
    config = FitConfig(epochs=2, learning_rate=0.02, max_steps_per_epoch=6)

    def train(on_step=None, checkpoint=None):
        model = copy_of(trained)
        made = []

        def make_forward(twin):
            made.append(RoundedForward(twin, rounding))
            return made[0]

        fit(
            model, small_data, config, seed=0,
            make_forward=make_forward, on_step=on_step, checkpoint=checkpoint,
        )  # fmt: skip
        return [*model.get_weights(), *(variable.numpy() for variable in made[0].variables)]

    def killed(done, planned, loss):
        if done == 8:
            raise KeyboardInterrupt

    path = tmp_path / "aware.npz"
    with pytest.raises(KeyboardInterrupt):
        train(killed, path)
    steps = []
    resumed = train(lambda done, *_: steps.append(done), path)
    assert steps[0] == 7
    for one, other in zip(train(), resumed, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"aware": FitConfig(epochs=1), "correct_bias": True}, "correct_bias"),
        ({"aware": FitConfig(precision="mixed_bfloat16")}, "aware.precision"),
        ({"aware": FitConfig(learning_rate=0.0)}, "aware.learning_rate"),
    ],
)
def test_what_does_not_fit_is_refused(fields, named):
    with pytest.raises(ConfigError, match=named):
        dataclasses.replace(QuantizationConfig(), **fields).validate()
