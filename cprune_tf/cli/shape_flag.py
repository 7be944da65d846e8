"""The flag that fixes the sizes of a model's inputs, for all commands that load a model."""

from __future__ import annotations

import ml_collections
from absl import flags

_INPUT_SHAPE = flags.DEFINE_multi_string(
    "input_shape",
    [],
    "Sizes without the batch, for a model that takes any, e.g. 224,224,3; repeated as "
    "NAME=224,224,3 for several inputs.",
)


def input_shape() -> str:
    """Returns what the flag says, in the form of `config.input_shape`; "" if it is not given."""
    return ";".join(_INPUT_SHAPE.value)


def replace_in(values: ml_collections.ConfigDict) -> None:
    """Sets `config.input_shape` to what the flag says, if it is given."""
    if _INPUT_SHAPE.value:
        with values.unlocked():  # a config file may hold a few fields only
            values.input_shape = input_shape()
