"""Budgets: what is chosen, and what always remains."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from cprune_tf.graph import GraphError, SparsityBudget, analyze, plan_removal, rebuild, statistics
from tests.graph.models import functional

layers = keras.layers


def _model() -> Any:
    def build(x: Any) -> Any:
        x = layers.Conv2D(10, 3, name="a")(x)
        x = layers.Conv2D(20, 3, name="b")(x)
        return layers.Dense(3, name="head")(layers.Flatten()(x))

    return functional((12, 12, 3), build)


SCORES = {"a": np.arange(10.0), "b": np.arange(20.0)[::-1] + 4.5}


def _counts(budget: SparsityBudget) -> dict[str, int]:
    return {
        name: len(units) for name, units in plan_removal(analyze(_model()), SCORES, budget).items()
    }


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        (SparsityBudget(0.3), {"a": 3, "b": 6}),
        (SparsityBudget(0.0), {}),
        (SparsityBudget(0.3, multiple=4), {"a": 2, "b": 4}),
        (SparsityBudget(0.3, multiple=16), {"b": 4}),
        (SparsityBudget(0.9, min_channels=4), {"a": 6, "b": 16}),
        (SparsityBudget(0.9, max_fraction=0.5), {"a": 5, "b": 10}),
        (SparsityBudget(0.3, overrides={"b*": 0.1}), {"a": 3, "b": 2}),
        (SparsityBudget(0.3, scope="global"), {"a": 7, "b": 2}),
        (SparsityBudget(0.3, scope="global", max_fraction=0.5), {"a": 5, "b": 4}),
        (SparsityBudget(0.3, scope="global", overrides={"a": 0.0}), {"b": 9}),
    ],
)
def test_how_many_go(budget: SparsityBudget, expected: dict[str, int]) -> None:
    assert _counts(budget) == expected


def test_the_least_important_go() -> None:
    removal = plan_removal(analyze(_model()), SCORES, SparsityBudget(0.3))
    assert removal == {"a": [0, 1, 2], "b": [14, 15, 16, 17, 18, 19]}


@pytest.mark.parametrize("measure", ["params", "macs"])
def test_a_global_budget_in_another_measure(measure: str) -> None:
    model = _model()
    graph = analyze(model)
    rng = np.random.default_rng(0)
    scores = {group.name: rng.random(group.num_channels) for group in graph.prunable}
    budget = SparsityBudget(0.4, scope="global", measure=measure)
    small = rebuild(model, plan_removal(graph, scores, budget))
    before, after = getattr(statistics(model), measure), getattr(statistics(small), measure)
    assert 0.35 < after / before < 0.8


def test_no_part_of_a_concatenation_is_emptied() -> None:
    def build(x: Any) -> Any:
        a, b = layers.Conv2D(3, 1, name="a")(x), layers.Conv2D(9, 1, name="b")(x)
        c = layers.Conv2D(12, 1, name="c")(x)
        x = layers.Add()([layers.Concatenate()([a, b]), c])
        return layers.Dense(2)(layers.Flatten()(x))

    model = functional((6, 6, 3), build)
    graph = analyze(model)
    (group,) = graph.prunable
    scores = {group.name: np.zeros(12)}
    for minimum in (1, 2):
        removal = plan_removal(graph, scores, SparsityBudget(0.9, min_channels=minimum))
        small = rebuild(model, removal)
        assert small.get_layer("a").filters >= minimum
        assert small.get_layer("b").filters >= minimum


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (SparsityBudget(1.0), "fraction is 1.0"),
        (SparsityBudget(scope="layer"), "scope is 'layer'; expected one of per_group, global"),
        (SparsityBudget(measure="bytes"), "measure"),
        (SparsityBudget(multiple=0), "multiple"),
        (SparsityBudget(min_channels=0), "min_channels"),
        (SparsityBudget(overrides={"a": 2.0}), "overrides"),
    ],
)
def test_impossible_budgets(budget: SparsityBudget, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        _counts(budget)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({"x": np.ones(3)}, "No channel group"),
        ({"a": np.ones(3)}, "expected \\(10,\\)"),
        ({"a": np.full(10, np.nan)}, "finite"),
    ],
)
def test_impossible_scores(scores: Any, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        plan_removal(analyze(_model()), scores, SparsityBudget())
