"""Soft starts of the default strategy, over a runtime whose latencies are formulas."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib

import numpy as np
import pytest

from cprune_tf.accuracy import Evaluation
from cprune_tf.config import ConfigError, from_mapping
from cprune_tf.runs import events
from cprune_tf.strategies.base import Candidate
from cprune_tf.strategies.latency_budget import LatencyBudget
from cprune_tf.strategies.predictive import Predictive

from . import benches
from .kills import Killed
from .latency_budget_test import wide_model

SOFT = {"epochs": 3, "penalty": 0.5, "num_stages": 2}


class Training:
    """Training that halves all weights in a soft start, and dies in the given call of its own.

    Attributes:
        soft: The (model's weights, penalty, epochs) of each soft start.
        first_weights: The first weight of each model that comes to short-term training.
    """

    def __init__(self, fatal_soft: int = 0, fatal_train: int = 0) -> None:
        self.soft, self.first_weights = [], []
        self._fatal_soft, self._fatal_train = fatal_soft, fatal_train

    def soft_start(self, model, penalty, epochs) -> None:
        self.soft.append((model.get_weights(), penalty, epochs))
        model.set_weights([0.5 * weight for weight in model.get_weights()])
        if len(self.soft) == self._fatal_soft:
            raise Killed

    def train(self, model) -> None:
        self.first_weights.append(model.get_weights()[0])
        if len(self.first_weights) == self._fatal_train:
            raise Killed

    @property
    def hooks(self):
        return dataclasses.replace(benches.hooks(self.train), soft_start=self.soft_start)


def wanted(soft=None, name="latency_budget"):
    own = {name: {"soft_start": soft}} if soft else {}
    return {"name": name, "target_speedup": 2.5, "max_iterations": 2, **own}


def run(workdir: pathlib.Path, training: Training, strategy: dict):
    cls = Predictive if strategy["name"] == "predictive" else LatencyBudget
    with benches.bench(workdir, strategy, training.hooks) as bench:
        result = benches.prune(bench, cls, 0.8, wide_model)
        judged = bench.run.journal.events(events.CandidateJudged)
        return result, judged, bench.run.journal.events(events.SoftStarted)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A run that nothing kills: its training and what it decided."""
    training = Training()
    return training, *run(tmp_path_factory.mktemp("whole"), training, wanted(SOFT))


def test_each_candidate_is_cut_from_the_weights_that_its_soft_start_left(undisturbed):
    training, result, judged, started = undisturbed
    assert [one.index for one in started] == [one.index for one in judged] == [0, 1]
    assert [epochs for _, _, epochs in training.soft] == [3, 3]
    removed = [sum(one.removed.values()) for one in judged]
    assert [one.num_units for one in started] == removed
    # All weights were halved, so the norms were, too.
    assert [one.norm_ratio for one in started] == pytest.approx([0.5, 0.5])
    assert all("after a soft start of 3 epochs: the norms of" in one.reason for one in judged)
    penalty = training.soft[0][1]
    assert (penalty.factor, penalty.num_stages) == (0.5, 2)
    # The accepted model of a round starts the next one.
    replayed = result.history.replay(wide_model()).get_weights()
    for weight, original in zip(result.model.get_weights(), replayed, strict=True):
        np.testing.assert_allclose(weight, 0.25 * original)


@pytest.mark.parametrize("fatal", [0, 1])
def test_the_current_model_keeps_its_own_weights(tmp_path, fatal):
    """Also where the soft start fails."""
    with benches.bench(tmp_path, wanted(SOFT), Training(fatal_soft=fatal).hooks) as bench:
        first = bench.start(wide_model(), Evaluation(0.9))
        draft = bench.draft(first, {"inner": (0, 2)})
        config = bench.config.strategy.latency_budget.soft_start
        with pytest.raises(Killed) if fatal else contextlib.nullcontext():
            bench.soft_start(first, Candidate("inner", draft, 2), 0, config)
    for one, two in zip(first.model.get_weights(), wide_model().get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(
    ("killed", "soft_left"),
    [({"fatal_soft": 2}, 1), ({"fatal_train": 2}, 0)],
)
def test_a_killed_run_goes_on_as_an_undisturbed_one(tmp_path, undisturbed, killed, soft_left):
    """A soft start that ended is not repeated; its weights come from the disk."""
    whole, _, expected, events_then = undisturbed
    with pytest.raises(Killed):
        run(tmp_path, Training(**killed), wanted(SOFT))
    resumed = Training()
    _, judged, started = run(tmp_path, resumed, wanted(SOFT))
    assert len(resumed.soft) == soft_left
    assert started == events_then
    decisions = [[(one.key, one.removed, one.reason) for one in run] for run in (judged, expected)]
    assert decisions[0] == decisions[1]
    np.testing.assert_array_equal(resumed.first_weights[-1], whole.first_weights[-1])


def test_predicted_rounds_start_softly_too(tmp_path):
    training = Training()
    _, judged, started = run(tmp_path, training, wanted(SOFT, "predictive"))
    assert len(training.soft) == len(started) == len(judged) > 0
    assert "after a soft start of 3 epochs" in judged[0].reason


def test_without_it_nothing_is_trained_before_the_cut(tmp_path):
    training = Training()
    result, judged, started = run(tmp_path, training, wanted())
    assert judged and not started and not training.soft
    assert not any("soft" in one.reason for one in judged)
    replayed = result.history.replay(wide_model()).get_weights()
    for weight, original in zip(result.model.get_weights(), replayed, strict=True):
        np.testing.assert_array_equal(weight, original)


def test_a_soft_start_that_cannot_work_is_refused_before_anything_is_measured():
    usual = Training().hooks
    config = from_mapping({"strategy": wanted(SOFT)})
    LatencyBudget.check(config, usual)
    with pytest.raises(ConfigError, match=r"soft_start\.epochs is 3; expected 0 where your own"):
        LatencyBudget.check(config, benches.hooks())
    LatencyBudget.check(from_mapping({"strategy": wanted()}), benches.hooks())
    training = {"short_term": {"learning_rate": 0.5}}
    steep = from_mapping({"strategy": wanted(SOFT), "training": training})
    with pytest.raises(ConfigError, match=r"penalty is 0\.5; expected less than 0\.119.*diverge"):
        LatencyBudget.check(steep, usual)
