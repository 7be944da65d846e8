"""ADMM pulls weights to what a sparse layer can hold, and the end holds it exactly."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from cprune_tf.sparse import (
    Admm,
    LayerConstraint,
    PatternPruning,
    keep_zeros,
    natural_patterns,
)
from tests.docs_examples import run_section

_NAMES = ("first", "second")


def _model():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(8, 3, padding="same", activation="relu", name="first")(inputs)
    x = keras.layers.Conv2D(8, 3, padding="same", activation="relu", name="second")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, keras.layers.Dense(2, name="head")(x))
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), "mse")
    return model


def _data():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(128, 8, 8, 3)).astype(np.float32)
    return images, np.stack([images.mean((1, 2, 3)), images.std((1, 2, 3))], axis=1)


def _constraints(model):
    """Patterns alone for the first layer; patterns and a third of the blocks for the second."""
    patterns = natural_patterns([np.array(model.get_layer(name).kernel) for name in _NAMES])
    return {
        "first": LayerConstraint(patterns),
        "second": LayerConstraint(patterns, num_kept=11, block_size=2),
    }


def _kernels(model):
    return {name: np.array(model.get_layer(name).kernel) for name in _NAMES}


def test_the_penalty_is_the_paper_s():
    model = _model()
    admm = Admm(model, _constraints(model))
    rng = np.random.default_rng(0)
    state = {key: rng.normal(size=value.shape) for key, value in admm.state().items()}
    admm.restore(state)
    weights = _kernels(model)["second"]
    z, y, u, v = (state[f"second/{key}"] for key in "zyuv")
    kernel = tf.Variable(weights)
    with tf.GradientTape() as tape:
        penalty = admm.penalty("second", kernel)
    expected = np.square(weights - z + u).sum() + np.square(weights - y + v).sum()
    assert float(penalty) == pytest.approx(expected, rel=1e-5)
    gradient = 2 * (weights - z + u) + 2 * (weights - y + v)
    np.testing.assert_allclose(tape.gradient(penalty, kernel), gradient, rtol=1e-4, atol=1e-5)


def test_an_update_projects_the_sum_with_the_dual_and_moves_the_dual():
    model = _model()
    constraints = _constraints(model)
    admm = Admm(model, constraints)
    for _ in range(2):  # the second time, the duals are not zero
        before, weights = admm.state(), _kernels(model)["second"]
        residual = admm.update()["second"]
        after = admm.state()
        for primal, dual, onto in (
            ("z", "u", constraints["second"].on_patterns),
            ("y", "v", constraints["second"].on_connectivity),
        ):
            nearest = onto(weights + before[f"second/{dual}"])
            np.testing.assert_allclose(after[f"second/{primal}"], nearest, atol=1e-6)
            moved = before[f"second/{dual}"] + weights - nearest
            np.testing.assert_allclose(after[f"second/{dual}"], moved, atol=1e-6)
            assert np.abs(moved).max() > 0
        norm = np.linalg.norm(weights)
        assert residual.patterns == pytest.approx(
            np.linalg.norm(weights - after["second/z"]) / norm, rel=1e-4
        )
        assert residual.connectivity == pytest.approx(
            np.linalg.norm(weights - after["second/y"]) / norm, rel=1e-4
        )


def test_a_training_ends_near_its_constraints_and_finish_holds_them_exactly():
    model = _model()
    constraints = _constraints(model)
    admm = Admm(model, constraints)
    pruning = PatternPruning(admm, rho=(1e-2, 1e-1, 1.0))
    images, labels = _data()
    history = model.fit(
        images, labels, batch_size=16, epochs=60, verbose=0, callbacks=[pruning]
    ).history
    for key in ("admm_patterns", "admm_connectivity"):
        assert np.mean(history[key][-3:]) < 0.3 * history[key][0]
    assert not model.losses  # the penalty is gone

    kept = admm.finish()
    for name, kernel in _kernels(model).items():
        sparse = kept[name]
        assert np.array_equal(kernel != 0, sparse.mask() & (kernel != 0))
        again = constraints[name].on_both(kernel)
        assert np.array_equal(kernel * again.mask(), kernel)
    assert (kept["second"].chosen >= 0).sum() == 11


def test_the_multipliers_stay_when_rho_grows():
    model = _model()
    admm = Admm(model, _constraints(model))
    pruning = PatternPruning(admm, rho=(1.0, 4.0))
    pruning.set_params({"epochs": 2})
    pruning.set_model(model)
    pruning.on_epoch_begin(0)
    pruning.on_epoch_end(0)
    before = admm.state()
    pruning.on_epoch_begin(1)
    after = admm.state()
    assert np.abs(before["second/u"]).max() > 0
    for key, value in before.items():
        factor = 0.25 if key[-1] in "uv" else 1.0
        np.testing.assert_allclose(after[key], factor * value, rtol=1e-6)


def test_a_later_training_keeps_the_zeros_and_only_inside_the_block():
    model = _model()
    kept = Admm(model, _constraints(model)).finish()
    before = _kernels(model)
    images, labels = _data()
    with keep_zeros(model, kept):
        model.fit(images, labels, batch_size=16, epochs=1, verbose=0)
    for name, kernel in _kernels(model).items():
        assert not kernel[~kept[name].mask()].any()
        assert np.abs(kernel - before[name])[kept[name].mask()].max() > 0
    model.fit(images, labels, batch_size=16, epochs=1, verbose=0)
    assert _kernels(model)["second"][~kept["second"].mask()].any()


def test_a_later_session_goes_on_where_the_first_one_ended():
    model = _model()
    first = Admm(model, _constraints(model))
    first.update()
    second = Admm(model, _constraints(model))
    second.restore(first.state())
    assert first.update() == second.update()
    other = {key: value for key, value in first.state().items() if key != "second/u"}
    with pytest.raises(ValueError, match=r"differs from this model's in second/u; expected"):
        second.restore(other)


@pytest.mark.parametrize(
    ("name", "message"),
    [("head", r"a kernel of shape \(8, 2\)"), ("third", "no such layer")],
)
def test_other_layers_are_refused_by_name(name, message):
    model = _model()
    (constraint, _) = _constraints(model).values()
    with pytest.raises(ValueError, match=rf"layer '{name}' cannot be trained.*{message}"):
        Admm(model, {name: constraint})


def test_the_example_of_the_documentation_runs():
    run_section("patterns.md", "Patterns")


def test_rho_must_pull():
    model = _model()
    with pytest.raises(ValueError, match=r"rho is \(0.0,\); expected one or more positive"):
        PatternPruning(Admm(model, _constraints(model)), rho=(0.0,))
