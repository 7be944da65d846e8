from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.util import event_pb2

from cprune_tf.config import ConfigError, FitConfig
from cprune_tf.data import ImageData, from_datasets
from cprune_tf.models import mobilenet_small, resnet8, vgg_small
from cprune_tf.training import TrainingError, evaluate, fit, recalibrate_batch_norm
from cprune_tf.training import step as steps

_SHORT = FitConfig(epochs=1, learning_rate=0.02, max_steps_per_epoch=4)


def _fresh(builder=resnet8, seed: int = 0, **arguments: object) -> keras.Model:
    keras.utils.set_random_seed(seed)
    return builder(**arguments)


def _assert_same_weights(a: keras.Model, b: keras.Model) -> None:
    for one, two in zip(a.get_weights(), b.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("builder", [resnet8, vgg_small, mobilenet_small])
def test_models_learn_a_real_slice(small_data, builder):
    model = _fresh(builder)
    before = evaluate(model, small_data)
    result = fit(model, small_data, FitConfig(epochs=4, learning_rate=0.03), seed=0)
    assert result.num_steps == 4 * 50 and not result.stopped
    assert result.epochs[-1].loss < 0.7 * result.epochs[0].loss
    # The moving statistics of so few small batches are a matter of luck.
    recalibrate_batch_norm(model, small_data)
    assert evaluate(model, small_data) > max(0.6, before + 0.3)


@pytest.mark.parametrize("builder", [resnet8, vgg_small])
def test_the_same_seed_gives_the_same_weights(small_data, builder):
    """vgg_small has dropout, whose random numbers come from the seed too."""
    models = [_fresh(builder) for _ in range(3)]
    for model, seed in zip(models, (7, 7, 8), strict=True):
        tf.random.set_seed(np.random.randint(1000))  # whatever happened before must not count
        fit(model, small_data, _SHORT, seed=seed)
    _assert_same_weights(models[0], models[1])
    assert not np.array_equal(models[0].get_weights()[0], models[2].get_weights()[0])


def test_the_callers_compile_state_is_left_alone(small_data):
    model = _fresh()
    optimizer = keras.optimizers.Adam()
    model.compile(optimizer, "sparse_categorical_crossentropy")
    model.get_layer("stem_conv").trainable = False
    frozen = model.get_layer("stem_conv").get_weights()[0]
    result = fit(model, small_data, _SHORT, seed=0)
    assert model.optimizer is optimizer and int(optimizer.iterations) == 0
    np.testing.assert_array_equal(model.get_layer("stem_conv").get_weights()[0], frozen)
    assert result.num_steps == 4
    model.fit(small_data.train.take(1), verbose=0, shuffle=False)
    assert int(optimizer.iterations) == 1


def test_callbacks_see_every_step_and_the_new_weights(small_data):
    model = _fresh()
    seen_steps, seen_epochs, kernels = [], [], [model.get_weights()[0]]

    def on_epoch(result):
        seen_epochs.append(result)
        kernels.append(model.get_weights()[0])

    config = dataclasses.replace(_SHORT, epochs=2, schedule="cosine")
    result = fit(
        model,
        small_data,
        config,
        seed=0,
        on_epoch=on_epoch,
        on_step=lambda done, total, loss: seen_steps.append((done, total, loss)),
    )
    assert [(done, total) for done, total, _ in seen_steps] == [(i, 8) for i in range(1, 9)]
    assert result.epochs == tuple(seen_epochs)
    assert [(e.epoch, e.num_epochs) for e in seen_epochs] == [(1, 2), (2, 2)]
    assert seen_epochs[1].loss == pytest.approx(np.mean([x for _, _, x in seen_steps[4:]]))
    assert not np.array_equal(kernels[0], kernels[1])
    assert not np.array_equal(kernels[1], kernels[2])
    assert seen_epochs[0].learning_rate == pytest.approx(0.01)
    assert seen_epochs[1].learning_rate == pytest.approx(0.0, abs=1e-9)


def test_stop_ends_within_an_epoch_and_keeps_what_was_learned(small_data):
    model, done = _fresh(), []
    result = fit(
        model,
        small_data,
        dataclasses.replace(_SHORT, epochs=5),
        seed=0,
        on_step=lambda step, total, loss: done.append(step),
        stop=lambda: len(done) == 6,
    )
    assert result.stopped and result.num_steps == 6 and len(result.epochs) == 1
    kernel = model.get_weights()[0]
    assert not np.array_equal(kernel, _fresh().get_weights()[0])
    other = _fresh()
    fit(other, small_data, _SHORT, seed=0)
    assert not np.array_equal(kernel, other.get_weights()[0])


def test_no_epochs_change_nothing(small_data):
    model = _fresh()
    assert fit(model, small_data, FitConfig(epochs=0), seed=0).epochs == ()
    _assert_same_weights(model, _fresh())


def test_a_diverging_training_is_aborted_and_leaves_finite_weights(small_data):
    model = _fresh(vgg_small)
    with pytest.raises(TrainingError, match=r"loss became .* in epoch 1; .* rate \(it is 1000000"):
        fit(model, small_data, FitConfig(epochs=2, learning_rate=1e6), seed=0)
    _assert_same_weights(model, _fresh(vgg_small))


def test_weight_decay_shrinks_kernels_only():
    model = _fresh()
    before = [v.numpy() for v in model.trainable_variables]
    config = FitConfig(learning_rate=0.1, weight_decay=0.5, momentum=0.0)
    optimizer = steps.make_optimizer(model, config, total_steps=1)
    gradients = [tf.zeros(v.shape) for v in model.trainable_variables]
    optimizer.apply(gradients, model.trainable_variables)
    for variable, old in zip(model.trainable_variables, before, strict=True):
        factor = 0.95 if variable.name == "kernel" else 1.0
        np.testing.assert_allclose(variable.numpy(), factor * old, rtol=1e-6)


def test_logits_and_softmax_train_alike(small_data):
    logits = _fresh(mobilenet_small)
    logits.layers[-1].activation = keras.activations.linear
    logits = keras.models.clone_model(logits)
    softmax = _fresh(mobilenet_small)
    logits.set_weights(softmax.get_weights())
    results = [fit(m, small_data, _SHORT, seed=0) for m in (logits, softmax)]
    assert results[0].epochs[0].loss == pytest.approx(results[1].epochs[0].loss, rel=1e-3)
    for one, two in zip(logits.get_weights(), softmax.get_weights(), strict=True):
        np.testing.assert_allclose(one, two, atol=2e-3)


def _with_random_labels(data: ImageData) -> ImageData:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 320).astype(np.int32)
    images = np.concatenate([x.numpy() for x, _ in data.train_dataset(0).take(10)])
    train = tf.data.Dataset.from_tensor_slices((images, labels)).batch(32)
    return from_datasets(train, data.test)


