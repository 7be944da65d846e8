"""Warm-up, smoothed labels, averaged weights and the early end, each against a hand calculation."""

from __future__ import annotations

import dataclasses
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from cprune_tf.config import ConfigError, FitConfig
from cprune_tf.training import fit, losses
from cprune_tf.training import step as steps

_SHORT = FitConfig(epochs=1, learning_rate=0.05, max_steps_per_epoch=3)


def tiny(small_data, kernel="glorot_uniform", softmax=False) -> keras.Model:
    """A linear classifier after batch normalisation."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input(small_data.input_shape),
            keras.layers.AveragePooling2D(7),
            keras.layers.Flatten(),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(
                10, kernel_initializer=kernel, activation="softmax" if softmax else None
            ),
        ]
    )


def rates(config: FitConfig, total_steps: int) -> list[float]:
    """The learning rate of each step."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    optimizer = steps.make_optimizer(model, config, total_steps)
    seen = []
    for step in range(total_steps):
        optimizer.iterations.assign(step)
        seen.append(float(optimizer.learning_rate))
    return seen


def test_the_rate_rises_and_then_follows_a_whole_cosine():
    config = FitConfig(epochs=4, learning_rate=0.1, schedule="cosine", warmup_epochs=1)
    cosine = [0.05 * (1 + math.cos(math.pi * step / 6)) for step in range(6)]
    assert rates(config, 8) == pytest.approx([0.05, 0.1, *cosine])


def test_warm_up_may_be_a_part_of_an_epoch_and_end_in_a_constant_rate():
    config = FitConfig(epochs=2, learning_rate=0.3, warmup_epochs=0.75)
    assert rates(config, 8) == pytest.approx([0.1, 0.2, *[0.3] * 6])


