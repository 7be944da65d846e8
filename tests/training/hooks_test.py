"""A run's trainer tells how far it is, whichever way it trains."""

from __future__ import annotations

import dataclasses
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from cprune_tf import api
from cprune_tf.config import ConfigError, FitConfig, PruneConfig, TrainingConfig
from cprune_tf.data import from_datasets
from cprune_tf.training import TrainingError, recalibrate_batch_norm
from cprune_tf.training.compiled import check_compiled
from cprune_tf.training.hooks import Trainer
from tests.strategies.kills import Killed
from tests.training.penalties import Plain

_FIT = FitConfig(epochs=2, learning_rate=0.01, max_steps_per_epoch=3)
_CONFIG = PruneConfig(training=TrainingConfig(short_term=_FIT, long_term=_FIT))


def _shortened(data, num_batches, *, counted=True):
    """The same data with so few batches that tf.data may or may not know their number."""

    def batches(seed):
        dataset = data.train_dataset(seed).take(num_batches)
        return dataset if counted else dataset.filter(lambda images, labels: True)

    return dataclasses.replace(data, train_dataset=batches)


def _reports_of(data, model, phase="short", own_compile=False):
    reports = []
    trainer = Trainer(
        _CONFIG,
        data,
        model,
        own_compile=own_compile,
        on_step=lambda done, planned, text: reports.append((done, planned, text)),
    )
    (trainer.short_term_train if phase == "short" else trainer.long_term_train)(model)
    return reports


class _CountedReplicas(tf.distribute.OneDeviceStrategy):
    def __init__(self):
        super().__init__("/cpu:0")
        self.num_traced = 0

    def run(self, *arguments, **options):
        self.num_traced += 1
        return super().run(*arguments, **options)


def test_each_training_runs_in_the_replicas_it_was_given(small_data, trained):
    replicas = _CountedReplicas()
    trainer = Trainer(_CONFIG, small_data, trained, replicas=replicas)
    trainer.short_term_train(trained)
    assert replicas.num_traced
    with pytest.raises(ConfigError, match="where your own functions or the optimizer"):
        trained.compile("sgd", "sparse_categorical_crossentropy")
        images, labels = small_data.test_images, small_data.test_labels
        config = {"training": {"distribute": "mirrored"}}
        api.prune(trained, train_data=(images, labels), config=config)


def test_hits_on_the_deciding_images_are_those_of_the_accuracy(small_data, trained):
    images, labels = small_data.test_images[:100], small_data.test_labels[:100]
    data = dataclasses.replace(small_data, validation_images=images, validation_labels=labels)
    trainer = Trainer(_CONFIG, data, trained)
    order = np.random.default_rng(0).permutation(100)
    hits = np.concatenate(list(trainer.evaluate_batches(trained, order)))
    assert len(hits) == 100 and hits.mean() == trainer.evaluate(trained)


@pytest.mark.parametrize("phase", ["short", "long"])
@pytest.mark.parametrize("own_compile", [False, True])
def test_every_step_is_reported_up_to_the_last(small_data, trained, phase, own_compile):
    trained.compile("sgd", "sparse_categorical_crossentropy")
    reports = _reports_of(_shortened(small_data, 3), trained, phase, own_compile)
    counts = [done for done, _, _ in reports]
    assert sorted(set(counts)) == list(range(1, 7)) and counts == sorted(counts)
    assert {planned for _, planned, _ in reports} == {6}
    assert all(text.startswith(f"{phase}-term training: loss ") for _, _, text in reports)
    assert all(0 < float(text.split()[-1]) < 100 for _, _, text in reports)


def test_a_training_that_ends_early_ends_its_progress_too(small_data):
    keras.utils.set_random_seed(0)
    flat = [keras.Input(small_data.input_shape), keras.layers.Flatten()]
    model = keras.Sequential([*flat, keras.layers.Dense(10, kernel_initializer="zeros")])
    config = FitConfig(epochs=5, learning_rate=1e-30, weight_decay=0, stop_after=1)
    reports = []
    Trainer(
        PruneConfig(training=TrainingConfig(short_term=config)),
        _shortened(small_data, 3),
        model,
        on_step=lambda *report: reports.append(report),
    ).short_term_train(model)
    assert reports[-2][:2] == (6, 15) and reports[-1] == (6, 6, reports[-2][2])


def test_an_own_compiled_training_of_unknown_length_counts_its_first_epoch(small_data, trained):
    trained.compile("sgd", "sparse_categorical_crossentropy")
    reports = _reports_of(_shortened(small_data, 3, counted=False), trained, own_compile=True)
    pairs = [(done, planned) for done, planned, _ in reports]
    assert pairs[:6] == [(1, 0), (2, 0), (3, 0), (4, 6), (5, 6), (6, 6)]
    assert pairs[-1] == (6, 6)


def test_several_steps_in_one_execution_never_count_beyond_the_plan(small_data, trained):
    trained.compile("sgd", "sparse_categorical_crossentropy", steps_per_execution=2)
    reports = _reports_of(_shortened(small_data, 3), trained, own_compile=True)
    counts = [done for done, _, _ in reports]
    assert counts == sorted(counts) and counts[-1] == 6
    assert all(done <= planned == 6 for done, planned, _ in reports)


@pytest.mark.parametrize("own_compile", [False, True])
def test_whoever_watches_the_same_weights_come_out(small_data, own_compile):
    weights = []
    for on_step in (None, lambda *report: None):
        keras.utils.set_random_seed(0)
        model = keras.Sequential(
            [keras.Input(small_data.input_shape), keras.layers.Flatten(), keras.layers.Dense(10)]
        )
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        data = _shortened(small_data, 3)
        Trainer(_CONFIG, data, model, own_compile, on_step=on_step).short_term_train(model)
        weights.append(model.get_weights())
    assert all((a == b).all() for a, b in itertools.zip_longest(*weights))


