"""Training by config.training of models that do not sort one image into classes."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from cprune_tf import training
from cprune_tf.accuracy import Metric
from cprune_tf.config import FitConfig
from cprune_tf.data import from_samples
from cprune_tf.data.interface import interface_of
from cprune_tf.graph.heads import output_activations
from cprune_tf.training import TrainingError, losses
from cprune_tf.training.heads import compiled_by_heads, heads_of

_INPUTS = np.random.default_rng(0).normal(size=(64, 6)).astype(np.float32)


def _model(head, units=3):
    """A head on a dense layer, made by the same weights each time."""
    keras.utils.set_random_seed(0)
    given = keras.Input((6,))
    return keras.Model(given, head(keras.layers.Dense(units, name="made")(given)))


def _inner(x):
    """The same inside a nested model."""
    given = keras.Input(x.shape[1:])
    return keras.Model(given, keras.layers.Dense(2, activation="sigmoid", name="in")(given))(x)


_HEADS = {
    "ops": (keras.ops.sigmoid, "sigmoid"),
    "layer": (keras.layers.Activation("sigmoid"), "sigmoid"),
    "nested": (_inner, "sigmoid"),
    "reshaped": (lambda x: keras.layers.Reshape((3, 1))(keras.ops.sigmoid(x)), "sigmoid"),
    "softmax": (keras.layers.Softmax(), "softmax"),
    "ops_softmax": (keras.ops.softmax, "softmax"),
    "joined": (lambda x: keras.ops.concatenate([keras.ops.sigmoid(x), x], -1), "linear"),
    "cut": (lambda x: keras.layers.Reshape((3, 1))(keras.ops.softmax(x)), "linear"),
    "tanh": (keras.ops.tanh, "linear"),
    "none": (keras.layers.Identity(), "linear"),
}


@pytest.mark.parametrize("name", _HEADS)
def test_what_an_output_ends_in_is_found_however_it_is_written(name):
    head, expected = _HEADS[name]
    assert output_activations(_model(head)) == (expected,)


def test_a_sigmoid_of_an_operation_is_not_taken_for_logits():
    with pytest.raises(TrainingError, match="ends in a sigmoid"):
        losses.gives_probabilities(_model(keras.ops.sigmoid), _INPUTS)


_CLASSES = _INPUTS[:, :3].argmax(-1)
_LABELS = {
    "sigmoid": (keras.ops.sigmoid, (_INPUTS[:, :3] > 0).astype(np.float32), "binary_cross"),
    "indices": (keras.layers.Softmax(), _CLASSES, "sparse_categorical"),
    "one_hot": (keras.layers.Softmax(), np.eye(3)[_CLASSES], "categorical"),
    "logits": (keras.layers.Identity(), _CLASSES[:, None], "sparse_categorical"),
    "one_hot_logits": (keras.layers.Identity(), np.eye(3)[_CLASSES], "categorical"),
    "numbers": (keras.layers.Identity(), _INPUTS[:, 1:4], "mean_squared"),
}


@pytest.mark.parametrize("name", _LABELS)
def test_losses_fit_outputs_and_labels_and_train(name):
    head, labels, loss = _LABELS[name]
    model, data = _model(head), (_INPUTS, labels.astype(np.float32))
    interface = interface_of(model)
    compiled, remark = compiled_by_heads(model, interface, Metric("loss", True), data[1])
    assert compiled.loss.name.startswith(loss)
    assert getattr(compiled.loss, "from_logits", True) == ("logits" in name or name == "numbers")
    assert loss.replace("_", " ") in remark and not model.compiled
    before = compiled.evaluate(*data, verbose=0)
    samples = from_samples(interface, data, data, batch_size=16)
    config = FitConfig(epochs=4, learning_rate=0.1, weight_decay=0.0)
    result = training.fit(compiled, samples, config, seed=0)
    assert np.isnan(result.epochs[0].accuracy)
    assert compiled.evaluate(*data, verbose=0) < 0.8 * before


@pytest.mark.parametrize("name", _LABELS)
def test_all_outputs_are_taught_by_the_teachers(name):
    head, labels, _ = _LABELS[name]
    teacher, interface = _model(head), interface_of(_model(head))
    student, _ = compiled_by_heads(teacher, interface, None, labels)
    student.get_layer("made").kernel.assign(-teacher.get_layer("made").kernel)
    (kind,) = {one.kind for one in heads_of(teacher, interface, labels)}
    before = float(losses.distance(kind, student(_INPUTS), teacher(_INPUTS)))
    samples = from_samples(interface, (_INPUTS, labels), (_INPUTS, labels), batch_size=16)
    config = FitConfig(epochs=6, learning_rate=0.1, weight_decay=0.0, distill=1.0)
    training.fit(student, samples, config, seed=0, teacher=teacher)
    assert float(losses.distance(kind, student(_INPUTS), teacher(_INPUTS))) < 0.2 * before
    assert float(losses.distance(kind, teacher(_INPUTS), teacher(_INPUTS))) < 1e-6


_BITS = (_INPUTS[:, :1] > 0).astype(np.float32)


def test_one_unit_without_a_sigmoid_is_a_number_and_that_is_said():
    model = _model(keras.layers.Identity(), units=1)
    interface = interface_of(model)
    compiled, remark = compiled_by_heads(model, interface, Metric.named("mse"), _BITS)
    assert compiled.loss.name == "mean_squared_error"
    assert "are 0 and 1, but without a sigmoid it is taken for a number" in remark
    _, remark = compiled_by_heads(model, interface, Metric.named("mse"), _BITS + 1)
    assert "sigmoid" not in remark
    for name in ("binary_accuracy", "auc"):
        with pytest.raises(TrainingError, match="nobody can tell whether it gives logits"):
            compiled_by_heads(model, interface, Metric.named(name), _BITS)


@pytest.mark.parametrize(
    ("head", "labels", "metric", "message"),
    [
        (keras.ops.sigmoid, _INPUTS[:, :3], "loss", "a sigmoid's, and its labels reach from -"),
        (keras.ops.softmax, _CLASSES + 1, "loss", "expected classes from 0 to 2"),
        (keras.ops.softmax, _INPUTS[:, :2], "loss", "expected the output's shape"),
        (keras.ops.softmax, _CLASSES, "recal", "metric is 'recal', and the model is not"),
        (keras.ops.softmax, (_CLASSES, _CLASSES), "loss", "None of the labels belongs"),
    ],
)
def test_labels_and_metrics_that_do_not_fit_are_refused(head, labels, metric, message):
    model = _model(head)
    with pytest.raises(TrainingError, match=message):
        compiled_by_heads(model, interface_of(model), Metric.named(metric), labels)
