"""NetAdapt's iterations over a runtime whose latencies are formulas."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import types

import keras
import pytest

from cprune_tf.config import ConfigError, from_mapping
from cprune_tf.runs import events
from cprune_tf.strategies.netadapt import NetAdapt, counts_to_try

from . import benches
from .kills import Killed

WIDTHS = {"first": 24, "second": 32, "third": 40}


def model_of_three() -> keras.Model:
    """Three convolutions in a row, each a group of its own, and a classifier."""
    keras.utils.set_random_seed(0)
    inputs = x = keras.Input((8, 8, 3), name="image")
    for name, width in WIDTHS.items():
        x = keras.layers.Conv2D(width, 3, padding="same", activation="relu", name=name)(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, keras.layers.Dense(4, name="classifier")(x), name="three")


def widths(model) -> tuple[int, ...]:
    return tuple(model.get_layer(name).filters for name in WIDTHS)


def graded_accuracy(model) -> float:
    """Each eight filters of the second layer cost least, those of the third most."""
    lost = [(full - now) / 8 for full, now in zip(WIDTHS.values(), widths(model), strict=True)]
    return 0.9 - 0.02 * lost[0] - 0.01 * lost[1] - 0.03 * lost[2]


def count_up(model) -> None:
    """A training that leaves its mark in the weights."""
    classifier = model.get_layer("classifier")
    classifier.bias.assign_add([1.0] * 4)


def strategy(max_iterations=100, **fields):
    return {"name": "netadapt", "max_iterations": max_iterations, **fields}


def prune(bench, required=0.1):
    return benches.prune(bench, NetAdapt, required, model_of_three)


def of_index(bench, kind, index):
    return [event for event in bench.run.journal.events(kind) if event.index == index]


def judged(bench):
    return bench.run.journal.events(events.CandidateJudged)


def stop_reason(bench):
    return bench.run.journal.last(events.Stopped).reason


def decided(index, decision):
    """A decision as the journal has it."""
    return events.CandidateJudged(
        index=index,
        iteration=0,
        key="first@24",
        task="",
        layers=(),
        removed={"first": 8},
        step=8,
        price_ms=1.0,
        current_latency_ms=1.0,
        measured=None,
        accuracy=0.5,
        current_accuracy=0.9,
        decision=decision,
        reason="",
        elapsed_sec=1.0,
        accepted=None,
    )


def test_the_reduction_decays_and_grows_where_a_candidate_was_not_faster():
    config = from_mapping({"strategy": strategy(netadapt={"decay": 0.5})})
    netadapt = NetAdapt(types.SimpleNamespace(config=config), None, 0.8)
    reductions = [netadapt.reduction]
    decisions = (
        events.ACCEPTED,
        events.ACCEPTED,
        events.REFUSED_LATENCY,
        events.REFUSED_LATENCY,
        events.ACCEPTED,
    )
    for index, decision in enumerate(decisions):
        netadapt.learn(decided(index, decision))
        reductions.append(netadapt.reduction)
    expected = [0.025, 0.0125, 0.00625, 0.0125, 0.01875, 0.003125]
    assert reductions == pytest.approx(expected, rel=1e-12)
    assert netadapt.num_candidates == 5


@pytest.mark.parametrize(
    ("units", "allowance", "tiles", "counts"),
    [
        (24, 19, {8}, (23, 22, 21, 20, 19, 18, 17, 16, 15, 14, 13, 12, 11, 10, 9, 8)),
        # In steps of 4 and in tiles of 24 and 16; less than the lowest tile is no faster.
        (64, 51, {16, 24}, (60, 56, 52, 48, 44, 40, 36, 32, 28, 24, 20, 16)),
        (40, 8, {16}, (38, 36, 34, 32)),
        (20, 3, {16}, (19, 18, 17)),
        (8, 0, {8}, ()),
    ],
)
def test_whole_tiles_and_steps_between_them_are_tried(units, allowance, tiles, counts):
    assert counts_to_try(units, allowance, tiles) == counts


def test_each_proposal_keeps_the_most_units_that_meet_the_reduction(tmp_path):
    """The first layer alone cannot save 30 %; the others need two and three whole tiles."""
    wanted = strategy(max_iterations=1, netadapt={"initial_reduction": 0.3})
    with benches.bench(tmp_path, wanted) as bench:
        prune(bench)
        planned = of_index(bench, events.CandidatePlanned, 0)
        trained = of_index(bench, events.ProposalTrained, 0)
    assert [event.key for event in planned] == ["first@24", "second@32", "third@40"]
    assert [len(event.removed.get(event.key[:-3], ())) for event in planned] == [0, 16, 24]
    assert planned[0].ratio > 0.7 and all(event.ratio <= 0.7 for event in planned[1:])
    assert [event.key for event in trained] == ["second@32", "third@40"]


def test_the_most_accurate_proposal_is_kept_with_its_trained_weights(tmp_path):
    used = benches.hooks(train=count_up, evaluate=graded_accuracy)
    with benches.bench(tmp_path, strategy(max_iterations=4), used) as bench:
        result = prune(bench)
        candidates = judged(bench)
        ratio, reduction = 1.0, 0.025
        for one in candidates:
            planned = [p for p in of_index(bench, events.CandidatePlanned, one.index) if p.removed]
            accuracies = {
                event.key: event.accuracy
                for event in of_index(bench, events.ProposalTrained, one.index)
            }
            assert [event.key for event in planned] == list(accuracies)
            assert max(accuracies, key=accuracies.get) == one.key
            assert one.accuracy == accuracies[one.key]
            assert all(ratio * (1 - event.ratio) >= reduction for event in planned)
            ratio, reduction = one.accepted.latency_ratio, reduction * 0.96
    assert [one.key for one in candidates] == ["second@32", "second@24", "second@16", "first@24"]
    assert widths(result.model) == (16, 8, 40)
    # Each iteration's training goes on from the one before.
    assert result.model.get_layer("classifier").bias.numpy().tolist() == [4.0] * 4


def test_of_equally_accurate_proposals_the_fastest_is_kept(tmp_path):
    with benches.bench(tmp_path, strategy(max_iterations=1)) as bench:
        prune(bench)
        (candidate,) = judged(bench)
        planned = of_index(bench, events.CandidatePlanned, 0)
    assert candidate.key == min(planned, key=lambda event: event.ratio).key == "second@32"


def test_it_ends_where_the_target_is_reached(tmp_path):
    with benches.bench(tmp_path, strategy(target_speedup=1.25)) as bench:
        result = prune(bench)
        assert "target is reached: 1.3" in stop_reason(bench)
        assert not list(bench.run.path("models").glob("proposal_*"))
    assert result.iteration == 1 and result.latency_ratio <= 0.8


def test_it_ends_where_no_group_meets_the_reduction(tmp_path):
    """Only the third layer may lose a whole tile, and only one."""
    wanted = strategy(max_pruned_fraction=0.2, target_speedup=3.0)
    with benches.bench(tmp_path, wanted) as bench:
        result = prune(bench)
        reason = stop_reason(bench)
    assert widths(result.model) == (24, 32, 32)
    assert "no group alone can lower the latency by 2.40%" in reason
    assert "max_pruned_fraction" in reason and "target of 3x is not reached" in reason


@pytest.mark.parametrize(("slack", "iterations"), [(0.0, 1), (0.01, 2)])
def test_it_ends_where_accuracy_binds(tmp_path, slack, iterations):
    used = benches.hooks(evaluate=graded_accuracy)
    wanted = strategy(netadapt={"accuracy_slack": slack})
    with benches.bench(tmp_path, wanted, used) as bench:
        result = prune(bench, required=0.885)
        *accepted, refused = judged(bench)
        reason = stop_reason(bench)
    assert [one.decision for one in accepted] == [events.ACCEPTED] * iterations
    assert refused.decision == events.REFUSED_ACCURACY
    assert refused.measured is not None and "the best of 3 proposals" in refused.reason
    assert result.iteration == iterations and "accuracy binds" in reason


class SlowCandidates(benches.TiledRuntime):
    """The first candidate turns out much slower, as a whole model, than it was priced."""

    num_lies = 1

    def build(self, model, path):
        super().build(model, path)
        if pathlib.Path(path).name.startswith("candidate") and self.num_lies:
            self.num_lies -= 1
            pathlib.Path(path).write_text(json.dumps({"ms": 1e6}))


def test_after_a_candidate_that_is_not_faster_the_reduction_grows(tmp_path):
    wanted = strategy(max_iterations=2, netadapt={"initial_reduction": 0.1})
    with benches.bench(tmp_path, wanted, runtime=SlowCandidates) as bench:
        prune(bench)
        decisions = [one.decision for one in judged(bench)]
        planned = [of_index(bench, events.CandidatePlanned, index) for index in range(2)]
    assert decisions == [events.REFUSED_LATENCY, events.ACCEPTED]
    for times, proposals in enumerate(planned, start=1):
        useful = [event for event in proposals if event.removed]
        assert useful and all(event.ratio <= 1 - 0.1 * times for event in useful)


class Deadly:
    """A function that kills the run in its n-th call and works from then on."""

    def __init__(self, function, fatal_call):
        self.function = function
        self.calls_left = fatal_call

    def __call__(self, *arguments):
        self.calls_left -= 1
        if self.calls_left == 0:
            raise Killed
        return self.function(*arguments)


def decisions_of(bench):
    return [(one.key, dict(one.removed), one.decision, one.accuracy) for one in judged(bench)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Decisions and trained models of a run that nothing kills."""
    trained = []

    def train(model):
        count_up(model)
        trained.append(widths(model))

    used = benches.hooks(train, graded_accuracy)
    with benches.bench(tmp_path_factory.mktemp("whole"), strategy(2), used) as bench:
        prune(bench)
        return decisions_of(bench), trained


