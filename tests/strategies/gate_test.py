"""The accuracy gate on single images: early refusals, paired errors, confidence, resumed runs."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from cprune_tf.accuracy import PairedDifference
from cprune_tf.config import ConfigError, from_mapping
from cprune_tf.runs import events
from cprune_tf.strategies.baselines import Uniform
from cprune_tf.strategies.cprune import CPrune
from cprune_tf.strategies.latency_budget import LatencyBudget
from tests.strategies import benches
from tests.strategies.kills import Killed

_NUM_IMAGES = 1000
_BATCH = 100


@dataclasses.dataclass
class Images:
    """Deciding images on which each removed unit costs some hits; labels are sorted by class.

    Attributes:
        lost_per_unit: Images that are no longer classified right, for each unit removed.
        orders: The first images of the order of each evaluation.
        num_evaluated: Number of images of each evaluation that was asked for.
        dies_in: The evaluation in which the run is killed after one batch; None if in none.
    """

    lost_per_unit: float
    orders: list = dataclasses.field(default_factory=list)
    num_evaluated: list = dataclasses.field(default_factory=list)
    dies_in: int | None = None

    def hits(self, model):
        units = sum(layer.filters for layer in model.layers if hasattr(layer, "filters"))
        lost = round((48 - units) * self.lost_per_unit)
        hits = np.arange(_NUM_IMAGES) < 920
        hits[:lost] = False
        hits[920 : 920 + lost // 4] = True
        return hits

    def evaluate_batches(self, model, order):
        order = np.arange(_NUM_IMAGES) if order is None else order
        self.orders.append(tuple(order[:20].tolist()))
        self.num_evaluated.append(0)
        for start in range(0, _NUM_IMAGES, _BATCH):
            if self.dies_in == len(self.num_evaluated) and start:
                raise Killed
            self.num_evaluated[-1] += _BATCH
            yield self.hits(model)[order[start : start + _BATCH]]

    def whole(self, model):
        raise AssertionError("the images decide, not the whole evaluation")


def prune(workdir, images, required, method=Uniform, **strategy):
    """Prunes and returns the decisions and the accepted models of the journal."""
    wanted = {"name": method.name, "max_iterations": 3, **strategy}
    wanted["latency_budget"] = {"round_slack": 0.0}
    hooks = benches.hooks(evaluate=images.whole)
    hooks = dataclasses.replace(hooks, evaluate_batches=images.evaluate_batches)
    with benches.bench(workdir, wanted, hooks) as bench:
        if bench.run.journal.last(events.Evaluated) is None:
            bench.run.journal.append(hooks.evaluate_original(benches.small_model()))
        benches.prune(bench, method, required)
        journal = bench.run.journal
        return journal.events(events.CandidateJudged), journal.events(events.Accepted)


def test_a_clear_refusal_ends_the_evaluation_and_carries_an_estimate(tmp_path):
    images = Images(lost_per_unit=40)
    judged, accepted = prune(tmp_path, images, 0.9, LatencyBudget)
    assert not accepted and {one.decision for one in judged} == {events.REFUSED_ACCURACY}
    first = judged[0]
    assert first.paired.num_images == images.num_evaluated[1] < _NUM_IMAGES // 2
    true_accuracy = 0.92 - 0.75 * 0.04 * sum(first.removed.values())
    assert first.accuracy == pytest.approx(true_accuracy, abs=0.1)
    assert first.accuracy == pytest.approx(0.92 + first.paired.difference)
    assert f"on the first {first.paired.num_images} of 1,000 images" in first.reason
    assert "< 90.00%" in first.reason


def test_an_accepted_candidate_is_evaluated_on_all_images_with_its_paired_error(tmp_path):
    images = Images(lost_per_unit=1)
    judged, accepted = prune(tmp_path, images, 0.5)
    assert accepted and set(images.num_evaluated) == {_NUM_IMAGES}
    lost = 48 - sum(accepted[0].channels[name] for name in ("first", "second"))
    paired = PairedDifference(_NUM_IMAGES, lost // 4, lost)
    assert accepted[0].paired == judged[0].paired == paired
    assert accepted[0].accuracy == (920 + lost // 4 - lost) / 1000
    assert f"({paired})" in judged[0].reason


def test_without_an_error_rate_all_images_are_evaluated_and_the_decisions_are_the_same(tmp_path):
    decisions = []
    for rate in (0.01, 0.0):
        images = Images(lost_per_unit=10)
        cprune = {"beta": 0.999}
        judged, _ = prune(
            tmp_path / str(rate), images, 0.9, CPrune, cprune=cprune, gate_error_rate=rate
        )
        decisions.append([(one.key, one.decision, dict(one.removed)) for one in judged])
        assert rate or set(images.num_evaluated) == {_NUM_IMAGES}
    assert decisions[0] == decisions[1]
    assert any(decision == events.REFUSED_ACCURACY for _, decision, _ in decisions[0])


def test_with_a_confidence_what_barely_passes_is_refused(tmp_path):
    first = prune(tmp_path / "off", Images(1), 0.5)[0][0]
    between = first.accuracy - first.paired.margin(0.95) / 2
    outcomes = [
        prune(tmp_path / str(confidence), Images(1), between, gate_confidence=confidence)[0][0]
        for confidence in (0.0, 0.95)
    ]
    assert outcomes[0].accuracy == outcomes[1].accuracy
    assert outcomes[0].accepted is not None
    assert outcomes[1].decision == events.REFUSED_ACCURACY
    assert "with 95% confidence no less than" in outcomes[1].reason


def test_each_candidate_has_a_random_order_of_its_own_which_a_resumed_run_repeats(tmp_path):
    cprune = {"beta": 0.999, "halve_after_refusal": True}

    def prune_in_steps(name, images):
        return prune(tmp_path / name, images, 0.9, CPrune, cprune=cprune)[0]

    whole = Images(lost_per_unit=10)
    judged = prune_in_steps("whole", whole)
    # The original is evaluated in the order of the images; nothing else is.
    assert whole.orders[0] == tuple(range(20)) and len(set(whole.orders)) == len(whole.orders) == 3
    # In the middle of the second candidate's evaluation.
    with pytest.raises(Killed):
        prune_in_steps("killed", Images(lost_per_unit=10, dies_in=3))
    rest = Images(lost_per_unit=10)
    resumed = prune_in_steps("killed", rest)
    # Neither the original nor the first candidate is evaluated again.
    assert rest.orders == whole.orders[2:]
    assert rest.num_evaluated == whole.num_evaluated[2:]

    def outcome(one):
        return one.key, one.decision, one.accuracy, one.paired

    assert [outcome(one) for one in resumed] == [outcome(one) for one in judged]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("gate_error_rate", 1.0, r"gate_error_rate is 1.0; expected a number in \[0, 1\)"),
        ("gate_confidence", 0.3, r"gate_confidence is 0.3; expected 0 or a number in \[0.5, 1\)"),
        ("gate_confidence", 1.0, r"gate_confidence is 1.0; expected 0 or a number in \[0.5, 1\)"),
    ],
)
def test_what_is_no_rate_or_confidence_is_refused(field, value, message):
    with pytest.raises(ConfigError, match=message):
        from_mapping({"strategy": {field: value}}).validate()
