"""The strategies patdnn and latency_budget+patdnn, over a runtime whose latencies are formulas."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from cprune_tf import graph, sparse
from cprune_tf.config import ConfigError, from_mapping
from cprune_tf.runs import events
from cprune_tf.strategies.budget_then_patterns import BudgetThenPatterns
from cprune_tf.strategies.patdnn import PatDnn
from cprune_tf.strategies.workbench.sparse_training import train_accepted
from cprune_tf.training.pattern_training import CONNECTIVITY, PATTERNS, Projected

from . import benches
from .kills import Killed
from .latency_budget_test import wide_model


class Training:
    """Projects, and moves weights that may move; dies in the given call of a kind."""

    def __init__(self, fatal=""):
        self.calls, self.towards = [], []
        self._fatal = fatal

    def _called(self, kind):
        self.calls.append(kind)
        if kind == self._fatal:
            raise Killed

    def train_patterns(self, model, towards):
        self._called("patterns")
        self.towards.append(towards)
        told = {PATTERNS: 0.5, CONNECTIVITY: 0.25}
        return Projected(sparse.project_model(model, towards.constraints), (told, told))

    def short_term_train(self, model, kept):
        self._trained(model, kept, "short")

    def long_term_train(self, model, kept):
        self._trained(model, kept, "long")

    def _trained(self, model, kept, kind):
        for name, one in kept.items():
            kernel = sparse.kernel_of(model, name)
            kernel.assign((np.asarray(kernel) + 1.0) * one.mask())
        self._called(kind)

    def hooks(self, accuracy=0.9):
        usual = benches.hooks(lambda model: self.calls.append("filters"), lambda model: accuracy)
        return dataclasses.replace(usual, patterns=self)


def zeros(model, name="second"):
    return np.asarray(model.get_layer(name).kernel) == 0


def run(workdir, training, strategy=None, accuracy=0.9, cls=PatDnn, build=None, name="patdnn"):
    with benches.bench(workdir, {"name": name, **(strategy or {})}, training.hooks(accuracy)) as b:
        result = benches.prune(b, cls, 0.8, build)
        return result, b.run.journal.events(events.CandidateJudged), b.run.journal


def test_the_original_gets_patterns_once_and_no_latency_refuses_it(tmp_path):
    training = Training()
    result, (judged,), journal = run(tmp_path, training)
    assert judged.decision == events.ACCEPTED and not judged.removed
    assert "8 patterns in 2 layers" in judged.reason
    # The formulas know nothing of zeros, so it is as slow as before.
    assert result.latency_ratio == 1 and result.iteration == 1
    assert training.calls == ["patterns", "short"]
    event = journal.last(events.PatternsTrained)
    assert [one.connectivity for one in event.epochs] == [0.25, 0.25]
    first, second = event.layers
    assert (first.num_kernels, first.num_kept) == (48, 48)
    # Each of the 32 filters keeps equally many.
    assert (second.num_kernels, second.num_kept) == (512, 32 * round(16 / 3.6))
    assert second.num_weights == 4 * second.num_kept
    mask = sparse.load_kept(tmp_path / event.kept)["second"].mask()
    np.testing.assert_array_equal(zeros(result.model), ~mask)
    assert mask.sum() == second.num_weights
    assert sum(one.used_share for one in event.patterns) == pytest.approx(1)
    assert all(len(one.entries) == 4 and 4 in one.entries for one in event.patterns)


def test_an_inaccurate_result_is_refused_with_the_slack(tmp_path):
    _, (judged,), journal = run(tmp_path / "below", Training(), accuracy=0.77)
    assert judged.decision == events.REFUSED_ACCURACY and judged.measured is None
    assert not journal.events(events.CandidateMeasured)
    _, (judged,), _ = run(tmp_path / "within", Training(), accuracy=0.785)
    assert judged.decision == events.ACCEPTED


@pytest.mark.parametrize(
    ("fatal", "repeated"),
    [("patterns", ["patterns", "short"]), ("short", ["short"])],
)
def test_a_killed_run_ends_as_an_undisturbed_one(tmp_path, fatal, repeated):
    whole, *_ = run(tmp_path / "whole", Training())
    with pytest.raises(Killed):
        run(tmp_path / "killed", Training(fatal))
    resumed = Training()
    result, judged, journal = run(tmp_path / "killed", resumed)
    assert resumed.calls == repeated
    assert len(judged) == len(journal.events(events.PatternsTrained)) == 1
    for one, two in zip(result.model.get_weights(), whole.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_long_term_training_keeps_the_zeros_of_that_iteration_alone(tmp_path):
    training = Training()
    with benches.bench(tmp_path, {"name": "patdnn"}, training.hooks()) as bench:
        result = benches.prune(bench, PatDnn, 0.8)
        before = zeros(result.model)
        train_accepted(bench, result.model, 1)
    assert training.calls == ["patterns", "short", "long"]
    np.testing.assert_array_equal(zeros(result.model), before)


def test_filters_go_first_and_what_is_left_gets_patterns(tmp_path):
    training = Training()
    strategy = {"target_speedup": 2.0, "max_iterations": 6}
    options = {"cls": BudgetThenPatterns, "build": wide_model, "name": "latency_budget+patdnn"}
    result, judged, journal = run(tmp_path, training, strategy, **options)
    *filters, last = judged
    assert filters and all(one.removed for one in filters)
    assert last.key == "patterns" and not last.removed and last.decision == events.ACCEPTED
    assert training.calls == ["filters"] * len(filters) + ["patterns", "short"]
    assert result.latency_ratio <= 0.51
    assert result.iteration == 1 + sum(one.decision == events.ACCEPTED for one in filters)
    assert journal.last(events.PatternsTrained).index == len(filters)
    name = journal.last(events.PatternsTrained).layers[-1].name
    assert zeros(result.model, name).any()
    again, judged_again, _ = run(tmp_path, Training(), strategy, **options)
    assert judged_again == judged and again.iteration == result.iteration


def test_one_candidate_of_the_limit_is_kept_for_the_patterns(tmp_path):
    strategy = {"target_speedup": 4.0, "max_iterations": 1}
    options = {"cls": BudgetThenPatterns, "name": "latency_budget+patdnn"}
    _, judged, _ = run(tmp_path, Training(), strategy, **options)
    assert [one.key for one in judged] == ["patterns"]


def test_fields_reach_the_constraints(tmp_path):
    training = Training()
    own = {
        "connectivity_rate": 2.0, "layer_rates": ["sec*=4"], "block_size": 2,
        "layer_block_sizes": ["first=4"], "spare_first": False, "num_patterns": 6,
        "num_entries": 3, "rho": [0.5], "epochs": 7, "learning_rate": 0.2, "method": "one_shot",
    }  # fmt: skip
    run(tmp_path, training, {"patdnn": own})
    (towards,) = training.towards
    first, second = towards.constraints["first"], towards.constraints["second"]
    assert (first.block_size, first.num_kept) == (4, round(3 * 4 / 2))
    assert (second.block_size, second.num_kept) == (2, 16 * 16 / 4)
    assert len(first.patterns) == 6 and first.patterns.num_entries == 3
    assert sorted(second.order) == list(range(32)) != list(second.order)
    rest = (towards.method, towards.epochs, towards.learning_rate, towards.rho)
    assert rest == ("one_shot", 7, 0.2, (0.5,))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"method": "lottery"}, "method is 'lottery'; expected one of admm, one_shot"),
        ({"num_patterns": 0}, "num_patterns is 0; expected 1 or more"),
        ({"num_entries": 10}, "num_entries is 10; expected 1 to 9"),
        ({"connectivity_rate": 0.5}, "connectivity_rate is 0.5; expected 1 or more"),
        ({"block_size": 0}, "block_size is 0; expected 1 or more"),
        ({"layer_rates": ["stage3"]}, "layer_rates is 'stage3'; expected texts such as"),
        ({"layer_rates": ["a=0.2"]}, "layer_rates is 'a=0.2'; expected .* from 1 on"),
        ({"layer_block_sizes": ["a=2.5"]}, "layer_block_sizes is 'a=2.5'; expected whole numbers"),
        ({"epochs": -1}, "epochs is -1; expected 0 or more"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0; expected a positive number"),
        ({"rho": [0.0]}, "rho is .*; expected positive numbers that do not fall, or none"),
        ({"rho": [1.0, 0.1]}, "rho is .*; expected positive numbers that do not fall"),
        ({"accuracy_slack": 1.0}, r"accuracy_slack is 1.0; expected a number in \[0, 1\)"),
    ],
)
def test_a_config_that_cannot_work_is_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        from_mapping({"strategy": {"patdnn": fields}})


def test_what_a_run_cannot_do_is_refused_before_anything_is_measured():
    hooks = Training().hooks()

    def check(strategy=None, cls=PatDnn, hooks=hooks, **fields):
        named = {"name": "patdnn", **(strategy or {})}
        cls.check(from_mapping({"strategy": named, **fields}), hooks)

    check()
    target = {"target_speedup": 2.0}
    with pytest.raises(ConfigError, match=r"target_speedup is 2.0; .* 'latency_budget\+"):
        check(target)
    check({"name": "latency_budget+patdnn", **target}, BudgetThenPatterns)
    with pytest.raises(ConfigError, match="your own short_term_train or long_term_train"):
        check(hooks=benches.hooks())
    with pytest.raises(ConfigError, match="distribute is 'mirrored'; expected '' with"):
        check(training={"distribute": "mirrored"})
    steep = {"patdnn": {"rho": [1.0, 200.0]}}
    with pytest.raises(ConfigError, match=r"numbers below 190, .* diverges"):
        check(steep)
    check({"patdnn": {"method": "one_shot", "rho": [1.0, 200.0]}})


def test_a_model_that_gets_no_patterns_is_refused():
    model = benches.small_model()
    channels = graph.analyze(model)

    def check(protect=(), **own):
        config = from_mapping({"strategy": {"patdnn": own}, "protect": protect})
        PatDnn.check_model(config, model, channels)

    check(protect=("first",))
    with pytest.raises(ConfigError, match="'small' has no layer that could get patterns"):
        check(protect=("*",))
    with pytest.raises(ConfigError, match=r"'third', which matches no layer .* some of first, sec"):
        check(layer_rates=["third=2"])
