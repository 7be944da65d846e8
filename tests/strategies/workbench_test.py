"""What strategies share, and CPrune's proposals, over a runtime whose latencies are formulas."""

from __future__ import annotations

import pytest

from cprune_tf import importance
from cprune_tf.config import ConfigError, from_mapping
from cprune_tf.runs import events
from cprune_tf.strategies import registry
from cprune_tf.strategies.cprune import CPrune
from tests.docs_examples import run_section

from . import benches
from .benches import prune

EASY = {"alpha": 0.5, "beta": 0.95}


def judged(bench):
    return bench.run.journal.events(events.CandidateJudged)


def test_no_candidate_is_a_count_that_its_price_rules_out(tmp_path):
    """Filters go in tiles of 4, latency in steps of 8: every other count is awkward."""
    with benches.bench(tmp_path, {"max_iterations": 20, "cprune": EASY}) as bench:
        result = prune(bench, CPrune)
        ruled_out = bench.run.journal.events(events.CountRuledOut)
        candidates = judged(bench)
    assert {(event.key, event.step) for event in ruled_out} >= {("second@32", 4), ("first@16", 4)}
    assert all(event.price_ratio > 0.95 for event in ruled_out)
    assert candidates and {one.decision for one in candidates} == {events.ACCEPTED}
    assert all(one.step % 8 == 0 for one in candidates)
    # Each count is asked about once, and never proposed after all.
    asked = [(event.key, event.step) for event in ruled_out]
    assert len(asked) == len(set(asked))
    assert not set(asked) & {(one.key, one.step) for one in candidates}
    assert result.latency_ratio < 0.5


def test_it_ends_where_the_target_is_reached(tmp_path):
    wanted = {"max_iterations": 20, "target_speedup": 1.3, "cprune": EASY}
    with benches.bench(tmp_path, wanted) as bench:
        result = prune(bench, CPrune)
        assert "target is reached" in bench.run.journal.last(events.Stopped).reason
    assert 0.5 < result.latency_ratio <= 1 / 1.3


def test_reasons_name_the_ratio_side_by_side_before_the_milliseconds(tmp_path):
    with benches.bench(tmp_path, {"max_iterations": 1, "cprune": EASY}) as bench:
        prune(bench, CPrune)
        (candidate,) = judged(bench)
    ratio, times = candidate.reason.split("side by side")
    assert "% of the current model's latency" in ratio and "ms" in times


def test_a_refused_accuracy_bans_the_groups_and_the_rest_goes_on(tmp_path):
    def evaluate(model):
        return 0.9 if model.get_layer("second").filters == 32 else 0.1

    strategy = {"max_iterations": 20, "cprune": EASY}
    with benches.bench(tmp_path, strategy, benches.hooks(evaluate=evaluate)) as bench:
        result = prune(bench, CPrune)
        refused = [one for one in judged(bench) if one.decision == events.REFUSED_ACCURACY]
    assert len(refused) == 1 and set(refused[0].removed) == {"second"}
    assert result.model.get_layer("second").filters == 32
    assert result.model.get_layer("first").filters == 8


class InterruptedTrainingError(Exception):
    pass


def test_a_run_that_breaks_off_goes_on_with_the_same_candidate_and_measures_nothing_again(tmp_path):
    strategy = {"max_iterations": 3, "importance": "random", "cprune": EASY}
    trained = []

    def train(model):
        trained.append([layer.name for layer in model.layers])
        if len(trained) == 2:
            raise InterruptedTrainingError

    with benches.bench(tmp_path / "broken", strategy, benches.hooks(train)) as bench:
        with pytest.raises(InterruptedTrainingError):
            prune(bench, CPrune)
        broken = bench.run.journal.last(events.CandidateMeasured)
        assert len(judged(bench)) == 1 and broken.index == 1
    with benches.bench(tmp_path / "broken", strategy) as bench:
        prune(bench, CPrune)
        measured = bench.run.journal.events(events.CandidateMeasured)
        resumed = [(one.key, dict(one.removed), one.decision) for one in judged(bench)]
    assert [one.index for one in measured] == [0, 1, 2]
    with benches.bench(tmp_path / "whole", strategy) as bench:
        prune(bench, CPrune)
        whole = [(one.key, dict(one.removed), one.decision) for one in judged(bench)]
        units = bench.run.journal.events(events.CandidateMeasured)
    assert resumed == whole
    assert [one.removed for one in measured] == [one.removed for one in units]


