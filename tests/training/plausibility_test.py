"""A model and data that do not belong together are noticed."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest

from cprune_tf.data.interface import interface_of
from cprune_tf.data.samples import from_samples
from cprune_tf.training.plausibility import constant_note, guessing_note, scaling_note


@pytest.mark.parametrize(
    ("accuracy", "metric", "is_guessing"),
    [(0.1, "top1", True), (0.02, "top1", True), (0.2, "top1", False), (0.5, "top5", True)],
)
def test_an_accuracy_like_chance_is_noticed(small_data, accuracy, metric, is_guessing):
    note = guessing_note(accuracy, small_data, metric)
    assert bool(note) == is_guessing
    if note:
        assert all(part in note for part in ("data.mean", "data.class_names", "other classes"))


def test_a_few_images_prove_nothing(small_data):
    few = dataclasses.replace(
        small_data, test_images=small_data.test_images[:20], test_labels=small_data.test_labels[:20]
    )
    assert not guessing_note(0.0, few, "top1")


def _model(shape, *first):
    return keras.Sequential([keras.Input(shape), *first, keras.layers.Flatten()])


@pytest.mark.parametrize("is_nested", [False, True])
def test_pixels_that_are_scaled_twice_are_noticed(small_data, is_nested):
    shape = small_data.input_shape
    model = _model(shape, keras.layers.Rescaling(1 / 127.5, offset=-1, name="scale"))
    if is_nested:
        model = _model(shape, model)
    assert "'scale'" in scaling_note(model, small_data)
    raw = dataclasses.replace(small_data, test_images=small_data.test_images * np.float32(255))
    assert not scaling_note(model, raw)
    assert not scaling_note(_model(shape), small_data)
    assert not scaling_note(_model(shape, keras.layers.Rescaling(2.0)), small_data)


def _samples(outputs, labels, *, count=64):
    """A model with given heads on one number, and samples of that."""
    number = keras.Input((1,), name="number")
    model = keras.Model(number, outputs(number))
    numbers = np.linspace(-1, 1, count, dtype=np.float32)[:, np.newaxis]
    pair = numbers, labels(numbers)
    return model, from_samples(interface_of(model), pair, pair)


def _unit(activation, kernel, bias, units=1, name=None):
    def give(number):
        layer = keras.layers.Dense(units, activation, name=name)
        outputs = layer(number)
        layer.set_weights([np.full((1, units), kernel, np.float32), np.full(units, bias)])
        return outputs

    return give


@pytest.mark.parametrize(
    ("outputs", "labels", "said"),
    [
        (_unit("sigmoid", 0.1, -3.0), lambda x: x > 0.8, "always class 0"),
        (_unit("sigmoid", 5.0, 0.0), lambda x: x > 0.8, ""),
        # Of equal labels, a constant is the right answer.
        (_unit("sigmoid", 0.1, -3.0), lambda x: x > 2, ""),
        (
            _unit("softmax", 0.1, 0.0, units=3),
            lambda x: (x[:, 0] > 0).astype(int),
            "always class 0",
        ),
        (_unit(None, 0.0, 1.0), lambda x: x + 1, "the same numbers"),
        (_unit(None, 0.5, 1.0), lambda x: x + 1, ""),
    ],
)
def test_outputs_that_do_not_depend_on_the_sample_are_noticed(outputs, labels, said):
    model, data = _samples(outputs, lambda x: np.asarray(labels(x), np.float32))
    note = constant_note(model, data)
    assert said in note and bool(note) == bool(said)


def test_a_constant_output_of_several_is_named():
    def outputs(number):
        return {
            "kind": _unit("sigmoid", 5.0, 0.0, name="kind")(number),
            "size": _unit(None, 0.0, 1.0, name="size")(number),
        }

    model, data = _samples(outputs, lambda x: {"kind": x > 0, "size": x})
    note = constant_note(model, data)
    assert "size" in note and "kind" not in note.split("though")[0]
