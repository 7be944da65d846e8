"""Products of tensors: rebuilt and masked agree, and what cannot be followed is protected."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

from cprune_tf.graph import analyze, mask, plan_folding, rebuild
from tests.graph.models import choose, functional, random_inputs, relative_error

layers, ops = keras.layers, keras.ops

_MATRIX = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")


def _dense(name: str, width: int = 8) -> Callable[[Any], Any]:
    return lambda x: layers.Dense(width, name=name)(x)


def _heads(x: Any, name: str, heads: int, width: int) -> Any:
    return ops.reshape(_dense(name)(x), (-1, 6, heads, width))


def _attend(x: Any, heads: int, width: int, **kwargs: Any) -> Any:
    parts = [_heads(x, name, heads, width) for name in ("q", "k", "v")]
    return ops.reshape(ops.dot_product_attention(*parts, **kwargs), (-1, 6, 8))


def _self_attention(x: Any) -> Any:
    scores = ops.softmax(_dense("q")(x) @ ops.transpose(_dense("k")(x), (0, 2, 1)))
    return scores @ _dense("v", 4)(x)


q, k, v = _dense("q"), _dense("k"), _dense("v", 4)


@pytest.mark.parametrize(
    ("operation", "prunable"),
    [
        (_self_attention, "k v"),
        (lambda x: ops.matmul(q(x), _MATRIX), "q"),
        (lambda x: ops.matmul(np.ones((3, 6), "float32"), q(x)), "q"),
        (lambda x: ops.expand_dims(ops.matmul(q(x), _MATRIX[:, 0]), -1), "q"),
        (lambda x: ops.einsum("bqc,bkc->bqk", q(x), k(x)), "q"),
        (lambda x: ops.einsum("bqc,cd->bqd", q(x), _MATRIX), "q"),
        (lambda x: ops.dot(q(x), _MATRIX), "q"),
        (lambda x: ops.inner(q(x), _MATRIX.T), "q"),
        (lambda x: ops.tensordot(q(x), _MATRIX, 1), "q"),
        (lambda x: ops.tensordot(q(x), _MATRIX, ((2,), (0,))), "q"),
        (lambda x: layers.Dot(axes=2)([q(x), k(x)]), "q"),
        (lambda x: layers.Dot(axes=(2, 2), normalize=True)([q(x), k(x)]), "q"),
        (lambda x: layers.Dot(axes=1)([q(x), v(x)]), "v"),
        (lambda x: layers.Attention(use_scale=True)([q(x), v(x), k(x)]), "q v"),
        (lambda x: layers.Attention(score_mode="concat")([q(x), k(x)]), "q"),
        (lambda x: layers.AdditiveAttention()([q(x), v(x), k(x)]), "q v"),
        (lambda x: _attend(x, 4, 2), "q"),  # whole heads
        (lambda x: _attend(x, 2, 4, scale=0.3), "q v"),  # the channels of each head
        (lambda x: _attend(x, 2, 4), "v"),
        (lambda x: ops.take(q(x), [0, 2, 2], axis=1), "q"),
    ],
)
def test_rebuilt_and_masked_agree(operation: Callable[[Any], Any], prunable: str) -> None:
    model = functional((6, 5), lambda x: layers.Dense(2, name="last")(operation(x)))
    graph = analyze(model)
    removal = choose(graph)
    assert set(removal) == set(prunable.split())
    small, masked = rebuild(model, removal, fold_constants=False), mask(model, removal)
    data = random_inputs(model)
    assert relative_error(small, masked, data) < 1e-5
    assert relative_error(masked, model, data) > 1e-4


def test_constants_in_a_sum_over_channels_are_not_folded() -> None:
    def build(x: Any) -> Any:
        y, z = q(x), k(x)
        return layers.Dense(2)(ops.einsum("bnc,bcd->bnd", y, ops.einsum("bnc,bnd->bcd", y, z)))

    graph = analyze(functional((6, 5), build))
    folding = plan_folding(graph.propagation, graph.keep({"q": [1]}))
    assert folding.dropped


@pytest.mark.parametrize(
    ("operation", "reason"),
    [
        (lambda x: ops.einsum("...c,cd->...d", q(x), _MATRIX), "not followed"),
        (lambda x: ops.einsum("bqc,bqc->bq", q(x), x[..., :1] * np.ones(8, "float32")), "without"),
        (lambda x: _attend(x, 2, 4), "divides by the root of their number"),
        (lambda x: ops.take(q(x), [0, 2], axis=2), "by their indices"),
    ],
)
def test_what_cannot_be_followed_is_protected(operation: Any, reason: str) -> None:
    model = functional((6, 5), lambda x: layers.Dense(2)(layers.Flatten()(operation(x))))
    assert reason in str(analyze(model)["q"].protected)