def test_a_finished_strategy_does_nothing_more(tmp_path):
    strategy = {"max_iterations": 2, "cprune": EASY}
    with benches.bench(tmp_path, strategy) as bench:
        prune(bench, CPrune)
        before = len(judged(bench))
    with benches.bench(tmp_path, strategy) as bench:
        prune(bench, CPrune)
        assert len(judged(bench)) == before == 2
        assert bench.runtime.num_timed == 0


def test_what_training_does_is_a_stage_of_its_own_in_the_log(tmp_path):
    with benches.bench(tmp_path, {"max_iterations": 1, "cprune": EASY}) as bench:

        def train(model):
            bench.progress.innermost(3, 4, "loss 0.5")
            assert bench.progress.innermost is not None

        object.__setattr__(bench, "hooks", benches.hooks(train))
        prune(bench, CPrune)
        log = bench.run.log_path.read_text()
    assert "Train candidate 1: begins" in log and "3/4; loss 0.5" in log


@pytest.fixture
def same_share():
    """The documentation's strategy, forgotten again afterwards."""
    yield run_section("extending.md", "Adding a strategy")["SameShare"]
    registry._REGISTERED.pop("same_share")


def test_the_strategy_of_the_documentation_prunes(same_share, tmp_path):
    strategy = {"name": "same_share", "same_share": {"fraction": 0.5}}
    with benches.bench(tmp_path, strategy) as bench:
        assert bench.config.strategy.same_share.fraction == 0.5
        result = prune(bench, same_share)
        (candidate,) = judged(bench)
    assert candidate.decision == events.ACCEPTED
    assert candidate.removed == {"first": 8, "second": 16}
    assert [result.model.get_layer(name).filters for name in ("first", "second")] == [8, 16]
    # It resumes as well: the one candidate is not tried again.
    with benches.bench(tmp_path, strategy) as bench:
        prune(bench, same_share)
        assert len(judged(bench)) == 1


def test_a_strategys_own_fields_are_checked_and_named(same_share):
    with pytest.raises(
        ConfigError, match=r"strategy.same_share.fraction is 2.0; expected a number"
    ):
        from_mapping({"strategy": {"same_share": {"fraction": 2.0}}})
    with pytest.raises(ConfigError, match=r"Did you mean config.strategy.same_share.fraction"):
        from_mapping({"strategy": {"fraction": 0.5}})
    with pytest.raises(
        ConfigError, match=r"strategy.name is 'none'; expected one of .*, same_share"
    ):
        from_mapping({"strategy": {"name": "none"}})


def test_the_criterion_of_the_documentation_chooses_units(tmp_path):
    run_section("extending.md", "Adding an importance criterion")
    try:
        strategy = {"max_iterations": 1, "importance": "largest_weight", "cprune": EASY}
        with benches.bench(tmp_path, strategy) as bench:
            prune(bench, CPrune)
            assert len(judged(bench)) == 1
    finally:
        importance.registry._criteria.pop("largest_weight")


def test_the_runtime_of_the_documentation_is_known_by_name():
    from cprune_tf.runtimes import find_runtime
    from cprune_tf.runtimes import registry as runtimes

    shown = run_section("extending.md", "Adding a runtime")["MyRuntime"]
    try:
        assert find_runtime("my_runtime", "int8") is shown
        with pytest.raises(ConfigError, match=r"float16.*float32, int8"):
            find_runtime("my_runtime", "float16")
    finally:
        runtimes._CLASSES.pop("my_runtime")
