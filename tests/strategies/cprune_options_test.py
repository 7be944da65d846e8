"""CPrune's ways to search and its options beyond the paper, over a runtime made of formulas."""

from __future__ import annotations

import collections
from typing import ClassVar

import pytest

from cprune_tf.config import ConfigError, from_mapping
from cprune_tf.latency.staircase import Stair, Staircase
from cprune_tf.runs import events
from cprune_tf.runs.events import REFUSED_ACCURACY, REFUSED_LATENCY
from cprune_tf.strategies.cprune import CPrune, Decisions
from cprune_tf.strategies.planning.steps import larger_as_fast

from . import benches, kills
from .latency_budget_test import wide_model

EASY = {"alpha": 0.5, "beta": 0.95}


class KeepingRuntime(benches.TiledRuntime):
    """Keeps what it measured in a database that outlives it, as a real runtime does.

    Attributes:
        databases: Trials by task, by the run's folder.
        prices: Names of the tasks that were measured to price a model, over all runs.
    """

    databases: ClassVar[dict] = collections.defaultdict(collections.Counter)
    prices: ClassVar[list] = []

    def __init__(self, device, options):
        super().__init__(device, options)
        self.database = self.databases[options.workdir]
        self.measured = set(self.database)

    def tune(self, model, trials_per_task, progress=None):
        super().tune(model, trials_per_task, progress)
        for task in model.tasks:
            self.database[task.key] += max(0, trials_per_task - self.database[task.key])

    def price(self, candidate, current, on_task=None):
        missing = [task for task in candidate.tasks if task.key not in self.measured]
        self.prices.extend(task.name for task in missing)
        return super().price(candidate, current, on_task)


@pytest.fixture(autouse=True)
def nothing_priced():
    KeepingRuntime.prices.clear()


def strategy(max_iterations=40, **fields):
    return {"max_iterations": max_iterations, "cprune": {**EASY, **fields}}


def judged(bench):
    return bench.run.journal.events(events.CandidateJudged)


def decisions(bench):
    return [(one.key, dict(one.removed), one.decision) for one in judged(bench)]


def ruled_out(bench):
    return bench.run.journal.events(events.CountRuledOut)


def steps_of(found):
    return [(one.key, one.step) for one in found]


def units_left(result):
    return [result.model.get_layer(name).filters for name in ("first", "second")]


# Search.


@pytest.mark.parametrize("build", [benches.small_model, wide_model])
def test_both_searches_decide_alike_where_tuning_changes_nothing(tmp_path, build):
    with benches.bench(tmp_path / "transfer", strategy(), runtime=KeepingRuntime) as bench:
        benches.prune(bench, CPrune, build=build)
        accepted = decisions(bench)
        too_slow = steps_of(ruled_out(bench))
        stop = bench.run.journal.last(events.Stopped).reason
    assert KeepingRuntime.prices and too_slow
    KeepingRuntime.prices.clear()
    wanted = strategy(search="retune")
    with benches.bench(tmp_path / "retune", wanted, runtime=KeepingRuntime) as bench:
        benches.prune(bench, CPrune, build=build)
        refused = [one for one in judged(bench) if one.decision == REFUSED_LATENCY]
        assert [one for one in decisions(bench) if one[2] != REFUSED_LATENCY] == accepted
        assert steps_of(refused) == too_slow
        assert bench.run.journal.last(events.Stopped).reason == stop
        # No step is ruled out, and nothing is priced by transfer.
        assert not ruled_out(bench) and not KeepingRuntime.prices
        assert all(one.measured and one.price_ms is None for one in judged(bench))
        assert "its tuned tasks take" in judged(bench)[0].reason


def test_every_candidate_is_tuned_as_much_as_the_original(tmp_path):
    wanted = strategy(max_iterations=3, search="retune")
    with benches.bench(tmp_path, wanted, runtime=KeepingRuntime) as bench:
        benches.prune(bench, CPrune)
        trials = bench.config.tuning.trials_per_task
        assert set(bench.runtime.database.values()) == {trials}
        log = bench.run.log_path.read_text()
    # The classifier of the original, both convolutions, and those tasks that a candidate changed.
    assert "Tune candidate 1: begins" in log and "Tune candidate 3: begins" in log
    assert len(bench.runtime.database) > 3


