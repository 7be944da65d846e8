"""The one error of the training room, and the check that everything there starts with."""

from __future__ import annotations

import keras

from cprune_tf.data import Data, ImageData
from cprune_tf.data.interface import interface_of
from cprune_tf.errors import UserError


class TrainingError(UserError, ValueError):
    """A training or evaluation that cannot go on: says what happened and what to do."""


def check_model(model: keras.Model, data: Data) -> None:
    """Raises TrainingError unless the model takes and gives what the data are for."""
    if not isinstance(data, ImageData):
        shapes = [
            [port.shape for port in (*one.inputs, *one.outputs)]
            for one in (interface_of(model), data.interface)
        ]
        if shapes[0] != shapes[1]:
            raise TrainingError(
                f"model {model.name!r} has {interface_of(model)}; the data {data.name} need "
                f"{data.interface}."
            )
        return
    expected = (None, *data.input_shape), (None, data.num_classes)
    received = model.input_shape, model.output_shape
    if received != expected:
        raise TrainingError(
            f"model {model.name!r} takes {received[0]} and gives {received[1]}; the data "
            f"{data.name} need a model that takes {expected[0]} and gives {expected[1]}."
        )
