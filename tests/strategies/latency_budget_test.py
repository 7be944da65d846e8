"""Rounds of the latency budget over a runtime whose latencies are formulas."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from cprune_tf.config import ConfigError, from_mapping
from cprune_tf.runs import events
from cprune_tf.strategies.latency_budget import LatencyBudget

from . import benches
from .kills import Killed, measured_tasks


def wide_model() -> keras.Model:
    """A residual stream between three convolutions, wide enough for many counts."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3), name="image")
    x = y = keras.layers.Conv2D(32, 3, padding="same", activation="relu", name="stem")(inputs)
    y = keras.layers.Conv2D(40, 3, padding="same", activation="relu", name="inner")(y)
    y = keras.layers.Conv2D(32, 3, padding="same", name="outer")(y)
    x = keras.layers.Add()([x, y])
    x = keras.layers.Conv2D(48, 3, padding="same", activation="relu", name="last")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, keras.layers.Dense(4, name="classifier")(x), name="wide")


def deep_model() -> keras.Model:
    """A projected block whose branch comes first, a bottleneck and a basic block."""
    keras.utils.set_random_seed(0)

    def conv(x, width, name, size=3):
        return keras.layers.Conv2D(width, size, padding="same", name=name)(x)

    def relu_conv(x, width, name):
        x = keras.layers.BatchNormalization()(conv(x, width, name))
        return keras.layers.ReLU()(x)

    inputs = keras.Input((8, 8, 3), name="image")
    x = relu_conv(inputs, 16, "stem")
    y = conv(relu_conv(x, 32, "a1"), 24, "a2")
    x = keras.layers.ReLU()(keras.layers.Add()([y, conv(x, 24, "short", 1)]))
    y = conv(relu_conv(relu_conv(x, 16, "b1"), 24, "b2"), 24, "b3")
    x = keras.layers.ReLU()(keras.layers.Add()([x, y]))
    x = x + conv(relu_conv(x, 24, "c1"), 24, "c2")
    x = keras.layers.GlobalAveragePooling2D(name="pool")(keras.layers.ReLU()(x))
    return keras.Model(inputs, keras.layers.Dense(4, name="classifier")(x), name="deep")


def prune(bench, required=0.8, build=wide_model):
    return benches.prune(bench, LatencyBudget, required, build)


def judged(bench):
    return bench.run.journal.events(events.CandidateJudged)


def strategy(**fields):
    return {"name": "latency_budget", **fields}


def stop_reason(bench):
    return bench.run.journal.last(events.Stopped).reason


def test_the_target_is_reached_in_rounds(tmp_path):
    with benches.bench(tmp_path, strategy(target_speedup=3.0)) as bench:
        result = prune(bench)
        candidates = judged(bench)
        assert "target is reached" in stop_reason(bench)
    assert 1 / 3.6 < result.latency_ratio <= 1.02 / 3
    assert 2 <= len(candidates) <= 5
    assert {one.decision for one in candidates} == {events.ACCEPTED}
    # Each round removes units from several groups at once.
    assert max(len(one.removed) for one in candidates) >= 2


def test_a_target_in_milliseconds(tmp_path):
    with benches.bench(tmp_path / "probe", strategy(max_iterations=0)) as bench:
        whole_ms = prune(bench).latency.median_ms
    wanted = strategy(target_latency_ms=whole_ms / 2)
    with benches.bench(tmp_path / "run", wanted) as bench:
        assert prune(bench).latency.median_ms <= whole_ms / 2 * 1.02


def test_a_refused_round_is_taken_back_and_the_next_goes_half_as_far(tmp_path):
    def evaluate(model):
        return 0.9 if model.count_params() > 0.55 * wide_model().count_params() else 0.5

    used = benches.hooks(evaluate=evaluate)
    with benches.bench(tmp_path, strategy(target_speedup=4.0), used) as bench:
        result = prune(bench)
        candidates = judged(bench)
        reason = stop_reason(bench)
    refused = [one for one in candidates if one.decision == events.REFUSED_ACCURACY]
    assert refused and "half as far" in refused[0].reason
    assert result.accuracy == 0.9
    assert "accuracy binds" in reason and "target of 4x is not reached" in reason
    cuts = [one.measured.median_ms / one.current_latency_ms for one in refused]
    assert cuts == sorted(cuts) and len(set(cuts)) > 1


def test_without_a_target_it_goes_as_far_as_accuracy_allows(tmp_path):
    def evaluate(model):
        return 0.9 if model.count_params() > 0.3 * wide_model().count_params() else 0.5

    with benches.bench(tmp_path, strategy(), benches.hooks(evaluate=evaluate)) as bench:
        result = prune(bench)
        assert "accuracy binds" in stop_reason(bench)
    assert result.latency_ratio < 0.7 and result.accuracy == 0.9


def test_counts_that_cannot_go_lower_end_it_with_what_binds(tmp_path):
    wanted = strategy(target_speedup=50.0, max_pruned_fraction=0.5)
    with benches.bench(tmp_path, wanted) as bench:
        result = prune(bench)
        assert "max_pruned_fraction binds" in stop_reason(bench)
    assert result.latency_ratio < 0.6


def test_slack_lets_a_round_end_below_the_requirement(tmp_path):
    used = benches.hooks(evaluate=lambda model: 0.797)
    for slack, accepted in ((0.005, True), (0.001, False)):
        wanted = strategy(max_iterations=1, latency_budget={"round_slack": slack})
        with benches.bench(tmp_path / str(slack), wanted, used) as bench:
            prune(bench)
            (candidate,) = judged(bench)
        assert (candidate.decision == events.ACCEPTED) is accepted


