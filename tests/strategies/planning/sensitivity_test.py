"""The scan against rebuilt models, and values that follow it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cprune_tf import graph
from cprune_tf.strategies.base import ranked
from cprune_tf.strategies.planning.sensitivity import (
    Sensitivity,
    kept_values,
    scan,
    scanned_removals,
)
from cprune_tf.training.twin import statistics_twin
from tests.importance.coupled_taylor_test import labelled, residual_net


def loss_of(model, batches):
    twin = statistics_twin(model)
    losses = [
        float(model.compute_loss(x=x, y=y, y_pred=twin(x, training=True), training=False))
        for x, y in batches
    ]
    return np.mean(losses)


def test_the_scan_sees_the_loss_of_the_rebuilt_model():
    model, batches = residual_net(), [labelled(1), labelled(2)]
    channels = graph.analyze(model)
    ranking = {"stem": (3, 0, 4, 1, 2), "inner": (1, 3, 0, 2)}
    result = scan(model, channels, ranking, {"stem": (1, 3), "inner": (2,)}, batches)
    whole = loss_of(model, batches)
    for name, sensitivity in result.items():
        for count, increase in zip(sensitivity.removed, sensitivity.loss_increases, strict=True):
            smaller = graph.rebuild(model, {name: ranking[name][:count]}, fold_constants=False)
            assert increase == pytest.approx(loss_of(smaller, batches) - whole, abs=1e-5)


def test_without_all_units_the_scan_sees_the_loss_without_the_branch():
    model, batches = residual_net(), [labelled(1), labelled(2)]
    channels = graph.analyze(model)
    ranking = {"inner": (1, 3, 0, 2)}
    before = model.get_weights()
    inner = scan(model, channels, ranking, {"inner": (2, 4)}, batches)["inner"]
    whole = loss_of(model, batches)
    for count, increase in zip(inner.removed, inner.loss_increases, strict=True):
        smaller = graph.rebuild(model, {"inner": ranking["inner"][:count]}, fold_constants=False)
        assert increase == pytest.approx(loss_of(smaller, batches) - whole, abs=1e-5)
    for one, two in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_the_scan_leaves_the_model_alone_and_repeats_itself():
    model, batches = residual_net(), [labelled(1)]
    channels = graph.analyze(model)
    before = model.get_weights()
    arguments = (model, channels, {"stem": range(5)}, {"stem": (2, 4)}, batches)
    assert scan(*arguments) == scan(*arguments)
    for one, two in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_scanned_removals_are_about_half_and_all_that_may_go():
    assert scanned_removals((4, 10, 12, 16)) == (6, 12)
    assert scanned_removals((8, 16)) == (8,)
    assert scanned_removals((0, 4, 10, 12, 16)) == (6, 12, 16)
    assert scanned_removals((0, 8, 16)) == (8, 16)
    assert scanned_removals((0, 1)) == (1,)


@given(
    st.lists(st.floats(0, 10), min_size=8, max_size=8),
    st.lists(st.floats(-1, 5), min_size=2, max_size=2),
)
def test_values_never_fall_with_the_count_and_all_units_cost_nothing(scores, increases):
    values = kept_values(
        {"g": np.array(scores)},
        {"g": Sensitivity((4, 6), tuple(increases))},
        {"g": (2, 3, 4, 6, 8)},
    )["g"]
    assert list(values) == sorted(values)
    assert values[-1] == 0


def test_values_at_scanned_counts_are_the_measured_losses():
    scores = np.array([1.0, 2.0, 3.0, 4.0])
    sensitivities = {"g": Sensitivity((2, 3), (0.3, 1.2))}
    values = kept_values({"g": scores}, sensitivities, {"g": (1, 2, 4)})["g"]
    np.testing.assert_allclose(values, (-1.2, -0.3, 0.0), atol=1e-12)


def test_a_few_units_cost_no_more_than_none():
    scores = {"g": np.array([1.0, 2.0, 3.0, 4.0])}
    sensitivities = {"g": Sensitivity((2, 3, 4), (0.3, 1.2, 0.8))}
    values = kept_values(scores, sensitivities, {"g": (0, 1, 2, 4)})["g"]
    np.testing.assert_allclose(values, (-0.8, -0.8, -0.3, 0.0), atol=1e-12)


def test_a_group_without_loss_still_has_a_price():
    """A scan of few images may find no loss at all; more units are still better than fewer."""
    scores = {"free": np.ones(4), "dear": np.ones(4)}
    sensitivities = {"free": Sensitivity((2,), (-0.1,)), "dear": Sensitivity((2,), (2.0,))}
    values = kept_values(scores, sensitivities, {"free": (2, 4), "dear": (2, 4)})
    assert values["dear"][0] < values["free"][0] < 0


def test_ranked_puts_the_least_important_first():
    assert ranked({"g": np.array([3.0, 1.0, 2.0, 1.0])}) == {"g": (1, 3, 2, 0)}
