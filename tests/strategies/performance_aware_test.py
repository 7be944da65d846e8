"""Instructed channel counts over a runtime whose latencies are formulas."""

from __future__ import annotations

import pytest

from cprune_tf.config import ConfigError, from_mapping
from cprune_tf.latency.staircase import Stair, Staircase
from cprune_tf.runs import events
from cprune_tf.strategies.performance_aware import PerformanceAware, instructed_count

from . import benches, kills
from .latency_budget_test import wide_model

TILE = 8


class AwkwardRuntime(benches.TiledRuntime):
    """Counts that do not fill whole tiles take longer than larger ones that do."""

    def samples_ms(self, task):
        filters = task.argument_shapes[-1][1][-1]
        factor = 1.5 if filters % TILE else 1.0
        return tuple(factor * sample for sample in super().samples_ms(task))


def prune(bench, required=0.8, build=wide_model):
    return benches.prune(bench, PerformanceAware, required, build)


def judged(bench):
    return bench.run.journal.events(events.CandidateJudged)


def strategy(ratio=0.4, **fields):
    return {"name": "performance_aware", "performance_aware": {"ratio": ratio}, **fields}


def units_kept(candidate):
    whole = {"stem": 32, "inner": 40, "last": 48}
    return {name: count - candidate.removed.get(name, 0) for name, count in whole.items()}


def test_instructed_counts_are_right_edges_and_faster_than_their_twin(tmp_path):
    trained = []
    used = benches.hooks(lambda model: trained.append(model.get_layer("last").filters))
    with benches.bench(tmp_path, strategy(), used, AwkwardRuntime) as bench:
        result = prune(bench)
        twin, instructed = judged(bench)
        measured = bench.run.journal.events(events.CandidateMeasured)
        end = bench.run.journal.last(events.Stopped).reason
    assert units_kept(twin) == {"stem": 19, "inner": 24, "last": 29}
    assert units_kept(instructed) == {"stem": 24, "inner": 24, "last": 32}
    gain = measured[1].ratio / measured[0].ratio
    assert gain < 0.8
    assert twin.decision == events.REFUSED_LATENCY and twin.accuracy is None
    assert "the uninstructed twin" in twin.reason and "only measured" in twin.reason
    assert instructed.decision == events.ACCEPTED
    assert f"{gain:.1%} of the uninstructed twin's latency" in instructed.reason
    assert "80 units instead of 72, more in 2 of 3 groups" in instructed.reason
    # The twin is never trained.
    assert trained == [32] and result.model.get_layer("last").filters == 32
    assert "all that was planned is judged" in end


def test_there_is_no_twin_where_it_would_be_the_same_model(tmp_path):
    with benches.bench(tmp_path, strategy(ratio=0.5)) as bench:
        prune(bench, build=benches.small_model)
        (only,) = judged(bench)
    assert only.removed == {"first": 8, "second": 16}
    assert only.decision == events.ACCEPTED and "twin" not in only.reason


def test_the_smallest_ratio_that_meets_the_target_is_found(tmp_path):
    target = 3.0
    with benches.bench(tmp_path, strategy(target_speedup=target)) as bench:
        result = prune(bench)
        instructed = judged(bench)[-1]
        assert "target of" in (end := bench.run.journal.last(events.Stopped).reason)
    assert "not reached" not in end
    assert 0.7 / target < result.latency_ratio <= 1.02 / target
    assert all(count % TILE == 0 for count in units_kept(instructed).values())


def test_a_target_out_of_reach_says_what_binds(tmp_path):
    wanted = strategy(target_speedup=50.0, max_pruned_fraction=0.5)
    with benches.bench(tmp_path, wanted) as bench:
        prune(bench)
        instructed = judged(bench)[-1]
        assert "target of 50x is not reached" in bench.run.journal.last(events.Stopped).reason
    assert units_kept(instructed) == {"stem": 16, "inner": 24, "last": 24}
    assert "max_pruned_fraction binds" in instructed.reason


def test_a_low_accuracy_is_refused(tmp_path):
    with benches.bench(tmp_path, strategy()) as bench:
        result = prune(bench, 0.95, benches.small_model)
        instructed = judged(bench)[-1]
    assert instructed.decision == events.REFUSED_ACCURACY and result.iteration == 0
    assert "accuracy 90.00% < 95.00%" in instructed.reason


def test_a_ratio_too_small_to_gain_anything_ends_it(tmp_path):
    with benches.bench(tmp_path, strategy(ratio=0.05)) as bench:
        assert prune(bench, build=benches.small_model).iteration == 0
        assert "in no group are fewer units faster" in bench.run.journal.last(events.Stopped).reason
        assert not judged(bench)


@pytest.mark.parametrize("moment", [("plan", 2), ("measure", 2), ("train", 1)])
def test_a_killed_run_decides_as_an_undisturbed_one(tmp_path, monkeypatch, moment):
    wanted = strategy(target_speedup=1.3)
    with benches.bench(tmp_path / "whole", wanted) as bench:
        prune(bench, build=benches.small_model)
        expected = [(one.key, one.removed, one.decision, one.reason) for one in judged(bench)]
    measured = kills.measured_tasks(monkeypatch)
    with benches.bench(tmp_path / "killed", wanted) as bench, monkeypatch.context() as patch:
        kills.die_at(patch, bench, moment)
        with pytest.raises(kills.Killed):
            prune(bench, build=benches.small_model)
    with benches.bench(tmp_path / "killed", wanted) as bench:
        prune(bench, build=benches.small_model)
        again = [(one.key, one.removed, one.decision, one.reason) for one in judged(bench)]
        timed = [one.index for one in bench.run.journal.events(events.CandidateMeasured)]
        planned = [one.index for one in bench.run.journal.events(events.CandidatePlanned)]
    assert again == expected
    assert sorted(timed) == [0, 1]
    # A plan that the kill cut short is made again, from what was measured for it.
    assert planned == ([1, 1, 0] if moment[0] == "plan" else [1, 0])
    assert len(measured) == len(set(measured))


def staircase(**latencies_ms):
    stairs = [Stair(int(count[1:]), ms, 0.0, 0.0) for count, ms in latencies_ms.items()]
    return Staircase("conv", ("conv",), stairs[-1].count, 0.0, tuple(stairs))


@pytest.mark.parametrize(
    ("uniform", "expected"),
    [
        (16, 16),
        (15, 16),
        # 20 to 23 units take longer than 24, which differ from 25 by noise alone.
        (17, 25),
        (20, 25),
        (26, 32),
        (32, 32),
    ],
)
def test_the_instructed_count_is_the_right_edge_at_or_above(uniform, expected):
    measured = staircase(n8=1.0, n16=2.0, n20=4.0, n24=2.99, n25=3.0, n26=5.0, n32=4.0)
    assert instructed_count(measured, uniform) == expected


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ratio": 0.0}, r"ratio is 0.0; expected a number in \(0, 1\)"),
        ({"ratio": 1.0}, r"a number in \(0, 1\)"),
        ({"max_points": 1}, "2 or more"),
    ],
)
def test_a_config_that_cannot_work_is_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        from_mapping({"strategy": {"performance_aware": fields}}).validate()