@pytest.mark.parametrize("own_compile", [False, True])
def test_a_killed_training_goes_on_with_its_unfinished_epoch(
    small_data, trained, tmp_path, own_compile
):
    """The order of the images of a caller's own data is up to the caller; here it is fixed."""
    batches = small_data.train_dataset(0).take(3).cache()
    data = dataclasses.replace(small_data, train_dataset=lambda seed: batches)
    start = trained.get_weights()

    def train(kill_after=None, folder=None):
        trained.compile(keras.optimizers.SGD(0.01, 0.9), "sparse_categorical_crossentropy")
        trained.set_weights(start)
        counts = []

        def on_step(done: int, planned: int, text: str) -> None:
            counts.append(done)
            if done == kill_after:
                raise Killed

        trainer = Trainer(
            _CONFIG,
            data,
            trained,
            own_compile=own_compile,
            on_step=on_step,
            checkpoint_dir=folder,
        )
        if kill_after is None:
            trainer.long_term_train(trained)
        else:
            with pytest.raises(Killed):
                trainer.long_term_train(trained)
        return counts, trained.get_weights()

    _, whole = train()
    train(kill_after=5, folder=tmp_path)
    counts, resumed = train(folder=tmp_path)
    assert sorted(set(counts)) == [4, 5, 6]
    for one, two in zip(resumed, whole, strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_soft_start_keeps_the_rate_and_the_last_weights_whatever_short_term_training_does(
    small_data,
):
    """The penalty alone decides here: it moves one weight by rate x slope in each of 6 steps."""
    flat = [keras.Input(small_data.input_shape), keras.layers.Flatten()]
    model = keras.Sequential([*flat, keras.layers.Dense(10, kernel_initializer="zeros")])
    config = FitConfig(
        epochs=4, learning_rate=0.5, momentum=0.0, weight_decay=0, schedule="cosine",
        warmup_epochs=3.0, ema=0.9, stop_after=1,
    )  # fmt: skip
    reports = []
    trainer = Trainer(
        PruneConfig(training=TrainingConfig(short_term=config)),
        _shortened(small_data, 3),
        model,
        on_step=lambda *report: reports.append(report),
    )
    penalty = Plain(lambda copy, progress: -1e4 * copy.weights[1].value[0])
    trainer.soft_start(model, penalty, epochs=2)
    assert model.get_weights()[1][0] == pytest.approx(6 * 0.5 * 1e4, rel=1e-3)
    assert [report[:2] for report in reports] == [(step, 6) for step in range(1, 7)]
    assert reports[0][2].startswith("soft start: loss ")


def _one_hot_data(small_data, smoothing=0.0):
    """The test images with one-hot labels, as their owner trains with them."""
    labels = np.eye(10, dtype=np.float32)[small_data.test_labels] * (1 - smoothing) + smoothing / 10
    pair = small_data.test_images, labels
    return from_datasets(pair, pair, batch_size=50)


def _linear(shape, loss):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input(shape), keras.layers.Flatten(), keras.layers.Dense(10, activation="softmax")]
    )
    model.compile(keras.optimizers.SGD(0.1), loss)
    return model


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_categorical_loss_is_trained_with_one_hot_labels(small_data, smoothing):
    data = _one_hot_data(small_data, smoothing)
    model = _linear(small_data.input_shape, "categorical_crossentropy")
    check_compiled(model, data)
    config = PruneConfig(training=TrainingConfig(short_term=FitConfig(epochs=5)))
    trainer = Trainer(config, data, model, own_compile=True)
    before = trainer.evaluate(model)
    trainer.short_term_train(model)
    assert trainer.evaluate(model) > max(0.5, before)


@pytest.mark.parametrize("is_one_hot", [True, False])
def test_a_loss_that_does_not_fit_the_labels_is_refused_before_training(small_data, is_one_hot):
    data = _one_hot_data(small_data) if is_one_hot else small_data
    loss = ("sparse_" if is_one_hot else "") + "categorical_crossentropy"
    with pytest.raises(TrainingError, match=rf"compiled loss .*\({loss}\) cannot be computed"):
        check_compiled(_linear(small_data.input_shape, loss), data)


def test_a_loss_that_is_not_finite_is_refused_before_training(small_data):
    model = _linear(small_data.input_shape, lambda y_true, y_pred: y_pred[:, 0] * float("nan"))
    with pytest.raises(TrainingError, match="is not finite"):
        check_compiled(model, small_data)


def test_the_limit_of_steps_reaches_an_own_compiled_training(small_data):
    model = _linear(small_data.input_shape, "sparse_categorical_crossentropy")
    reports = _reports_of(small_data, model, own_compile=True)
    assert reports[-1][:2] == (6, 6)  # two epochs of three steps, of fifty


@pytest.mark.parametrize("num_batches", [0, 4])
def test_the_statistics_of_a_trained_model_do_not_depend_on_the_last_batches(
    small_data, trained, num_batches
):
    training = TrainingConfig(short_term=_FIT, recalibration_batches=num_batches)
    trainer = Trainer(PruneConfig(training=training), small_data, trained)
    trainer.short_term_train(trained)
    kept = trained.get_weights()
    seed = trainer.config.seed + trained.count_params()
    recalibrate_batch_norm(trained, small_data, 4, seed=seed)
    same = [np.array_equal(a, b) for a, b in zip(kept, trained.get_weights(), strict=True)]
    assert all(same) == bool(num_batches)
