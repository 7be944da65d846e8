"""Loads the models that command lines name."""

from __future__ import annotations

import pathlib
import typing

from absl import flags

from cprune_tf.cli import command_line

UNSAFE_LAMBDA = flags.DEFINE_bool(
    "unsafe_lambda",
    False,
    "Run the Python code of Lambda layers in the model's file; only if you trust who made it.",
)


def load(name: str) -> typing.Any:
    """Loads a model by file or name; models of keras.applications get random weights.

    Args:
        name: A file, the name of an embedded model, or a name in keras.applications.

    Returns:
        The model.

    Raises:
        ModelError: There is no such model, or it cannot be read.
    """
    import keras

    from cprune_tf import models

    builder = getattr(keras.applications, name, None)
    if builder is not None and name[0].isupper() and not pathlib.Path(name).exists():
        return builder(weights=None)
    return models.load_model(name, unsafe_lambda=UNSAFE_LAMBDA.value)


def load_for_compiling(name: str) -> typing.Any:
    """Loads a model and checks that programs can be compiled for it.

    Args:
        name: A file or name, as for `load`.

    Returns:
        The model.

    Raises:
        ModelError: There is no such model, or it cannot be read.
        UsageError: An input has no fixed size, or a batch size other than 1.
    """
    model = load(name)
    for tensor in model.inputs:
        shape = tuple(tensor.shape)
        if None in shape[1:] or shape[0] not in (None, 1):
            raise command_line.UsageError(
                f"--model: the input {tensor.name!r} of {model.name!r} has the shape {shape}; "
                "expected fixed sizes and a batch of 1 (or any), since programs are compiled for "
                "one size. Rebuild the model with such an Input."
            )
    return model
