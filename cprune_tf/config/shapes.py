"""Shapes of inputs as text: "224,224,3" for the only input, "image=224,224,3;vector=8" by name."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from cprune_tf.config.checks import ConfigError

if TYPE_CHECKING:
    from cprune_tf.config.run import PruneConfig

# What shapes of inputs are given as in Python, beside the text.
InputShape = str | Sequence[int] | Mapping[str, Sequence[int]]

_EXPECTED = "'224,224,3' for the only input, or 'image=224,224,3;vector=8' by the inputs' names"
_ONE_INPUT = re.compile(r"(?:(?P<name>.+?)=)?(?P<sizes>\d+(?:\s*,\s*\d+)*)\s*(?:;|$)", re.DOTALL)


def read_input_shape(text: str) -> dict[str, tuple[int, ...]]:
    """Reads what `config.input_shape` says.

    Args:
        text: Sizes without the batch, or a name and sizes for each of several inputs.

    Returns:
        The sizes by the input's name; "" stands for the only input.

    Raises:
        ConfigError: The text says something else, or a size is 0.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    position = 0
    while position < len(text):
        found = _ONE_INPUT.match(text, position)
        name = (found["name"] or "") if found else ""
        sizes = tuple(map(int, found["sizes"].split(","))) if found else ()
        if found is None or name in shapes or 0 in sizes:
            raise ConfigError(
                f"config.input_shape (--input_shape) is {text!r}; expected sizes of 1 or more "
                f"without the batch, and no input twice: {_EXPECTED}."
            )
        shapes[name] = sizes
        position = found.end()
    if "" in shapes and len(shapes) > 1:
        raise ConfigError(
            f"config.input_shape (--input_shape) is {text!r}, where some shapes have a name and "
            f"others have none; expected {_EXPECTED}."
        )
    return shapes


def with_input_shape(config: PruneConfig, shape: InputShape | None) -> PruneConfig:
    """Returns the config with another `input_shape`; None: the config as it is."""
    if shape is None:
        return config
    return dataclasses.replace(config, input_shape=write_input_shape(shape))


def write_input_shape(shape: InputShape) -> str:
    """Returns the text of a shape, or of shapes by the inputs' names, for `config.input_shape`."""
    if isinstance(shape, str):
        return shape
    if isinstance(shape, Mapping):
        return ";".join(f"{name}={write_input_shape(sizes)}" for name, sizes in shape.items())
    return ",".join(map(str, shape))
