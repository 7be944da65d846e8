"""What must hold for any model of which branches vanish: random chains and random graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from hypothesis import event, given, seed, settings
from hypothesis import strategies as st

from cprune_tf.graph import GraphError, PruningHistory, analyze, mask, plan_folding, rebuild
from tests.graph.models import random_inputs, relative_error
from tests.graph.properties_test import CI, random_removal, same_weights
from tests.graph.random_models import ResidualBuilder, models
from tests.graph.residual_models import BLOCKS, chain, whole

layers = keras.layers


def pooled(x: Any, name: str) -> Any:
    return layers.AveragePooling2D(2, 1, padding="same")(x)


@st.composite
def chains(draw: Any) -> Any:
    """A model of one to four blocks, with inner widths from one to five."""

    def sized(block: Any) -> Callable[[Any, str], Any]:
        inner = draw(st.integers(1, 5))
        return lambda x, name: block(x, name, inner)

    kinds = st.sampled_from([*BLOCKS, pooled])
    drawn = [draw(kinds) for _ in range(draw(st.integers(1, 4)))]
    return chain(*(block if block is pooled else sized(block) for block in drawn))


def with_whole_groups(model: Any, fraction: float, number: int, share: float) -> Any:
    """Removes a share of the groups that may vanish, and some units of the others."""
    names = [group.name for group in analyze(model).removable_whole]
    rng = np.random.default_rng(number)
    chosen = [name for name in names if rng.random() < share]
    return {**random_removal(model, fraction, number), **whole(model, *chosen)}


def check(model: Any, removal: Any) -> Any:
    small, inputs = rebuild(model, removal, fold_constants=False), random_inputs(model)
    assert relative_error(small, mask(model, removal), inputs) < 1e-5
    graph = analyze(model)
    if not plan_folding(graph.propagation, graph.keep(removal)).dropped:
        event("all constants were folded")
        reference = mask(model, removal, keep_constants=True)
        assert relative_error(rebuild(model, removal), reference, inputs) < 1e-4
    return small


@seed(3)
@settings(CI, max_examples=20)
@given(chains(), st.floats(0.0, 0.6), st.integers(0, 2**16))
def test_random_chains(model: Any, fraction: float, number: int) -> None:
    removal = with_whole_groups(model, fraction, number, 0.5)
    small = check(model, removal)
    second = with_whole_groups(small, fraction, number + 1, 0.3)
    twice = check(small, second)
    history = PruningHistory().add(removal, fold_constants=False)
    history = history.add(second, fold_constants=False)
    same_weights(history.replay(model), twice)
    same_weights(rebuild(model, history.merged(model), fold_constants=False), twice)
    if number % 16 == 0:  # it collects garbage, which takes a second
        keras.backend.clear_session()


@seed(4)
@settings(CI, max_examples=30)
@given(models(max_steps=4, kind=ResidualBuilder), st.floats(0.0, 0.6), st.integers(0, 2**16))
def test_random_graphs(model: Any, fraction: float, number: int) -> None:
    whole_groups = analyze(model).removable_whole
    event(f"{'some' if whole_groups else 'no'} groups may vanish")
    for group in whole_groups:
        check(model, {**random_removal(model, fraction, number), **whole(model, group.name)})
    try:
        removal = with_whole_groups(model, fraction, number, 0.5)
        analyze(model).keep(removal)
    except GraphError:  # not all of them at once
        event("not together")
        return
    check(model, removal)
    if number % 16 == 0:
        keras.backend.clear_session()
