"""Models as the command lines name them."""

from __future__ import annotations

import pathlib
import typing


def load(name: str) -> typing.Any:
    """A model by file, embedded name or keras.applications name (random weights).

    Args:
        name: As given on the command line.

    Returns:
        The model.
    """
    import keras

    from cprune_tf import models

    builder = getattr(keras.applications, name, None)
    if builder is not None and name[0].isupper() and not pathlib.Path(name).exists():
        return builder(weights=None)
    return models.load_model(name)
