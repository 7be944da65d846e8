"""Models with inputs of the sizes that a config says, and a batch of any size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cprune_tf import graph
from cprune_tf.config.shapes import read_input_shape

if TYPE_CHECKING:
    import keras


def with_fixed_inputs(model: keras.Model, input_shape: str = "") -> tuple[keras.Model, str]:
    """Fixes a model's inputs as `config.input_shape` says, and frees a fixed batch.

    Args:
        model: A built functional or Sequential model; it is not modified.
        input_shape: See `config.shapes.read_input_shape`.

    Returns:
        The model itself or a copy, and what was changed, for people; "" for nothing.

    Raises:
        ConfigError: If `input_shape` cannot be read.
        GraphError: If it does not fit the model, or a layer is made for one batch size.
    """
    fixed = graph.fix_inputs(model, read_input_shape(input_shape))
    return fixed, graph.fixing_remark(model, fixed)
