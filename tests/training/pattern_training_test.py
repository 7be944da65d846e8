"""Trainings towards patterns in our own trainer: duals, kills, and zeros that stay."""

from __future__ import annotations

import dataclasses
import functools

import keras
import numpy as np
import pytest

from cprune_tf import sparse
from cprune_tf.config import FitConfig, PruneConfig, TrainingConfig
from cprune_tf.training import fit, recalibrate_batch_norm
from cprune_tf.training.hooks import Trainer
from cprune_tf.training.pattern_training import (
    CONNECTIVITY,
    PATTERNS,
    PatternPenalty,
    StraightThrough,
    TowardsPatterns,
    default_rho,
    largest_rho,
)
from tests.strategies.kills import Killed

_SHORT = FitConfig(epochs=4, learning_rate=0.02, max_steps_per_epoch=3)
_RHO = (0.1, 1.0)


def small_model() -> keras.Model:
    """Two convolutions, dropout between them, and a constraint of the user's own."""
    keras.utils.set_random_seed(0)
    image = keras.Input((28, 28, 1))
    x = keras.layers.Conv2D(8, 3, strides=3, name="first")(image)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    x = keras.layers.Dropout(0.1)(x)
    limit = keras.constraints.MaxNorm(5.0)
    x = keras.layers.Conv2D(8, 3, strides=2, kernel_constraint=limit, name="second")(x)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(x))
    return keras.Model(image, keras.layers.Dense(10, activation="softmax")(x))


def constraints(model):
    return sparse.plan_constraints(model, sparse.SparseSettings(block_size=2))


def kernel(model, name="second"):
    return np.asarray(model.get_layer(name).kernel)


def ways(method):
    """How `fit` is told to train by a method."""
    model = small_model()
    if method == "admm":
        return model, {"penalty": PatternPenalty(model, constraints(model), _RHO)}
    wanted = constraints(model)
    if method == "straight_through":
        return model, {"make_forward": lambda twin: StraightThrough(twin, wanted)}
    return model, {"kept": sparse.project_model(model, wanted)}