@pytest.mark.parametrize(
    ("moment", "tuned"),
    [
        (("tune_candidate", 4), [3, 4]),
        (("measure", 4), [3, 4]),
        # The fourth candidate's latency is in the journal: it is not tuned again.
        (("train", 2), [4]),
    ],
)
def test_a_killed_search_tunes_nothing_twice(tmp_path, monkeypatch, moment, tuned):
    wanted = strategy(max_iterations=5, search="retune")
    with benches.bench(tmp_path / "whole", wanted, runtime=KeepingRuntime) as bench:
        benches.prune(bench, CPrune)
        expected, database = decisions(bench), bench.runtime.database
    with (
        benches.bench(tmp_path / "killed", wanted, runtime=KeepingRuntime) as bench,
        monkeypatch.context() as patch,
    ):
        kills.die_at(patch, bench, moment)
        with pytest.raises(kills.Killed):
            benches.prune(bench, CPrune)
        before = len(bench.run.log_path.read_text())
    with benches.bench(tmp_path / "killed", wanted, runtime=KeepingRuntime) as bench:
        benches.prune(bench, CPrune)
        assert decisions(bench) == expected
        assert bench.runtime.database == database
        log = bench.run.log_path.read_text()[before:]
    assert [n for n in range(5) if f"Tune candidate {n + 1}: begins" in log] == tuned


# Half as many filters after a refused accuracy.


def accuracy_by_width(least_second):
    """Returns an accuracy that falls where the second layer has fewer filters than it needs."""

    def evaluate(model):
        return 0.9 if model.get_layer("second").filters >= least_second else 0.1

    return evaluate


class FineRuntime(benches.TiledRuntime):
    """Every removed filter makes a model faster."""

    def samples_ms(self, task):
        _, (_, kernel), _ = task.argument_shapes
        return (0.001 * kernel[-1] * kernel[-2],) * 3


def fine(tmp_path, wanted, evaluate, runtime=FineRuntime):
    return benches.bench(tmp_path, wanted, benches.hooks(evaluate=evaluate), runtime)


def test_a_refused_target_is_tried_with_half_until_half_is_none(tmp_path):
    wanted = strategy(beta=0.999, halve_after_refusal=True)
    with fine(tmp_path, wanted, accuracy_by_width(29)) as bench:
        result = benches.prune(bench, CPrune)
        second = [one for one in judged(bench) if "second" in one.removed]
    tried = [(one.key, one.step, one.decision) for one in second]
    assert tried == [
        ("second@32", 4, REFUSED_ACCURACY),
        ("second@32", 2, events.ACCEPTED),
        # What was too much stays the limit, also for the smaller model.
        ("second@30", 2, REFUSED_ACCURACY),
        ("second@30", 1, events.ACCEPTED),
        ("second@29", 1, REFUSED_ACCURACY),
    ]
    assert units_left(result)[1] == 29


def test_half_that_is_too_slow_ends_it(tmp_path):
    wanted = strategy(halve_after_refusal=True)
    with fine(tmp_path, wanted, accuracy_by_width(32), benches.TiledRuntime) as bench:
        result = benches.prune(bench, CPrune)
        second = [one for one in judged(bench) if "second" in one.removed]
    # Steps of 4 had been ruled out before the step of 8 was refused: half of it is known.
    assert [(one.step, one.decision) for one in second] == [(8, REFUSED_ACCURACY)]
    assert units_left(result) == [8, 32]


def test_without_the_option_the_target_is_banned_at_once(tmp_path):
    with fine(tmp_path, strategy(beta=0.999), accuracy_by_width(29)) as bench:
        result = benches.prune(bench, CPrune)
        second = [one for one in judged(bench) if "second" in one.removed]
    assert [one.step for one in second] == [4] and units_left(result)[1] == 32


def test_a_ban_follows_the_last_half():
    state = Decisions(halve=True)
    state.rule_out("a@16", 3)
    state.record("a@16", ("b", "a"), 8, REFUSED_ACCURACY)
    assert state.too_inaccurate == {("a", "b"): 8} and not state.banned
    state.record("a@16", ("b", "a"), 4, REFUSED_ACCURACY)
    assert state.banned == {("a", "b")}
    state.record("c@16", ("c",), 1, REFUSED_ACCURACY)
    assert ("c",) in state.banned


