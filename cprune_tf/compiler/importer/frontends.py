"""The ways from a Keras model to Relax, by the names that `config.frontend` knows."""

from __future__ import annotations

from typing import Any

from cprune_tf.compiler.importer.importing import ImportedModel, import_model
from cprune_tf.errors import UserError


class MissingTfliteError(UserError, ImportError):
    """The package that reads `.tflite` files is not installed."""


def import_through(frontend: str, model: Any) -> ImportedModel:
    """Imports a model for a batch of 1.

    Args:
        frontend: "keras": this package's own converters. "tflite": TensorFlow's converter and
            TVM's TFLite frontend, as a second opinion.
        model: A built functional or Sequential Keras 3 model.

    Returns:
        The module, its parameters, and what came from which layer.

    Raises:
        ValueError: There is no such frontend, or the model cannot be imported through it; names
            every operation that stands in the way.
        MissingTfliteError: The `tflite` package is needed and not installed.
    """
    if frontend == "keras":
        return import_model(model)
    if frontend == "tflite":
        # TensorFlow's converter and TVM's frontend take a second to import.
        from cprune_tf.compiler.importer.tflite_frontend import import_through_tflite

        return import_through_tflite(model)
    raise ValueError(f"There is no frontend {frontend!r}; expected 'keras' or 'tflite'.")