@pytest.mark.parametrize("method", ["admm", "straight_through", "one_shot"])
def test_a_killed_training_goes_on_with_its_duals_masks_and_zeros(small_data, tmp_path, method):
    config = dataclasses.replace(_SHORT, ema=0.9 if method == "one_shot" else 0.0)

    def train(kill_after=None, checkpoint=None):
        steps, (model, way) = [], ways(method)

        def on_step(done, planned, loss):
            steps.append(done)
            if done == kill_after:
                raise Killed

        options = {**way, "on_step": on_step, "checkpoint": checkpoint}
        result = fit(model, small_data, config, seed=0, **options)
        return model, result, steps, way

    whole, expected, _, way = train()
    path = tmp_path / "patterns.npz"
    with pytest.raises(Killed):
        train(kill_after=8, checkpoint=path)  # within the third epoch, where rho has grown
    resumed, result, steps, other_way = train(checkpoint=path)
    assert steps == list(range(7, 13))
    for one, two in zip(resumed.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    assert [one.measures for one in result.epochs] == [one.measures for one in expected.epochs]
    if method == "admm":
        for one, two in zip(way["penalty"].variables, other_way["penalty"].variables, strict=True):
            np.testing.assert_array_equal(one.numpy(), two.numpy())
        assert way["penalty"].variables[0].numpy() == pytest.approx(_RHO[-1])


def test_a_training_goes_on_only_with_its_own_penalty(small_data, tmp_path):
    config = dataclasses.replace(_SHORT, epochs=1)
    steps = []
    for rho in (_RHO, _RHO, (0.2,)):
        model = small_model()
        penalty = PatternPenalty(model, constraints(model), rho)
        options = {"penalty": penalty, "checkpoint": tmp_path / "patterns.npz"}
        steps.append([])
        on_step = lambda done, *_, seen=steps[-1]: seen.append(done)  # noqa: E731
        fit(model, small_data, config, seed=0, on_step=on_step, **options)
    assert [len(one) for one in steps] == [3, 0, 3]


def test_the_residuals_shrink_and_the_end_is_feasible(small_data):
    short_term = dataclasses.replace(_SHORT, momentum=0.5, max_steps_per_epoch=10, ema=0.9)
    model = small_model()
    config = PruneConfig(training=TrainingConfig(short_term=short_term))
    trainer = Trainer(config, small_data, small_model())
    towards = TowardsPatterns("admm", constraints(model), 24, 0.1, (0.1, 1.0, 5.0))
    projected = trainer.train_patterns(model, towards)
    for key in (PATTERNS, CONNECTIVITY):
        told = [epoch[key] for epoch in projected.epochs]
        assert len(told) == 24 and np.mean(told[-3:]) < 0.4 * told[0]
    for name, kept in projected.kept.items():
        weights = kernel(model, name)
        again = towards.constraints[name].on_both(weights)
        np.testing.assert_array_equal(weights * again.mask(), weights)
        np.testing.assert_array_equal(weights * kept.mask(), weights)
    second = projected.kept["second"]
    # Each of the four blocks keeps two of the eight input channels: about every 3.6th.
    assert (second.chosen >= 0).sum() == 4 * 2
    assert (projected.kept["first"].chosen >= 0).all()


def test_the_statistics_are_those_of_what_stays(small_data):
    config = PruneConfig(training=TrainingConfig(short_term=_SHORT))
    trainer, model = Trainer(config, small_data, small_model()), small_model()
    towards = TowardsPatterns("straight_through", constraints(model), 1, 0.02, ())
    trainer.train_patterns(model, towards)
    before = model.get_weights()
    seed = config.seed + model.count_params()
    recalibrate_batch_norm(model, small_data, 20, seed=seed, include_frozen=False)
    for one, two in zip(model.get_weights(), before, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5)


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_zeros_stay_exactly_zero_after_every_step_and_in_the_average(small_data, ema):
    trainer = Trainer(
        PruneConfig(training=TrainingConfig(long_term=dataclasses.replace(_SHORT, ema=ema))),
        small_data,
        small_model(),
    )
    model = small_model()
    kept = sparse.project_model(model, constraints(model))
    before = kernel(model)
    trainer.long_term_train(model, kept)
    for name, sparse_kernel in kept.items():
        assert not kernel(model, name)[~sparse_kernel.mask()].any()
    changed = kernel(model) != before
    np.testing.assert_array_equal(changed, kept["second"].mask())
    # The user's own constraint is kept, too.
    assert np.linalg.norm(kernel(model), axis=0).max() <= 5.0 + 1e-5
    # Without it, momentum and weight decay move zeros at once.
    trainer.long_term_train(model)
    assert kernel(model)[~kept["second"].mask()].any()


def test_a_straight_through_training_computes_with_what_stays_and_trains_all(small_data):
    def without_dropout():
        model = small_model()
        for layer in model.layers:
            if isinstance(layer, keras.layers.Dropout):
                layer.rate = 0.0
        return model

    dense, projected = without_dropout(), without_dropout()
    wanted = constraints(dense)
    sparse.project_model(projected, wanted)
    images = small_data.test_images[:8]
    computed = StraightThrough(dense, wanted)(images)
    np.testing.assert_allclose(computed, projected(images, training=True), atol=1e-5)
    for one, two in zip(dense.non_trainable_weights, projected.non_trainable_weights, strict=True):
        np.testing.assert_allclose(one.numpy(), two.numpy(), rtol=1e-4, atol=1e-6)

    before = kernel(dense)
    make_forward = functools.partial(StraightThrough, constraints=wanted)
    result = fit(dense, small_data, _SHORT, seed=0, make_forward=make_forward)
    assert (kernel(dense) != before).all()
    assert all(set(epoch.measures) == {PATTERNS} for epoch in result.epochs)


def test_the_default_pull_fits_the_rate_and_the_length_of_an_epoch(small_data):
    """An epoch of the first stage takes a free weight 45 % of the way, whatever the rate."""
    for rate, momentum, steps in ((0.02, 0.5, 20), (0.005, 0.9, 50)):
        rho = default_rho(rate, momentum, steps)
        weight, velocity = 1.0, 0.0
        for _ in range(20 * steps):  # many, so that the momentum's start does not count
            velocity = momentum * velocity - rate * 2 * rho[0] / 20 * weight
            weight += velocity
        assert weight == pytest.approx(np.exp(-0.6), rel=0.02)
        assert rho == tuple(sorted(rho)) and rho[-1] < largest_rho(rate, momentum)
    assert default_rho(0.1, 0.0, 1)[-1] < largest_rho(0.1, 0.0)

    config = PruneConfig(training=TrainingConfig(short_term=_SHORT))
    trainer = Trainer(config, small_data, small_model())
    model = small_model()
    towards = TowardsPatterns("admm", constraints(model), 2, 0.02, ())
    assert len(trainer.train_patterns(model, towards).epochs) == 2


def test_zeros_and_replicas_exclude_each_other(small_data):
    model = small_model()
    kept = sparse.project_model(model, constraints(model))
    with pytest.raises(ValueError, match="zeros are to be kept with replicas"):
        fit(model, small_data, _SHORT, seed=0, kept=kept, replicas=object())
