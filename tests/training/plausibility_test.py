"""A model and data that do not belong together are noticed."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest

from cprune_tf.training.plausibility import guessing_note, scaling_note


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
