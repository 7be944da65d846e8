"""The one error of the training room, and the check that everything there starts with."""

from __future__ import annotations

import keras

from cprune_tf.data import ImageData
from cprune_tf.errors import UserError


class TrainingError(UserError, ValueError):
    """A training or evaluation that cannot go on: says what happened and what to do."""


def check_model(model: keras.Model, data: ImageData) -> None:
    """Raises TrainingError unless the model takes the images and gives one output per class."""
    expected = (None, *data.input_shape), (None, data.num_classes)
    received = model.input_shape, model.output_shape
    if received != expected:
        raise TrainingError(
            f"model {model.name!r} takes {received[0]} and gives {received[1]}; the data "
            f"{data.name} need a model that takes {expected[0]} and gives {expected[1]}."
        )
