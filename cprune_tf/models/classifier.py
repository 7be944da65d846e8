"""What an image classifier takes and gives: the one check for the API and the commands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cprune_tf.config import ConfigError
from cprune_tf.graph import inputs_and_outputs, unknown_sizes

if TYPE_CHECKING:
    import keras


def shape_and_classes(model: keras.Model) -> tuple[tuple[int, int, int], int]:
    """Returns a classifier's image shape (height, width, channels) and number of classes.

    Args:
        model: A built functional or Sequential model.

    Raises:
        GraphError: If it has no inputs and outputs.
        ConfigError: If they are not one image of fixed size and one output of classes.
    """
    inputs, outputs = inputs_and_outputs(model)
    is_classifier = (
        len(inputs) == len(outputs) == 1
        and len(inputs[0].shape) == 4
        and len(outputs[0].shape) == 2
        and outputs[0].shape[1] is not None
    )
    if not is_classifier:
        raise ConfigError(
            f"The model has inputs {[tuple(t.shape) for t in inputs]} and "
            f"outputs {[tuple(t.shape) for t in outputs]}; expected one image "
            "[batch, height, width, channels] and one output [batch, classes]."
        )
    shape = tuple(inputs[0].shape[1:])
    if problem := unknown_sizes(model):
        raise ConfigError(problem)
    return (int(shape[0]), int(shape[1]), int(shape[2])), int(outputs[0].shape[1])
