"""The penalty on units that will go: its value by hand, what it does in a training."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from cprune_tf import graph
from cprune_tf.config import FitConfig
from cprune_tf.training import fit
from cprune_tf.training.twin import training_twin
from cprune_tf.training.unit_penalty import largest_factor, unit_norms, unit_penalty
from tests.training.penalties import Plain

layers = keras.layers


def inverted_bottleneck() -> keras.Model:
    """A stream of 5 channels, and a block that expands it to 6 for a depthwise convolution."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 3))
    x = layers.BatchNormalization(name="stem_bn")(layers.Conv2D(5, 3, name="stem")(inputs))
    y = layers.ReLU()(layers.Conv2D(6, 1, name="expand")(x))
    y = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="depthwise")(y)
    y = layers.ReLU()(layers.BatchNormalization(name="inner_bn")(y))
    y = layers.BatchNormalization(name="project_bn")(layers.Conv2D(5, 1, name="project")(y))
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(layers.Add(name="sum")([x, y])))
    model = keras.Model(inputs, layers.Dense(4, name="head")(x))
    rng = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(rng.normal(0.5, 0.5, weight.shape))
    return model


SCORES = {"stem": np.array([0.0, 1.0, 2.0, 3.0, 4.0]), "expand": np.array([3, 0, 9, 9, 9, 6.0])}
REMOVAL = {"stem": (0, 3), "expand": (1, 5)}


def squares(model: keras.Model) -> dict[tuple[str, int], float]:
    """The squared norm of each unit of REMOVAL, slice by slice."""
    kernel = {x.name: np.asarray(x.kernel) for x in model.layers if hasattr(x, "kernel")}
    vectors = {
        name: [np.asarray(v) for v in model.get_layer(name).trainable_weights if v.ndim == 1]
        for name in ("stem", "stem_bn", "expand", "inner_bn", "project", "project_bn")
    }
    result = {}
    for k in REMOVAL["stem"]:
        slices = [kernel["stem"][..., k], kernel["project"][..., k]]
        slices += [kernel["expand"][:, :, k], kernel["head"][k]]
        slices += [v[k] for n in ("stem", "stem_bn", "project", "project_bn") for v in vectors[n]]
        result["stem", k] = sum(float(np.sum(np.square(part))) for part in slices)
    for k in REMOVAL["expand"]:
        slices = [kernel["expand"][..., k], kernel["project"][:, :, k]]
        slices += [np.asarray(model.get_layer("depthwise").weights[0])[:, :, k]]
        slices += [v[k] for n in ("expand", "inner_bn") for v in vectors[n]]
        result["expand", k] = sum(float(np.sum(np.square(part))) for part in slices)
    return result


# 2 ** (4 * (max - I) / (max - min)) of the units that go.
GAMMAS = {("stem", 0): 16.0, ("stem", 3): 2.0, ("expand", 1): 16.0, ("expand", 5): 2 ** (4 / 3)}


@pytest.mark.parametrize(("progress", "part"), [(0.0, 0.25), (0.3, 0.5), (0.99, 1.0), (1.0, 1.0)])
def test_the_penalty_is_the_weighted_sum_of_squares_and_grows_in_stages(progress, part):
    model = inverted_bottleneck()
    penalty = unit_penalty(graph.analyze(model), REMOVAL, SCORES, 0.3, 4)
    found = squares(model)
    expected = 0.3 * part * sum(GAMMAS[unit] * found[unit] for unit in GAMMAS)
    for same in (model, training_twin(model)):
        value = penalty(same, tf.constant(progress))
        assert float(value) == pytest.approx(expected, rel=1e-5)


def test_norms_are_those_of_all_parameters_of_a_unit():
    model = inverted_bottleneck()
    expected = [np.sqrt(value) for value in squares(model).values()]
    np.testing.assert_allclose(unit_norms(graph.analyze(model), REMOVAL), expected, rtol=1e-5)


