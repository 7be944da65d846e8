"""The teacher of config.training.teacher for tasks of several inputs and outputs."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from cprune_tf.accuracy import Metric
from cprune_tf.config import ConfigError, FitConfig, PruneConfig, TrainingConfig
from cprune_tf.data import from_samples
from cprune_tf.data.interface import interface_of
from cprune_tf.task import Task, check_teacher, load_teacher
from cprune_tf.training.hooks import Trainer
from cprune_tf.training.scoring import Scorer, outputs_of
from tests.pipeline import task_models

_TAUGHT = TrainingConfig(
    short_term=FitConfig(epochs=30, learning_rate=0.1, weight_decay=0.0, distill=1.0),
    recalibration_batches=0,
    teacher="teacher.keras",
)


def _model(width=8, vector="vector", kind="softmax", as_dict=False, size=1):
    """An image and a vector in, a class and a number out."""
    keras.utils.set_random_seed(width)
    image, few = keras.Input((16, 16, 3), name="image"), keras.Input((4,), name=vector)
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(width, 3, activation="relu")(image))
    both = layers.Concatenate()([x, few])
    outputs = [layers.Dense(3, kind, name="kind")(both), layers.Dense(size, name="size")(both)]
    inputs = {"image": image, vector: few} if as_dict else [image, few]
    model = keras.Model(inputs, outputs)
    model.compile("sgd", ["sparse_categorical_crossentropy", "mse"])
    return model


def _task(model):
    images = np.random.default_rng(0).random((64, 16, 16, 3), np.float32)
    labels = (images.mean((1, 2)).argmax(-1), images.mean((1, 2, 3))[:, None])
    part = ((images, images[:, 0, :4, 0]), labels)
    data = from_samples(interface_of(model), part, part, batch_size=16)
    metric = Metric.named("loss")
    return Task(model, data, metric, Scorer(model, data.interface, metric, labels))


def _loaded(model, teacher, folder):
    path = folder / "teacher.keras"
    teacher.save(path)
    training = TrainingConfig(_TAUGHT.short_term, teacher=str(path))
    return load_teacher(PruneConfig(training=training), model, _task(model).data, False)


def test_all_outputs_are_taught_by_a_larger_model_that_takes_a_dict(tmp_path):
    task = _task(_model())
    teacher = _loaded(task.model, _model(width=16, as_dict=True), tmp_path)
    interface, inputs = task.data.interface, task.data.judges[0]

    def distances():
        pupils, taught = (
            outputs_of(one, model, inputs)
            for one, model in ((interface, task.model), (interface_of(teacher), teacher))
        )
        return [float(np.abs(a - b).mean()) for a, b in zip(pupils, taught, strict=True)]

    before = distances()
    Trainer(PruneConfig(training=_TAUGHT), task.data, teacher).short_term_train(task.model)
    assert all(now < 0.2 * then for now, then in zip(distances(), before, strict=True))


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        (lambda: _model(size=2), "has the outputs 'kind': 3, 'size': 2; expected .* 'size': 1"),
        (lambda: task_models.two_heads().model, "has the inputs 'image': 16x16x3; expected"),
        (lambda: _model(kind=None), "ends in neither a sigmoid nor a softmax, and the model's in"),
        (lambda: _model(vector="a", as_dict=True), "has the inputs 'a': 4, 'image'"),
    ],
)
def test_a_teacher_that_does_not_fit_is_one_error(teacher, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        _loaded(_model(), teacher(), tmp_path)


def test_a_teacher_that_is_worse_is_refused():
    task, settings = _task(_model()), PruneConfig(training=_TAUGHT)
    check_teacher(settings, task.model, task)
    worse = _model()
    worse.get_layer("size").bias.assign([50.0])
    with pytest.raises(ConfigError, match=r"has \d+ \(loss\) on the samples .* expected at most"):
        check_teacher(settings, worse, task)


def test_a_teacher_that_nothing_learns_from_is_refused():
    with pytest.raises(ConfigError, match=r"teacher is 'a[.]keras'; expected empty while distill"):
        TrainingConfig(teacher="a.keras").validate()
    with pytest.raises(ConfigError, match="optimizer of your compiled model"):
        load_teacher(PruneConfig(training=_TAUGHT), None, None, True)