def test_the_first_step_is_as_small_as_its_rate(small_data):
    """Three steps of warm-up: the first changes the kernel by a third of what it would."""
    changes = []
    for warmup_epochs in (0, 1):
        model = tiny(small_data)
        before = model.get_weights()[-2]
        config = dataclasses.replace(_SHORT, epochs=2, warmup_epochs=warmup_epochs, weight_decay=0)
        done = []
        fit(
            model,
            small_data,
            config,
            seed=0,
            on_step=lambda number, *_, done=done: done.append(number),
            stop=lambda done=done: bool(done),
        )
        changes.append(model.get_weights()[-2] - before)
    np.testing.assert_allclose(changes[1], changes[0] / 3, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("are_probabilities", [False, True])
def test_the_smoothed_loss_is_that_of_keras_and_of_the_definition(are_probabilities):
    rng = np.random.default_rng(0)
    outputs = rng.normal(size=(6, 4)).astype(np.float32)
    labels = np.array([0, 1, 2, 3, 0, 2], np.int32)
    log_probabilities = outputs - np.log(np.exp(outputs).sum(axis=-1, keepdims=True))
    if are_probabilities:
        outputs = np.exp(log_probabilities)
    loss = float(losses.cross_entropy(labels, outputs, are_probabilities, 0.2))
    targets = 0.8 * np.eye(4)[labels] + 0.2 / 4
    assert loss == pytest.approx(-(targets * log_probabilities).sum(axis=-1).mean(), rel=1e-5)
    reference = keras.losses.CategoricalCrossentropy(not are_probabilities, label_smoothing=0.2)
    assert loss == pytest.approx(float(reference(np.eye(4)[labels], outputs)), rel=1e-5)


@pytest.mark.parametrize("distill", [0.0, 0.5])
def test_training_smooths_the_labels_and_not_the_teacher(small_data, distill):
    """The teacher is the model itself, so that its part of the loss is almost zero."""
    model = tiny(small_data)
    images, labels = next(iter(small_data.train_dataset(1)))
    reference = keras.losses.CategoricalCrossentropy(True, label_smoothing=0.3)
    expected = float(reference(tf.one_hot(labels, 10), model(images, training=True)))
    frozen = tiny(small_data)
    # In inference mode, the teacher must normalise as the student does with its batch.
    pooled = keras.Model(model.inputs, model.layers[1].output)(images).numpy()
    frozen.layers[2].moving_mean.assign(pooled.mean(axis=0))
    frozen.layers[2].moving_variance.assign(pooled.var(axis=0))
    seen = []
    config = dataclasses.replace(
        _SHORT, max_steps_per_epoch=1, label_smoothing=0.3, distill=distill
    )
    fit(
        tiny(small_data),
        small_data,
        config,
        seed=0,
        teacher=frozen,
        on_step=lambda done, total, loss: seen.append(loss),
    )
    assert seen == [pytest.approx((1 - distill) * expected, rel=1e-3)]


def trajectory(small_data, num_steps: int) -> list[list[np.ndarray]]:
    """The weights after each step of a training without an average."""
    weights = []
    for number in range(1, num_steps + 1):
        model = tiny(small_data)
        fit(model, small_data, dataclasses.replace(_SHORT, max_steps_per_epoch=number), seed=0)
        weights.append(model.get_weights())
    return weights


def test_the_average_is_the_one_computed_by_hand(small_data):
    """Moving statistics of batch normalisation are averaged as all other weights are."""
    model = tiny(small_data)
    fit(model, small_data, dataclasses.replace(_SHORT, ema=0.6), seed=0)
    first, second, third = trajectory(small_data, 3)
    whole = 0.36 + 0.6 + 1
    names = [weight.name for weight in model.weights]
    assert {"moving_mean", "moving_variance"} < set(names)
    for averaged, *steps_of_it in zip(model.get_weights(), first, second, third, strict=True):
        a, b, c = steps_of_it
        expected = (0.36 * a + 0.6 * b + c) / whole
        np.testing.assert_allclose(averaged, expected, rtol=1e-5, atol=1e-6)
    assert not np.allclose(model.get_weights()[-2], third[-2], rtol=1e-4)


class BrokenOffError(Exception):
    pass


def test_a_failure_leaves_the_averaged_weights_of_the_epoch_before(small_data):
    def fail(done: int, total: int, loss: float) -> None:
        if done == 5:
            raise BrokenOffError

    config = dataclasses.replace(_SHORT, ema=0.6)
    broken, whole = tiny(small_data), tiny(small_data)
    with pytest.raises(BrokenOffError):
        fit(broken, small_data, dataclasses.replace(config, epochs=2), seed=0, on_step=fail)
    fit(whole, small_data, config, seed=0)
    for one, two in zip(broken.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_all_of_it_together_repeats_for_the_same_seed(small_data):
    config = dataclasses.replace(
        _SHORT, epochs=2, schedule="cosine", warmup_epochs=0.5, label_smoothing=0.1, ema=0.9
    )
    weights = []
    for _ in range(2):
        model = tiny(small_data, softmax=True)
        fit(model, small_data, config, seed=3)
        weights.append(model.get_weights())
    for one, two in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, two)


def test_it_ends_where_the_loss_no_longer_falls(small_data):
    """Equal outputs for all classes and a rate of almost nothing: the loss stays ln 10."""
    stuck = FitConfig(
        epochs=6, learning_rate=1e-30, weight_decay=0, max_steps_per_epoch=2, stop_after=2
    )
    result = fit(tiny(small_data, kernel="zeros"), small_data, stuck, seed=0)
    assert [epoch.loss for epoch in result.epochs] == pytest.approx([math.log(10)] * 3)
    assert result.stopped and result.num_steps == 6
    # What ends with its last epoch was not stopped.
    as_planned = dataclasses.replace(stuck, epochs=3)
    assert not fit(tiny(small_data, kernel="zeros"), small_data, as_planned, seed=0).stopped


def test_it_goes_on_while_the_loss_falls(small_data):
    config = FitConfig(epochs=3, learning_rate=0.05, stop_after=1)
    result = fit(tiny(small_data), small_data, config, seed=0)
    assert len(result.epochs) == 3 and not result.stopped


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"warmup_epochs": -1}, r"warmup_epochs is -1; expected 0 or more"),
        ({"warmup_epochs": 2, "epochs": 2}, r"less than fit\.epochs \(2\)"),
        ({"label_smoothing": 1.0}, r"label_smoothing is 1\.0; expected a number in \[0, 1\)"),
        ({"ema": 1.0}, r"ema is 1\.0; expected a number in \[0, 1\)"),
        ({"stop_after": -1}, r"stop_after is -1; expected 0 \(never\) or more"),
    ],
)
def test_a_config_that_cannot_work_is_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        FitConfig(**fields).validate("fit")
    # Nothing is trained, so a warm-up that a config file asks for is no contradiction.
    FitConfig(epochs=0, warmup_epochs=1).validate("fit")