def convolutions(model):
    return [layer.name for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]


def shallow(**fields):
    """Hardly any unit may go, unless its whole branch goes."""
    return strategy(target_speedup=4.0, max_pruned_fraction=0.1, **fields)


def test_branches_vanish_over_several_rounds_also_after_a_kill(tmp_path):
    rounds = shallow(latency_budget={"num_rounds": 3})
    with benches.bench(tmp_path / "whole", rounds) as bench:
        result = prune(bench, build=deep_model)
        expected = [(one.key, one.removed, one.decision) for one in judged(bench)]
        planned = bench.run.journal.events(events.CandidatePlanned)
        layers = convolutions(result.model)
    assert result.latency_ratio < 0.4 and len(expected) >= 2
    assert "without the branch" in planned[0].reason and len(planned[0].removed) > 0
    assert {"a2", "b3", "c2"} - set(layers) and "short" in layers
    replayed = result.history.replay(deep_model())
    assert convolutions(replayed) == layers
    for one, two in zip(replayed.get_weights(), result.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    trained = []

    def dying(model):
        trained.append(model)
        if len(trained) == 2:
            raise Killed

    with (
        pytest.raises(Killed),
        benches.bench(tmp_path / "killed", rounds, benches.hooks(train=dying)) as bench,
    ):
        prune(bench, build=deep_model)
    with benches.bench(tmp_path / "killed", rounds) as bench:
        resumed = prune(bench, build=deep_model)
        assert [(one.key, one.removed, one.decision) for one in judged(bench)] == expected
    assert convolutions(resumed.model) == layers


def test_without_depth_every_branch_stays(tmp_path):
    wanted = shallow(latency_budget={"depth": False})
    with benches.bench(tmp_path, wanted) as bench:
        result = prune(bench, build=deep_model)
        assert "max_pruned_fraction binds" in stop_reason(bench)
    before = {group.name for group in result.channels.groups}
    assert before == {"stem", "a1", "a2", "b1", "b2", "c1", "classifier"}


@pytest.mark.slow
def test_depth_changes_nothing_where_no_branch_may_vanish(tmp_path):
    decisions = []
    for depth in (True, False):
        wanted = strategy(target_speedup=2.0, latency_budget={"depth": depth})
        with benches.bench(tmp_path / str(depth), wanted) as bench:
            benches.prune(bench, LatencyBudget, 0.8, benches.small_model)
            decisions.append([(one.key, one.removed, one.reason) for one in judged(bench)])
    assert decisions[0] == decisions[1] != []


@pytest.mark.parametrize(
    "moment",
    [pytest.param("plan", marks=pytest.mark.slow), "measure", "train"],
)
def test_a_killed_run_decides_as_an_undisturbed_one_and_measures_nothing_twice(
    tmp_path, monkeypatch, moment
):
    with benches.bench(tmp_path / "whole", strategy(target_speedup=2.5)) as bench:
        prune(bench)
        expected = [(one.key, one.removed, one.decision) for one in judged(bench)]
        planned = bench.run.journal.events(events.CandidatePlanned)
    measured = measured_tasks(monkeypatch)
    kill = {"left": 2}

    def dying(original):
        def called(*arguments, **named):
            kill["left"] -= 1
            if kill["left"] == 0:
                raise Killed
            return original(*arguments, **named)

        return called

    with pytest.raises(Killed), monkeypatch.context() as patch:
        used = benches.hooks(
            train=dying(lambda model: None) if moment == "train" else lambda m: None
        )
        with benches.bench(tmp_path / "killed", strategy(target_speedup=2.5), used) as bench:
            if moment == "plan":
                patch.setattr(LatencyBudget, "_valued", dying(LatencyBudget._valued))
            if moment == "measure":
                patch.setattr(type(bench), "measure", dying(type(bench).measure))
            prune(bench)
    with benches.bench(tmp_path / "killed", strategy(target_speedup=2.5)) as bench:
        prune(bench)
        assert [(one.key, one.removed, one.decision) for one in judged(bench)] == expected
        assert len(bench.run.journal.events(events.CandidatePlanned)) == len(planned)
    assert len(measured) == len(set(measured))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"target_speedup": 0.5}, "0 or more than 1"),
        ({"target_speedup": 2.0, "target_latency_ms": 1.0}, "only one of them"),
        ({"target_latency_ms": -1.0}, "0 or more"),
        ({"latency_budget": {"num_rounds": 0}}, "1 or more"),
        ({"latency_budget": {"round_ratio": 1.0}}, r"a number in \(0, 1\)"),
        ({"latency_budget": {"smallest_cut": 0.0}}, r"a number in \(0, 1\)"),
        ({"latency_budget": {"round_slack": -0.1}}, r"a number in \[0, 1\)"),
        ({"latency_budget": {"max_options": 1}}, "2 or more"),
        ({"latency_budget": {"solver_time_sec": 0.0}}, "a positive number"),
        ({"latency_budget": {"soft_start": {"epochs": -1}}}, r"soft_start\.epochs is -1; .* more"),
        ({"latency_budget": {"soft_start": {"penalty": 0.0}}}, "penalty is 0.0; .* positive"),
        ({"latency_budget": {"soft_start": {"num_stages": 0}}}, "num_stages is 0; .* 1 or more"),
        ({"predictive": {"soft_start": {"epochs": -1}}}, r"predictive\.soft_start\.epochs is -1"),
    ],
)
def test_a_config_that_cannot_work_is_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        from_mapping({"strategy": fields}).validate()
