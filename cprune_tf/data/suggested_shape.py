"""Which shapes data have, to suggest them for a model that takes any."""

from __future__ import annotations

import contextlib
import itertools
import pathlib
from typing import TYPE_CHECKING, Any

import keras

from cprune_tf import graph
from cprune_tf.config import ConfigError, DataConfig
from cprune_tf.data import loader
from cprune_tf.data.datasets import find_function
from cprune_tf.data.image_data import DataError, ImageData
from cprune_tf.data.interface import Interface, interface_of
from cprune_tf.data.sources import as_source

if TYPE_CHECKING:
    import numpy as np

Shapes = list[tuple[int, ...]]

# Batches that must have the same shape for it to be the shape of the data.
_NUM_BATCHES = 4


def require_fixed_inputs(model: keras.Model, config: DataConfig, given: Any = None) -> None:
    """Refuses a model whose inputs have unknown sizes, and suggests those of the data.

    Args:
        model: The model.
        config: Names the data if none are given.
        given: Validation data as a caller gave them; None: those of the config.

    Raises:
        ConfigError: If a size is unknown.
        GraphError: If the model has no inputs and outputs.
    """
    if not graph.unknown_sizes(model):
        return
    shapes: Shapes | None = None
    # What is wrong with the data is said once the model can be used.
    with contextlib.suppress(DataError):
        shapes = _shapes(config, given, interface_of(model, any_size=True))
    raise ConfigError(graph.unknown_sizes(model, shapes))


def _shapes(config: DataConfig, given: Any, interface: Interface) -> Shapes | None:
    """The shapes of all inputs without the batch; None if the data have no fixed ones."""
    if given is None and loader.is_function(config.name):
        made = find_function(config.name)()
        given = made[0] if isinstance(made, tuple) and made else made
    if given is None:
        # Images of these are resized to whatever the model takes.
        is_resized = config.name.startswith("tfds:") or pathlib.Path(config.name).is_dir()
        return None if is_resized else [loader.load(config).input_shape]
    if isinstance(given, ImageData):
        return [given.input_shape]
    source = as_source(given, "The data", 1, interface=interface)
    batches = itertools.islice(source.in_order(), _NUM_BATCHES)
    found = [_of_batch(interface.in_order(batch[0], source.what)) for batch in batches]
    return found[0] if found and all(shapes == found[0] for shapes in found) else None


def _of_batch(inputs: list[np.ndarray]) -> Shapes:
    return [tuple(map(int, array.shape[1:])) for array in inputs]