def test_frozen_layers_are_not_penalised():
    model = inverted_bottleneck()
    model.get_layer("stem").trainable = False
    penalty = unit_penalty(graph.analyze(model), REMOVAL, SCORES, 0.3, 4)
    stem = model.get_layer("stem").weights[0]
    assert not [i for i in penalty.coefficients if model.weights[i] is stem]


def test_equal_importances_get_the_largest_coefficient():
    model = inverted_bottleneck()
    scores = {"expand": np.full(6, 0.7)}
    penalty = unit_penalty(graph.analyze(model), {"expand": (2,)}, scores, 1.0, 1)
    assert {float(values.max()) for values in penalty.coefficients.values()} == {16.0}


def test_a_branch_that_vanishes_is_penalised_wholly():
    """Also the normalisation behind its last convolution, whose channels stay in the stream."""
    model = inverted_bottleneck()
    scores = {"expand": SCORES["expand"]}
    penalty = unit_penalty(graph.analyze(model), {"expand": tuple(range(6))}, scores, 1.0, 1)
    penalised = {
        id(model.weights[i])
        for i, values in penalty.coefficients.items()
        if np.broadcast_to(values, model.weights[i].shape).min() > 0
    }
    branch = ("expand", "depthwise", "inner_bn", "project", "project_bn")
    inside = {id(v) for name in branch for v in model.get_layer(name).trainable_weights}
    assert penalised == inside
    assert len(penalty.coefficients) == len(inside)


def test_training_adds_a_penalty_that_knows_how_much_is_done(small_data):
    """A penalty without derivatives changes the loss alone."""
    losses = []
    for penalty in (None, Plain(lambda model, progress: 100.0 * progress)):
        keras.utils.set_random_seed(0)
        pooled = [keras.Input((28, 28, 1)), layers.AveragePooling2D(7), layers.Flatten()]
        seen = []
        fit(
            keras.Sequential([*pooled, layers.Dense(10)]),
            small_data,
            FitConfig(epochs=2, learning_rate=0.01, max_steps_per_epoch=2),
            seed=0,
            penalty=penalty,
            on_step=lambda done, total, loss, seen=seen: seen.append(loss),
        )
        losses.append(np.array(seen))
    np.testing.assert_allclose(losses[1] - losses[0], [0, 25, 50, 75], atol=1e-3)


@pytest.mark.parametrize(("times", "converges"), [(0.97, True), (1.03, False)])
def test_sgd_is_stable_up_to_the_largest_factor(times, converges):
    variable = tf.Variable(1.0)
    optimizer = keras.optimizers.SGD(0.05, momentum=0.9)
    factor = times * largest_factor(0.05, 0.9)
    for _ in range(300):
        optimizer.apply([2 * 2 * 16.0 * factor * variable], [variable])
    assert (abs(float(variable)) < 1) is converges


def cross_entropy(model, data) -> float:
    images, labels = data.judges
    outputs = np.asarray(model(images[:250], training=False), np.float64)
    return float(-np.log(outputs[np.arange(250), labels[:250]] + 1e-9).mean())


def test_what_is_pressed_first_loses_little_when_it_is_cut(small_data, trained):
    """The same steps without a penalty first, then with it; a quarter of all units goes."""
    model = graph.functional_twin(trained)
    channels = graph.analyze(model)
    scores = {one.name: np.arange(one.num_channels, dtype=float) for one in channels.prunable}
    removal = {name: tuple(range(len(values) // 4)) for name, values in scores.items()}
    start = model.get_weights()
    before = unit_norms(channels, removal)
    config = FitConfig(epochs=1, learning_rate=0.02, max_steps_per_epoch=25)
    losses, ratios = [], []
    for penalty in (None, unit_penalty(channels, removal, scores, 0.2, 5)):
        model.set_weights(start)
        fit(model, small_data, config, seed=0, penalty=penalty)
        ratios.append(np.median(unit_norms(channels, removal) / before))
        smaller = graph.rebuild(model, removal, fold_constants=False, graph=channels)
        losses.append(cross_entropy(smaller, small_data))
    assert ratios[0] > 0.8 and ratios[1] < 0.2
    assert losses[1] < 0.5 * losses[0]
