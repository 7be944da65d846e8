"""Coupled first-order Taylor scores against finite differences."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from cprune_tf.graph import analyze
from cprune_tf.importance import ImportanceError, score, score_groups

layers = keras.layers


def residual_net():
    """A stream that a stem and a block make together, each with a normalisation of its own."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 3))
    x = layers.BatchNormalization(name="stem_bn")(layers.Conv2D(5, 3, name="stem")(inputs))
    y = layers.Conv2D(4, 3, padding="same", name="inner")(layers.ReLU()(x))
    y = layers.ReLU()(layers.BatchNormalization(name="inner_bn")(y))
    y = layers.Conv2D(5, 3, padding="same", name="outer")(y)
    x = layers.Add()([x, layers.BatchNormalization(name="outer_bn")(y)])
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(x))
    model = keras.Model(inputs, layers.Dense(3, name="head")(x))
    rng = np.random.default_rng(0)
    for weight in model.weights:
        if weight.path.rsplit("/", 1)[-1] in ("gamma", "beta", "bias"):
            weight.assign(rng.normal(0.5, 0.5, weight.shape))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def labelled(seed, count=16):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, 6, 6, 3)).astype("float32"), rng.integers(0, 3, count)


def joint_derivative(model, norms, unit, data):
    """Derivative of the loss by a factor on one unit's gammas and betas in several layers."""
    variables = [
        v for name in norms for v in (model.get_layer(name).gamma, model.get_layer(name).beta)
    ]
    originals = [np.asarray(variable).copy() for variable in variables]
    losses = []
    for gate in (1.01, 0.99):
        for variable, original in zip(variables, originals, strict=True):
            scaled = original.copy()
            scaled[unit] *= gate
            variable.assign(scaled)
        losses.append(float(model.compute_loss(y=data[1], y_pred=model(data[0]))))
    for variable, original in zip(variables, originals, strict=True):
        variable.assign(original)
    return (losses[0] - losses[1]) / 0.02


def test_the_score_is_the_joint_derivative_averaged_over_batches_as_absolute_value():
    model = residual_net()
    batches = [labelled(1), labelled(2)]
    group = analyze(model)["stem"]
    scores = score(model, group, "coupled_taylor", data=batches)
    expected = np.mean(
        [
            [abs(joint_derivative(model, ("stem_bn", "outer_bn"), u, data)) for u in range(5)]
            for data in batches
        ],
        axis=0,
    )
    np.testing.assert_allclose(scores, expected, rtol=0.05, atol=2e-4)


def test_scores_of_several_groups_at_once_are_those_of_each_alone():
    model, data = residual_net(), [labelled(1), labelled(2)]
    groups = analyze(model).prunable
    assert len(groups) == 2
    together = score_groups(model, groups, "coupled_taylor", data=data)
    for group in groups:
        alone = score(model, group, "coupled_taylor", data=data)
        np.testing.assert_allclose(together[group.name], alone, rtol=1e-4, atol=1e-7)


def test_several_groups_by_a_criterion_that_scores_one_at_a_time():
    model = residual_net()
    groups = analyze(model).prunable
    together = score_groups(model, groups, "l1")
    assert {name: len(values) for name, values in together.items()} == {"stem": 5, "inner": 4}


def test_without_data_or_loss_it_says_what_is_missing():
    model = residual_net()
    group = analyze(model)["stem"]
    with pytest.raises(ImportanceError, match="'coupled_taylor' needs data"):
        score(model, group, "coupled_taylor")
    with pytest.raises(ImportanceError, match="held no batch"):
        score(model, group, "coupled_taylor", data=[])
    bare = keras.Model(model.input, model.output)
    with pytest.raises(ImportanceError, match="not compiled"):
        score(bare, group, "coupled_taylor", data=labelled(1))
