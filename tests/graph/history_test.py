"""The history is data, and replaying it is exact."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from cprune_tf.graph import GraphError, PruningHistory, analyze, rebuild
from tests.graph.models import choose, functional, random_inputs, relative_error

layers = keras.layers


def _build(x: Any) -> Any:
    x = layers.Conv2D(12, 3, activation="relu", name="a")(x)
    y = layers.Conv2D(12, 3, padding="same", name="b")(x)
    x = layers.Concatenate()([layers.Add()([x, y]), layers.Conv2D(5, 1, name="c")(y)])
    return layers.Dense(3)(layers.Flatten()(x))


def test_replay_gives_the_same_weights_bit_for_bit() -> None:
    model = functional((10, 10, 3), _build)
    history, pruned = PruningHistory(), model
    for seed in range(3):
        removal = choose(analyze(pruned), 0.2, seed)
        history = history.add(removal, fold_constants=seed != 1)
        pruned = rebuild(pruned, removal, fold_constants=seed != 1)
    again = PruningHistory.from_json(history.to_json())
    assert again == history
    replayed = again.replay(model)
    assert [w.path for w in replayed.weights] == [w.path for w in pruned.weights]
    for a, b in zip(replayed.weights, pruned.weights, strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_two_steps_equal_their_union() -> None:
    model = functional((10, 10, 3), _build)
    history, pruned = PruningHistory(), model
    for seed in range(2):
        removal = choose(analyze(pruned), 0.3, seed)
        history = history.add(removal, fold_constants=False)
        pruned = rebuild(pruned, removal, fold_constants=False)
    at_once = rebuild(model, history.merged(model), fold_constants=False)
    for a, b in zip(at_once.weights, pruned.weights, strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def _shuffle(x: Any) -> Any:
    x = layers.Conv2D(9, 1, name="conv")(x)
    x = layers.Permute((1, 2, 4, 3))(layers.Reshape((5, 5, 3, 3))(x))
    return layers.Dense(2)(layers.Flatten()(layers.Reshape((5, 5, 9))(x)))


def test_a_channel_shuffle_keeps_its_units() -> None:
    """Its channels run along two axes of equal size; which one is pruned must not change."""
    model = functional((5, 5, 3), _shuffle)
    assert analyze(model)["conv"].weights[0].units.tolist() == [0, 1, 2] * 3
    small = rebuild(model, {"conv": [1]})
    assert small.get_layer("conv").filters == 6


def test_a_history_whose_units_are_not_the_originals_is_not_merged() -> None:
    model = functional((5, 5, 3), _shuffle)
    history = PruningHistory().add({"conv": [1]}).add({"conv": [0]})
    small = rebuild(model, {"conv": [1]})
    # Three rows of two are pruned by rows: what was one unit is not one any more.
    assert analyze(small)["conv"].weights[0].units.tolist() == [0, 0, 1, 1, 2, 2]
    with pytest.raises(GraphError, match=r"Step 2.*group 'conv'.*use replay"):
        history.merged(model)
    assert history.replay(model).get_layer("conv").filters == 4


def test_an_empty_history_gives_an_independent_equal_model() -> None:
    model = functional((10, 10, 3), _build)
    twin = PruningHistory().replay(model)
    assert twin is not model
    assert relative_error(twin, model, random_inputs(model)) < 1e-6
    twin.get_layer("a").kernel.assign(np.zeros(twin.get_layer("a").kernel.shape))
    assert np.asarray(model.get_layer("a").kernel).any()


@pytest.mark.parametrize("text", ["", "[]", '{"format": 9, "steps": []}', '{"steps": []}'])
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(GraphError, match="history"):
        PruningHistory.from_json(text)
