"""Predicted rounds over a runtime whose latencies are formulas."""

from __future__ import annotations

import pytest

from cprune_tf.config import ConfigError, from_mapping
from cprune_tf.latency.points import POINT_EVENTS, TaskPoint
from cprune_tf.runs import events, read_records
from cprune_tf.strategies.latency_budget import LatencyBudget
from cprune_tf.strategies.predictive import Predictive

from . import benches
from .kills import Killed
from .latency_budget_test import deep_model, wide_model


def prune(bench, strategy=Predictive, required=0.8):
    return benches.prune(bench, strategy, required, wide_model)


def wanted(**fields):
    return {"name": "predictive", "target_speedup": 2.5, **fields}


def num_points(workdir):
    records = read_records(workdir / "points.jsonl", POINT_EVENTS)
    return sum(isinstance(record.event, TaskPoint) for record in records)


def test_it_reaches_the_target_with_fewer_measurements(tmp_path):
    with benches.bench(tmp_path / "predictive", wanted()) as bench:
        result = prune(bench)
        candidates = bench.run.journal.events(events.CandidateJudged)
        assert "target is reached" in bench.run.journal.last(events.Stopped).reason
    assert result.latency_ratio <= 1.03 / 2.5
    with benches.bench(tmp_path / "exact", wanted(name="latency_budget")) as bench:
        prune(bench, LatencyBudget)
    assert num_points(tmp_path / "predictive") < 0.75 * num_points(tmp_path / "exact")
    # Every reason compares what was predicted with what was timed.
    for one in candidates:
        assert "predicted: " in one.reason and "side by side" in one.reason


def test_what_is_refused_for_accuracy_is_not_timed(tmp_path):
    used = benches.hooks(evaluate=lambda model: 0.5)
    with benches.bench(tmp_path, wanted(), used) as bench:
        prune(bench)
        candidates = bench.run.journal.events(events.CandidateJudged)
        assert not bench.run.journal.events(events.CandidateMeasured)
        assert "accuracy binds" in bench.run.journal.last(events.Stopped).reason
    assert candidates and {one.decision for one in candidates} == {events.REFUSED_ACCURACY}
    assert all(one.measured is None and "not timed" in one.reason for one in candidates)


def test_branches_vanish_where_hardly_a_unit_may_go(tmp_path):
    with benches.bench(tmp_path, wanted(max_pruned_fraction=0.1)) as bench:
        result = benches.prune(bench, Predictive, 0.8, deep_model)
        planned = bench.run.journal.events(events.CandidatePlanned)
    assert result.latency_ratio <= 1.03 / 2.5
    assert any("without the branch" in one.reason for one in planned)
    assert len(result.model.layers) < len(deep_model().layers)


def test_a_killed_run_decides_as_an_undisturbed_one(tmp_path):
    with benches.bench(tmp_path / "whole", wanted()) as bench:
        prune(bench)
        judged = bench.run.journal.events(events.CandidateJudged)
        expected = [(one.key, one.removed, one.decision) for one in judged]
    calls = []

    def dying(model):
        calls.append(model)
        if len(calls) == 2:
            raise Killed

    with (
        pytest.raises(Killed),
        benches.bench(tmp_path / "killed", wanted(), benches.hooks(train=dying)) as bench,
    ):
        prune(bench)
    with benches.bench(tmp_path / "killed", wanted()) as bench:
        prune(bench)
        judged = bench.run.journal.events(events.CandidateJudged)
        assert [(one.key, one.removed, one.decision) for one in judged] == expected


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_assignments": 0}, "1 or more"),
        ({"trusted_deviation": 1.0}, r"a number in \(0, 1\)"),
        ({"num_rounds": 0}, "1 or more"),
    ],
)
def test_a_config_that_cannot_work_is_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        from_mapping({"strategy": {"predictive": fields}}).validate()
