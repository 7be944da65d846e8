"""What must hold for any model: random graphs drawn by hypothesis."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, event, given, seed, settings
from hypothesis import strategies as st

from cprune_tf.graph import (
    GraphError,
    PruningHistory,
    SparsityBudget,
    analyze,
    mask,
    plan_folding,
    plan_removal,
    rebuild,
)
from tests.graph.models import random_inputs, relative_error
from tests.graph.random_models import models

CI = settings(
    max_examples=100,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
)


def random_removal(model: Any, fraction: float, number: int) -> dict[str, list[int]]:
    graph = analyze(model)
    rng = np.random.default_rng(number)
    scores = {group.name: rng.random(group.num_channels) for group in graph.prunable}
    return plan_removal(graph, scores, SparsityBudget(fraction))


def check(model: Any, fraction: float, number: int) -> None:
    removal = random_removal(model, fraction, number)
    inputs = random_inputs(model)
    small = rebuild(model, removal, fold_constants=False)
    assert relative_error(small, mask(model, removal), inputs) < 1e-4
    if number % 2:
        _check_folding(model, removal, inputs)
    else:
        _check_two_steps(model, small, removal, fraction, number)


def _check_folding(model: Any, removal: Any, inputs: Any) -> None:
    graph = analyze(model)
    if not plan_folding(graph.propagation, graph.keep(removal)).dropped:
        reference = mask(model, removal, keep_constants=True)
        assert relative_error(rebuild(model, removal), reference, inputs) < 1e-4


def _check_two_steps(model: Any, small: Any, removal: Any, fraction: float, number: int) -> None:
    history = PruningHistory().add(removal, fold_constants=False)
    second = random_removal(small, fraction, number + 1)
    history = history.add(second, fold_constants=False)
    twice = rebuild(small, second, fold_constants=False)
    replayed = PruningHistory.from_json(history.to_json()).replay(model)
    same_weights(replayed, twice)
    try:
        union = history.merged(model)
    except GraphError:  # channels split along two axes were regrouped: see `merged`
        event("not mergeable")
        return
    same_weights(rebuild(model, union, fold_constants=False), twice)


def same_weights(a: Any, b: Any) -> None:
    for x, y in zip(a.weights, b.weights, strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


@seed(1)
@CI
@given(models(), st.floats(0.1, 0.8), st.integers(0, 2**16))
def test_random_graphs(model: Any, fraction: float, number: int) -> None:
    check(model, fraction, number)
    if number % 32 == 0:  # it collects garbage, which takes a second
        keras.backend.clear_session()


@pytest.mark.slow
@pytest.mark.timeout(3 * 3600)
@seed(2)
@settings(CI, max_examples=2000)
@given(models(max_steps=12), st.floats(0.1, 0.8), st.integers(0, 2**16))
def test_two_thousand_random_graphs(model: Any, fraction: float, number: int) -> None:
    check(model, fraction, number)
    if number % 32 == 0:  # it collects garbage, which takes a second
        keras.backend.clear_session()
