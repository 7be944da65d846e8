"""The frontends that turn a Keras model into Relax, by their names in `config.frontend`."""

from __future__ import annotations

from typing import Any

from cprune_tf.compiler.importer.importing import ImportedModel, import_model
from cprune_tf.errors import UserError


class MissingTfliteError(UserError, ImportError):
    """The package that reads `.tflite` files is not installed."""


def import_through(frontend: str, model: Any) -> ImportedModel:
    """Imports a model for a batch of 1.

    Args:
        frontend: "keras" for this package's converters; "tflite" for TensorFlow's TFLite converter
            and TVM's TFLite frontend, as a second opinion.
        model: A built functional or Sequential Keras 3 model.

    Returns:
        The Relax module, its parameters, and the Keras layers that each of them came from.

    Raises:
        ValueError: There is no such frontend, or it cannot import the model. The error then names
            every unsupported operation.
        MissingTfliteError: The frontend needs the `tflite` package, which is not installed.
    """
    if frontend == "keras":
        return import_model(model)
    if frontend == "tflite":
        # Imported here because TensorFlow's converter and TVM's frontend take a second to load.
        from cprune_tf.compiler.importer.tflite_frontend import import_through_tflite

        return import_through_tflite(model)
    raise ValueError(f"There is no frontend {frontend!r}; expected 'keras' or 'tflite'.")
