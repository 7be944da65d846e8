"""Scores by hand, over whole groups, and what cannot be scored."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from cprune_tf.graph import analyze, mask
from cprune_tf.importance import ImportanceError, criterion_names, score

layers = keras.layers


def _plain(norm: bool = True) -> Any:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 3, name="conv")(inputs)
    if norm:
        x = layers.BatchNormalization(name="bn")(x)
    x = layers.Conv2D(5, 3, name="next")(layers.ReLU()(x))
    model = keras.Model(inputs, layers.Dense(3, name="head")(layers.GlobalAveragePooling2D()(x)))
    rng = np.random.default_rng(0)
    for weight in model.weights:
        if weight.path.rsplit("/", 1)[-1] in ("gamma", "beta", "bias"):
            weight.assign(rng.normal(0.5, 0.5, weight.shape))
    return model


def _residual() -> Any:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    a = layers.Conv2D(6, 1, name="a")(inputs)
    b = layers.Conv2D(6, 3, padding="same", name="b")(layers.ReLU()(a))
    x = layers.Flatten()(layers.Add()([a, b]))
    return keras.Model(inputs, layers.Dense(3)(x))


def _data(model: Any, count: int = 16) -> tuple[Any, Any]:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(count, *model.input_shape[1:])).astype("float32")
    return x, rng.integers(0, 3, count)


def _compiled(model: Any) -> Any:
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


@pytest.mark.parametrize("method", criterion_names())
@pytest.mark.parametrize("build", [_plain, _residual])
def test_every_method_scores_every_unit(method: str, build: Any) -> None:
    model = _compiled(build())
    for group in analyze(model).prunable:
        if method == "bn_scale" and not any(w.role == "scale" for w in group.weights):
            continue
        scores = score(model, group, method, data=_data(model))
        assert scores.shape == (group.num_channels,)
        assert scores.dtype == np.float64
        assert np.isfinite(scores).all() and (scores >= 0).all()
        assert len(np.unique(scores)) == len(scores)


@pytest.mark.parametrize(("method", "order"), [("l1", 1), ("l2", 2)])
def test_norms_of_one_layer(method: str, order: int) -> None:
    model = _plain()
    kernel = np.asarray(model.get_layer("conv").kernel, dtype=np.float64).reshape(-1, 6)
    norms = np.linalg.norm(kernel, ord=order, axis=0)
    scores = score(model, analyze(model)["conv"], method)
    np.testing.assert_allclose(scores, norms / norms.mean(), rtol=1e-6)


def test_layers_of_a_group_count_alike() -> None:
    model = _residual()
    (group,) = analyze(model).prunable
    before = score(model, group, "l1")
    model.get_layer("b").kernel.assign(1000.0 * np.asarray(model.get_layer("b").kernel))
    np.testing.assert_allclose(score(model, group, "l1"), before, rtol=1e-5)
    alone = [np.abs(np.asarray(model.get_layer(n).kernel)).sum((0, 1, 2)) for n in "ab"]
    expected = np.mean([norms / norms.mean() for norms in alone], axis=0)
    np.testing.assert_allclose(before, expected, rtol=1e-5)


def test_fpgm_finds_the_filter_in_the_middle() -> None:
    model = _plain()
    kernel = np.zeros((3, 3, 3, 6), dtype="float32")
    kernel[0, 0, 0] = [-10, -5, 0.1, 5, 10, 20]
    model.get_layer("conv").kernel.assign(kernel)
    scores = score(model, analyze(model)["conv"], "fpgm")
    values = kernel[0, 0, 0].astype(np.float64)
    expected = np.abs(values[:, None] - values[None, :]).sum(1)
    np.testing.assert_allclose(scores, expected / expected.mean(), rtol=1e-6)
    assert scores.argmin() == 2


def test_bn_scale_reads_gamma() -> None:
    model = _plain()
    gamma = np.abs(np.asarray(model.get_layer("bn").gamma, dtype=np.float64))
    scores = score(model, analyze(model)["conv"], "bn_scale")
    np.testing.assert_allclose(scores, gamma / gamma.mean(), rtol=1e-6)


@pytest.mark.parametrize("norm", [True, False])
def test_taylor_is_the_squared_derivative_of_the_gate(norm: bool) -> None:
    """The gate scales what leaves the normalisation (or the convolution)."""
    model = _compiled(_plain(norm))
    data = _data(model)
    scores = score(model, analyze(model)["conv"], "taylor", data=data)
    layer = model.get_layer("bn" if norm else "conv")
    variables = [layer.gamma, layer.beta] if norm else [layer.kernel, layer.bias]
    originals = [np.asarray(v).copy() for v in variables]
    derivatives = []
    for unit in range(6):
        losses = []
        for gate in (1.01, 0.99):
            for variable, original in zip(variables, originals, strict=True):
                scaled = original.copy()
                scaled[..., unit] *= gate
                variable.assign(scaled)
            losses.append(float(model.compute_loss(y=data[1], y_pred=model(data[0]))))
            for variable, original in zip(variables, originals, strict=True):
                variable.assign(original)
        derivatives.append((losses[0] - losses[1]) / 0.02)
    expected = np.square(derivatives)
    np.testing.assert_allclose(scores, expected / expected.mean(), rtol=0.05, atol=1e-3)


def test_taylor_accepts_batches() -> None:
    model = _compiled(_plain())
    group = analyze(model)["conv"]
    x, y = _data(model)
    batches = [(x[:8], y[:8]), (x[8:], y[8:])]
    assert score(model, group, "taylor", data=batches).shape == (6,)


def test_random_follows_the_seed() -> None:
    model = _plain()
    group = analyze(model)["conv"]
    first, again, other = (score(model, group, "random", seed=s) for s in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_l1_keeps_more_of_the_output_than_its_reverse() -> None:
    """The point of it all: removing what scores low hurts less than removing what scores high."""
    model = _plain(norm=False)
    kernel = np.asarray(model.get_layer("conv").kernel) * np.geomspace(0.01, 1.0, 6)
    model.get_layer("conv").kernel.assign(kernel)
    model.get_layer("conv").bias.assign(np.zeros(6))
    order = np.argsort(score(model, analyze(model)["conv"], "l1"))
    x = _data(model)[0]
    reference = np.asarray(model(x))
    low, high = (
        np.abs(np.asarray(mask(model, {"conv": units})(x)) - reference).max()
        for units in (order[:3].tolist(), order[3:].tolist())
    )
    assert low < 0.2 * high


@pytest.mark.parametrize("method", ["l1", "l2", "fpgm", "bn_scale", "taylor"])
def test_nan_weights_are_refused(method: str) -> None:
    model = _compiled(_plain())
    name = "gamma" if method in ("bn_scale", "taylor") else "kernel"
    layer = model.get_layer("bn" if name == "gamma" else "conv")
    broken = np.asarray(getattr(layer, name)).copy()
    broken[..., 2] = np.nan
    getattr(layer, name).assign(broken)
    with pytest.raises(ImportanceError, match=f"'{name}' of layer '{layer.name}' holds NaN"):
        score(model, analyze(model)["conv"], method, data=_data(model))


@pytest.mark.parametrize(
    ("method", "build", "data", "message"),
    [
        ("l3", _plain, None, "fpgm, l1, l2"),
        ("bn_scale", _residual, None, "no normalisation"),
        ("taylor", _plain, None, "needs data"),
        ("taylor", _plain, 3, "data is int"),
        ("taylor", _plain, [], "held no batch"),
    ],
)
def test_what_cannot_be_scored(method: str, build: Any, data: Any, message: str) -> None:
    model = _compiled(build())
    with pytest.raises(ImportanceError, match=message):
        score(model, analyze(model).prunable[0], method, data=data)


def test_taylor_needs_a_loss() -> None:
    model = _plain()
    with pytest.raises(ImportanceError, match="not compiled"):
        score(model, analyze(model)["conv"], "taylor", data=_data(model))


def test_nested_and_multi_index_units() -> None:
    """Units that own several filters (a grouped convolution) and layers inside a nested model."""
    inner = keras.Sequential(
        [keras.Input((8, 8, 4)), layers.Conv2D(8, 3, groups=2, name="grouped")]
    )
    inputs = keras.Input((8, 8, 3))
    x = inner(layers.Conv2D(4, 1, name="first")(inputs))
    model = keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))
    group = analyze(model).group_of("grouped")
    assert group.num_channels == 4
    kernel = np.abs(np.asarray(inner.get_layer("grouped").kernel)).sum((0, 1, 2))
    expected = kernel.reshape(2, 4).sum(0)
    scores = score(model, group, "l1")
    np.testing.assert_allclose(scores, expected / expected.mean(), rtol=1e-6)


def test_units_of_different_width() -> None:
    """A slice joined to its whole: half of the units own two indices of what follows."""
    inputs = keras.Input((4, 4, 2))
    x = layers.Conv2D(4, 1, name="conv")(inputs)
    x = layers.BatchNormalization(name="bn")(layers.Concatenate()([x, x[..., :2]]))
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))
    model.get_layer("bn").gamma.assign([1, 2, 3, 4, 5, 6])
    scores = score(model, analyze(model)["conv"], "bn_scale")
    np.testing.assert_allclose(scores / scores[2], [2.0, 8.0 / 3, 1.0, 4.0 / 3])
