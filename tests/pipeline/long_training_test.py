"""Long-term training: which of the accepted models is delivered, also after a kill."""

from __future__ import annotations

import pytest

from cprune_tf.pipeline import Pipeline, PipelineInput, RunContext
from cprune_tf.pipeline.long_training import train_for_long
from cprune_tf.runs import events
from cprune_tf.strategies.cprune import CPrune
from cprune_tf.strategies.workbench import Hooks
from tests.strategies import benches
from tests.strategies.kills import Killed

EASY = {"max_iterations": 4, "cprune": {"alpha": 0.5, "beta": 0.95}}


class Training:
    """Accuracies that are known for each size of model, before and after long-term training.

    Args:
        accuracy: Of models that were trained for long, by their number of accepted prunings.
        sizes: Parameters of the accepted models, the original first.
    """

    def __init__(self, accuracy, sizes):
        self.accuracy = accuracy
        self.sizes = sizes
        self.trained = []

    def train(self, model):
        self.trained.append(self.sizes.index(model.count_params()))

    def evaluate(self, model):
        return self.accuracy[self.sizes.index(model.count_params())]


def pruned_run(workdir):
    """A run with several accepted models, each with an accuracy of 0.79."""
    with benches.bench(workdir, EASY, benches.hooks(evaluate=lambda model: 0.79)) as bench:
        benches.prune(bench, CPrune)
        accepted = bench.run.journal.events(events.Accepted)
    assert len(accepted) >= 3
    sizes = [benches.small_model().count_params(), *(event.params for event in accepted)]
    return sizes


def deliver(workdir, training, required=0.8):
    used = Hooks(lambda model: None, training.train, training.evaluate, lambda: None)
    with benches.bench(workdir, EASY, used) as bench:
        given = PipelineInput(benches.small_model(), used, None)
        context = RunContext(bench.config, bench.run, None, bench.progress, given)
        baseline = bench.run.journal.last(events.Baseline)
        original = benches.small_model()
        bench.runtime.tune(bench.runtime.prepare(original), 1)
        first = bench.restore(baseline, original)
        bench.runtime.measured = Everything()
        pruned = Pipeline(context).pruned(bench, first, required)
        model = train_for_long(context, bench, pruned, required)
        return model, bench.run.journal.events(events.LongTermTrained)


class Everything(set):
    """A runtime that has measured every task."""

    def __contains__(self, key):
        return True


def test_the_fastest_model_is_delivered_if_training_lifts_it_to_the_requirement(tmp_path):
    sizes = pruned_run(tmp_path)
    training = Training([0.9] + [0.85] * (len(sizes) - 1), sizes)
    model, trained = deliver(tmp_path, training)
    assert model.count_params() == sizes[-1]
    assert training.trained == [len(sizes) - 1]
    assert [(e.iteration, e.accuracy, e.kept) for e in trained] == [
        (len(sizes) - 1, 0.85, "trained")
    ]


def test_a_model_that_misses_it_gives_way_to_the_one_before(tmp_path):
    sizes = pruned_run(tmp_path)
    last = len(sizes) - 1
    training = Training([0.9] + [0.85] * (last - 1) + [0.795], sizes)
    model, trained = deliver(tmp_path, training)
    assert model.count_params() == sizes[last - 1]
    assert [event.iteration for event in trained] == [last, last - 1]


def test_where_all_miss_it_the_original_is_delivered_untrained(tmp_path):
    sizes = pruned_run(tmp_path)
    last = len(sizes) - 1
    training = Training([0.9] + [0.7] * last, sizes)
    model, trained = deliver(tmp_path, training)
    assert model.count_params() == sizes[0]
    assert training.trained == list(range(last, 0, -1))
    # Training made them worse, so their weights stayed, which were too bad already.
    assert [event.kept for event in trained] == ["as it was"] * (last + 1)
    assert trained[-1].iteration == 0


def test_a_kill_between_two_trainings_repeats_none(tmp_path):
    sizes = pruned_run(tmp_path)
    last = len(sizes) - 1
    training = Training([0.9] + [0.85] * (last - 2) + [0.795] * 2, sizes)

    class Dying(Training):
        def train(self, model):
            super().train(model)
            if len(self.trained) == 2:
                raise Killed

    dying = Dying(training.accuracy, sizes)
    with pytest.raises(Killed):
        deliver(tmp_path, dying)
    model, trained = deliver(tmp_path, training)
    assert dying.trained == [last, last - 1]
    assert training.trained == [last - 1, last - 2]
    assert model.count_params() == sizes[last - 2]
    assert [event.iteration for event in trained] == [last, last - 1, last - 2]
    again = Training(training.accuracy, sizes)
    assert deliver(tmp_path, again)[0].count_params() == sizes[last - 2]
    assert again.trained == []


def test_weights_that_training_leaves_almost_zero_are_delivered_as_zeros(tmp_path):
    sizes = pruned_run(tmp_path)

    class Decaying(Training):
        def train(self, model):
            super().train(model)
            weights = model.get_weights()
            weights[0].flat[:2] = 1e-39, -1e-42
            model.set_weights(weights)

    model, _ = deliver(tmp_path, Decaying(dict(enumerate([0.85] * len(sizes))), sizes))
    kernel = model.get_weights()[0]
    assert not kernel.flat[:2].any() and kernel.flat[2:].all()