@pytest.mark.parametrize(
    ("moment", "fatal_call"), [("price", 3), ("train", 2), ("train", 5), ("measure", 1)]
)
def test_a_killed_run_decides_as_an_undisturbed_one_and_trains_nothing_twice(
    tmp_path, monkeypatch, undisturbed, moment, fatal_call
):
    trained = []

    def train(model):
        if moment == "train":
            killed_by(model)
        count_up(model)
        trained.append(widths(model))

    killed_by = Deadly(lambda *arguments: None, fatal_call)
    used = benches.hooks(train, graded_accuracy)
    with (
        pytest.raises(Killed),
        monkeypatch.context() as patch,
        benches.bench(tmp_path, strategy(2), used) as bench,
    ):
        if moment != "train":
            whole = getattr(type(bench), moment)
            killed_by.function = whole
            patch.setattr(type(bench), moment, lambda *arguments: killed_by(*arguments))
        prune(bench)
    with benches.bench(tmp_path, strategy(2), used) as bench:
        result = prune(bench)
        planned = bench.run.journal.events(events.CandidatePlanned)
        decisions = decisions_of(bench)
    assert (decisions, trained) == undisturbed
    assert len({(event.index, event.key) for event in planned}) == len(planned) == 6
    assert result.model.get_layer("classifier").bias.numpy().tolist() == [2.0] * 4