@pytest.mark.parametrize("search", ["transfer", "retune"])
def test_halving_goes_on_after_a_kill(tmp_path, monkeypatch, search):
    wanted = strategy(beta=0.999, halve_after_refusal=True, search=search, max_iterations=6)
    evaluate = accuracy_by_width(29)

    class Runtime(KeepingRuntime, FineRuntime):
        pass

    with fine(tmp_path / "whole", wanted, evaluate, Runtime) as bench:
        benches.prune(bench, CPrune)
        expected = decisions(bench)
    with (
        fine(tmp_path / "killed", wanted, evaluate, Runtime) as bench,
        monkeypatch.context() as patch,
    ):
        kills.die_at(patch, bench, ("train", 4))
        with pytest.raises(kills.Killed):
            benches.prune(bench, CPrune)
    with fine(tmp_path / "killed", wanted, evaluate, Runtime) as bench:
        benches.prune(bench, CPrune)
        assert decisions(bench) == expected
    assert REFUSED_ACCURACY in [one[2] for one in expected[:3]]


# Counts that a staircase rules out.


def staircase(**latencies_ms):
    stairs = [Stair(int(count[1:]), ms, 0.0, 0.0) for count, ms in latencies_ms.items()]
    return Staircase("conv", ("conv",), stairs[-1].count, 1.0, tuple(stairs))


@pytest.mark.parametrize(
    ("count", "units", "expected"),
    [
        # Slower than a larger count, or not faster by the tolerance.
        (20, 32, (24, 5 / 4)),
        (24, 32, None),
        (25, 32, (30, 5.99 / 4.95)),
        (30, 32, (32, 4.95 / 5.0)),
        # Not measured, or nothing larger was.
        (28, 32, None),
        (32, 32, None),
        # The model has fewer units than the count that would be as fast.
        (20, 22, None),
        (16, 20, None),
    ],
)
def test_a_count_is_ruled_out_by_a_larger_one_that_is_as_fast(count, units, expected):
    measured = staircase(n16=2.0, n20=4.0, n24=3.0, n25=4.99, n30=3.95, n32=4.0)
    found = larger_as_fast(measured, count, units)
    assert found == (expected and (expected[0], pytest.approx(expected[1])))


def test_counts_that_a_staircase_rules_out_are_not_priced(tmp_path):
    with benches.bench(tmp_path / "priced", strategy(), runtime=KeepingRuntime) as bench:
        benches.prune(bench, CPrune)
        expected, priced = decisions(bench), ruled_out(bench)
    wanted = strategy(skip_by_staircase=True)
    with benches.bench(tmp_path / "skipped", wanted, runtime=KeepingRuntime) as bench:
        benches.prune(bench, CPrune)
        assert decisions(bench) == expected
        skipped = [one for one in ruled_out(bench) if "by its staircase" in one.reason]
        assert steps_of(ruled_out(bench)) == steps_of(priced)
    assert ("second@32", 4) in steps_of(skipped)
    assert all(one.price_ratio >= 0.98 for one in skipped)
    assert "second with 32 units is as fast as with 28" in skipped[0].reason


def test_a_killed_run_measures_no_staircase_twice(tmp_path, monkeypatch):
    wanted = strategy(max_iterations=3, skip_by_staircase=True, search="retune")
    with benches.bench(tmp_path / "whole", wanted, runtime=KeepingRuntime) as bench:
        benches.prune(bench, CPrune)
        expected = decisions(bench)
    measured = kills.measured_tasks(monkeypatch)
    with (
        benches.bench(tmp_path / "killed", wanted, runtime=KeepingRuntime) as bench,
        monkeypatch.context() as patch,
    ):
        kills.die_at(patch, bench, ("train", 2))
        with pytest.raises(kills.Killed):
            benches.prune(bench, CPrune)
    with benches.bench(tmp_path / "killed", wanted, runtime=KeepingRuntime) as bench:
        benches.prune(bench, CPrune)
        assert decisions(bench) == expected
        steps = steps_of(ruled_out(bench))
    assert measured and len(measured) == len(set(measured))
    assert steps and len(steps) == len(set(steps))


def test_an_unknown_search_is_refused():
    with pytest.raises(
        ConfigError, match=r"cprune.search is 'guess'; expected one of transfer, retune"
    ):
        from_mapping({"strategy": {"cprune": {"search": "guess"}}}).validate()


def test_a_runtime_without_programs_is_refused_before_any_work():
    config = from_mapping({"runtime": "litert", "strategy": {"name": "cprune"}})
    with pytest.raises(ConfigError, match="runtime litert float32 does not expose programs"):
        CPrune.check(config, benches.hooks())
    CPrune.check(from_mapping({}), benches.hooks())