def test_distillation_learns_from_the_teacher_alone(small_data, trained):
    """With labels that say nothing, what is learned can only be the teacher's."""
    data = _with_random_labels(small_data)
    accuracy = {}
    for distill in (0.0, 1.0):
        student = _fresh(mobilenet_small)
        config = FitConfig(epochs=12, learning_rate=0.02, distill=distill)
        fit(student, data, config, seed=0, teacher=trained)
        accuracy[distill] = evaluate(student, data)
    assert accuracy[1.0] > 0.5 > 0.3 > accuracy[0.0]


def test_distillation_needs_a_teacher(small_data):
    with pytest.raises(TrainingError, match="no teacher was given"):
        fit(_fresh(), small_data, dataclasses.replace(_SHORT, distill=0.5), seed=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_shape": (32, 32, 3)}, r"takes \(None, 32, 32, 3\).* takes \(None, 28, 28, 1\)"),
        ({"num_classes": 7}, r"gives \(None, 7\).* gives \(None, 10\)"),
    ],
)
def test_models_must_fit_the_data(small_data, arguments, message):
    with pytest.raises(TrainingError, match=message):
        fit(_fresh(**arguments), small_data, _SHORT, seed=0)


def test_other_wrong_input_is_refused(small_data):
    with pytest.raises(ConfigError, match=r"fit\.learning_rate is 0\.0"):
        fit(_fresh(), small_data, FitConfig(learning_rate=0.0), seed=0)
    sigmoid = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(10, activation="sigmoid"),
        ]
    )
    with pytest.raises(TrainingError, match="ends in a sigmoid"):
        fit(sigmoid, small_data, _SHORT, seed=0)
    damaged = _fresh()
    damaged.set_weights([w * np.nan for w in damaged.get_weights()])
    with pytest.raises(TrainingError, match="NaN or infinite outputs"):
        fit(damaged, small_data, _SHORT, seed=0)


def test_endless_data_need_a_number_of_steps(small_data):
    endless = small_data.train.repeat()
    data = dataclasses.replace(small_data, train_dataset=lambda seed: endless, train_indices=None)
    with pytest.raises(TrainingError, match=r"without end; set data\.steps_per_epoch"):
        fit(_fresh(), data, FitConfig(epochs=1), seed=0)
    assert fit(_fresh(), data, _SHORT, seed=0).num_steps == 4


def test_data_of_unknown_length_are_counted(small_data):
    unknown = small_data.train.filter(lambda images, labels: labels[0] >= 0)
    totals = set()
    result = fit(
        _fresh(mobilenet_small),
        from_datasets(unknown, small_data.test),
        FitConfig(epochs=1),
        seed=0,
        on_step=lambda done, total, loss: totals.add(total),
    )
    assert totals == {50} and result.num_steps == 50


def test_tensorboard_gets_each_epoch(small_data, tmp_path):
    config = dataclasses.replace(_SHORT, epochs=2)
    result = fit(_fresh(), small_data, config, seed=0, log_dir=tmp_path / "logs")
    files = [str(path) for path in (tmp_path / "logs").iterdir()]
    logged = {}
    for record in tf.data.TFRecordDataset(files):
        event = event_pb2.Event.FromString(record.numpy())
        for value in event.summary.value:
            logged[value.tag, event.step] = float(tf.make_ndarray(value.tensor))
    for epoch in result.epochs:
        assert logged["train/loss", epoch.epoch] == pytest.approx(epoch.loss)
        assert logged["train/accuracy", epoch.epoch] == pytest.approx(epoch.accuracy)
    assert len(logged) == 6