@pytest.mark.parametrize("fatal_call", [2, 5])
def test_trainings_that_end_in_another_order_give_the_same_decisions(
    tmp_path, undisturbed, fatal_call
):
    """Side by side; a killed run keeps what had arrived, and trains only the rest."""
    trained = []

    def train_all(models):
        for position in reversed(range(len(models))):
            killed_by()
            count_up(models[position])
            trained.append(widths(models[position]))
            yield position

    killed_by = Deadly(lambda: None, fatal_call)
    used = benches.hooks(evaluate=graded_accuracy)
    used = dataclasses.replace(used, short_term_train_all=train_all)
    with pytest.raises(Killed), benches.bench(tmp_path, strategy(2), used) as bench:
        prune(bench)
    with benches.bench(tmp_path, strategy(2), used) as bench:
        result = prune(bench)
        decisions = decisions_of(bench)
    assert decisions == undisturbed[0] and sorted(trained) == sorted(undisturbed[1])
    assert result.model.get_layer("classifier").bias.numpy().tolist() == [2.0] * 4


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"initial_reduction": 0.0}, r"initial_reduction is 0\.0; expected a number in \(0, 1\)"),
        ({"initial_reduction": 1.0}, r"initial_reduction is 1\.0; expected a number in \(0, 1\)"),
        ({"decay": 0.0}, r"decay is 0\.0; expected a number in \(0, 1\]"),
        ({"decay": 1.5}, r"decay is 1\.5; expected a number in \(0, 1\]"),
        ({"accuracy_slack": -0.1}, r"accuracy_slack is -0\.1; expected a number in \[0, 1\)"),
    ],
)
def test_a_config_that_cannot_work_is_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        from_mapping({"strategy": strategy(netadapt=fields)}).validate()
