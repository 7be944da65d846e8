"""Uniform pruning and a global ranking over a runtime whose latencies are formulas."""

from __future__ import annotations

import json
import pathlib

import keras
import pytest

from cprune_tf import graph
from cprune_tf.config import ConfigError, from_mapping
from cprune_tf.runs import events
from cprune_tf.strategies.baselines import GlobalRanking, Uniform
from cprune_tf.strategies.planning.one_shot import smallest_amount

from . import benches, kills
from .latency_budget_test import wide_model

WHOLE = {"stem": 32, "inner": 40, "last": 48}
BOTH = pytest.mark.parametrize("kind", [Uniform, GlobalRanking])


class CostlyCalls(benches.TiledRuntime):
    """Whole models take 80 ms more than their tasks, which no price knows."""

    def build(self, model, path):
        pathlib.Path(path).write_text(json.dumps({"ms": self.tasks_ms(model) + 80}))


def prune(bench, kind, required=0.8, build=wide_model):
    return benches.prune(bench, kind, required, build)


def only(bench):
    (candidate,) = bench.run.journal.events(events.CandidateJudged)
    return candidate


def macs_ratio(model):
    return graph.statistics(model).macs / graph.statistics(wide_model()).macs


def put_back(kind, removed):
    """The largest ratio of MACs with one unit less removed: from each group, or from any one."""
    model = wide_model()
    channels = graph.analyze(model)
    return max(
        macs_ratio(
            graph.rebuild(
                model,
                {name: range(count - (name in names)) for name, count in removed.items()},
                graph=channels,
            )
        )
        for names in ([removed] if kind is Uniform else [{name} for name in removed])
    )


@BOTH
@pytest.mark.parametrize("ratio", [0.5, 0.8])
def test_the_target_of_macs_is_met_within_a_unit(tmp_path, kind, ratio):
    wanted = {"name": kind.name, kind.name: {"macs_ratio": ratio}}
    with benches.bench(tmp_path, wanted) as bench:
        result = prune(bench, kind)
        candidate = only(bench)
        assert "all that was planned" in bench.run.journal.last(events.Stopped).reason
    assert candidate.decision == events.ACCEPTED
    assert macs_ratio(result.model) <= ratio < put_back(kind, candidate.removed)
    assert f"{macs_ratio(result.model):.1%} of the MACs" in candidate.reason


def test_uniform_takes_the_same_fraction_from_every_group(tmp_path):
    with benches.bench(tmp_path, {"name": "uniform"}) as bench:
        prune(bench, Uniform)
        removed = only(bench).removed
    fractions = [removed[name] / count for name, count in WHOLE.items()]
    assert max(fractions) - min(fractions) < 1 / 32


def weak_last() -> keras.Model:
    """One group whose filters are all small, and of which every other one is smaller still."""
    model = wide_model()
    kernel, bias = model.get_layer("last").get_weights()
    kernel *= 1e-3
    kernel[..., ::2] *= 0.1
    model.get_layer("last").set_weights([kernel, bias])
    return model


def test_a_global_ranking_compares_units_with_their_group(tmp_path):
    wanted = {"name": "global_ranking", "global_ranking": {"macs_ratio": 0.8}}
    with benches.bench(tmp_path, wanted) as bench:
        prune(bench, GlobalRanking, build=weak_last)
        (planned,) = bench.run.journal.events(events.CandidatePlanned)
    # The group is not emptied for its small weights, but loses those that are small within it.
    assert set(planned.removed["last"]) <= set(range(0, 48, 2))
    assert len(planned.removed["last"]) > 3 * sum(map(len, planned.removed.values())) / 4


def test_a_global_ranking_leaves_every_group_its_part(tmp_path):
    wanted = {
        "name": "global_ranking",
        "max_pruned_fraction": 0.25,
        "global_ranking": {"macs_ratio": 0.1},
    }
    with benches.bench(tmp_path, wanted) as bench:
        prune(bench, GlobalRanking)
        candidate = only(bench)
    assert candidate.removed == {"stem": 8, "inner": 10, "last": 12}
    assert "max_pruned_fraction binds" in candidate.reason


@BOTH
def test_a_latency_target_is_met_by_the_whole_model(tmp_path, kind):
    wanted = {"name": kind.name, "target_speedup": 2.0}
    with benches.bench(tmp_path, wanted, runtime=CostlyCalls) as bench:
        result = prune(bench, kind)
        planned = bench.run.journal.events(events.CandidatePlanned)
        reason = bench.run.journal.last(events.Stopped).reason
    assert 0.6 / 2 < result.latency_ratio <= 1.02 / 2
    assert "target of 2x is reached" in reason
    # The first plan believed the prices, the next one corrects them.
    assert len(planned) > 1 and planned[-1].ratio < planned[0].ratio


@BOTH
def test_a_low_accuracy_is_refused(tmp_path, kind):
    with benches.bench(tmp_path, {"name": kind.name}) as bench:
        result = prune(bench, kind, required=0.95)
        candidate = only(bench)
    assert candidate.decision == events.REFUSED_ACCURACY and result.iteration == 0
    assert "accuracy 90.00% < 95.00%" in candidate.reason


@BOTH
@pytest.mark.parametrize("moment", [("plan", 1), ("measure", 1), ("train", 1)])
def test_a_killed_run_decides_as_an_undisturbed_one(tmp_path, monkeypatch, kind, moment):
    wanted = {"name": kind.name, "importance": "random"}
    runs = []
    for name in ("whole", "killed"):
        if name == "killed":
            with benches.bench(tmp_path / name, wanted) as bench, monkeypatch.context() as patch:
                kills.die_at(patch, bench, moment)
                with pytest.raises(kills.Killed):
                    prune(bench, kind, build=benches.small_model)
        with benches.bench(tmp_path / name, wanted) as bench:
            prune(bench, kind, build=benches.small_model)
            (planned,) = bench.run.journal.events(events.CandidatePlanned)
            (timed,) = bench.run.journal.events(events.CandidateMeasured)
            runs.append((planned, timed.removed, only(bench).decision, only(bench).reason))
    assert runs[0] == runs[1]


def test_the_smallest_amount_is_found_with_few_questions():
    asked = []

    def meets(amount):
        asked.append(amount)
        return amount >= 37

    assert smallest_amount(meets, 100) == 37 and len(asked) <= 8
    assert smallest_amount(meets, 36) is None
    assert smallest_amount(meets, 0) is None
    del asked[:]
    assert 37 <= smallest_amount(meets, 1000, max_questions=6) <= 37 + 1000 / 32
    assert len(asked) == 6


@BOTH
@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_a_config_that_cannot_work_is_refused(kind, ratio):
    with pytest.raises(ConfigError, match=rf"{kind.name}.macs_ratio is {ratio}; expected a number"):
        from_mapping({"strategy": {kind.name: {"macs_ratio": ratio}}}).validate()
