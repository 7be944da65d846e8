"""Loads the models that command lines name."""

from __future__ import annotations

import pathlib
import typing

from absl import flags

from cprune_tf.cli import command_line, shape_flag

flags.adopt_module_key_flags(shape_flag)
UNSAFE_LAMBDA = flags.DEFINE_bool(
    "unsafe_lambda",
    False,
    "Run the Python code of Lambda layers in the model's file; only if you trust who made it.",
)


def load(name: str) -> typing.Any:
    """Loads a model by file or name, with the sizes of --input_shape and a batch of any size.

    Models of keras.applications get random weights.

    Args:
        name: A file, the name of an embedded model, or a name in keras.applications.

    Returns:
        The model.

    Raises:
        ModelError: There is no such model, or it cannot be read.
        ConfigError: --input_shape cannot be read.
        GraphError: --input_shape does not fit the model, or a layer is made for one batch size.
    """
    import keras

    from cprune_tf import models

    builder = getattr(keras.applications, name, None)
    if builder is not None and name[0].isupper() and not pathlib.Path(name).exists():
        loaded = builder(weights=None)
    else:
        loaded = models.load_model(name, unsafe_lambda=UNSAFE_LAMBDA.value)
    model, remark = models.with_fixed_inputs(loaded, shape_flag.input_shape())
    if remark:
        print(remark)
    return model


def load_for_compiling(name: str) -> typing.Any:
    """Loads a model and checks that programs can be compiled for it.

    Args:
        name: A file or name, as for `load`.

    Returns:
        The model.

    Raises:
        ModelError: There is no such model, or it cannot be read.
        ConfigError: --input_shape cannot be read.
        GraphError: --input_shape does not fit the model, or a layer is made for one batch size.
        UsageError: An input has no fixed size.
    """
    from cprune_tf.graph import unknown_sizes

    model = load(name)
    if problem := unknown_sizes(model):
        raise command_line.UsageError(problem)
    return model
