"""Converts Keras 3 models to `.tflite`: batch size 1, variables frozen into constants."""

from __future__ import annotations

import tempfile
import typing
from collections.abc import Callable
from typing import Any

from cprune_tf import native_output
from cprune_tf.errors import UserError

if typing.TYPE_CHECKING:
    import keras

_ENDPOINT = "serve"


class ConversionError(UserError, ValueError):
    """A model cannot be converted to a `.tflite` file; the message says why."""


def convert(
    model: keras.Model, forward: Callable[..., Any] | None = None, weights: str = "float32"
) -> bytes:
    """Converts a model to LiteRT's file format without printing anything.

    The conversion goes through a SavedModel, because converting the traced function directly leaves
    the weights as variables, which LiteRT can neither fold nor delegate. Inputs and outputs are
    named "input_00", "output_00", ... in the model's order.

    Args:
        model: A built Keras model that computes in float32 and whose inputs have a fixed size in
            every dimension but the batch.
        forward: A function that computes the model's outputs from one tensor per input, for callers
            that need other names of operations; None to call the model.
        weights: The dtype that the file stores weights in: "float32", or "float16" for half the
            size. LiteRT computes in float32 with both.

    Returns:
        The content of the `.tflite` file, for a batch size of 1.

    Raises:
        ConversionError: The model is not built, has an input of unknown size, computes in another
            type than float32, or cannot be converted by TensorFlow.
    """
    _require_convertible(model)
    with (
        tempfile.TemporaryDirectory(prefix="cprune_tf_convert_") as directory,
        native_output.silenced(),
    ):
        try:
            return _convert(model, forward or _forward_of(model), directory, weights)
        except Exception as error:
            raise ConversionError(
                f"TensorFlow could not convert model {model.name!r} to TFLite: "
                f"{type(error).__name__}: {error}"
            ) from error


def _require_convertible(model: keras.Model) -> None:
    if not getattr(model, "built", False) or not getattr(model, "inputs", None):
        raise ConversionError(
            f"Model {model.name!r} has no defined inputs; expected a built model. Call it on data "
            "once, or build it from keras.Input, before converting it."
        )
    for tensor in model.inputs:
        if any(size is None for size in tensor.shape[1:]):
            raise ConversionError(
                f"Input {tensor.name!r} of model {model.name!r} has shape {tuple(tensor.shape)}; "
                "every size but the batch must be fixed. Build the model with a fixed input shape."
            )
    types = {variable.dtype for variable in model.weights} | {model.compute_dtype}
    if unsupported_types := types & {"float16", "bfloat16", "float64"}:
        raise ConversionError(
            f"Model {model.name!r} uses {', '.join(sorted(unsupported_types))}; only float32 "
            "models are converted. Build it under keras.config.set_dtype_policy('float32')."
        )


def _forward_of(model: keras.Model) -> Callable[..., Any]:
    """Returns a function that calls a model with one tensor per input."""

    def forward(*inputs: Any) -> Any:
        return model(inputs[0] if len(inputs) == 1 else list(inputs), training=False)

    return forward


def _convert(
    model: keras.Model, forward: Callable[..., Any], directory: str, weights: str
) -> bytes:
    import keras
    import tensorflow as tf

    def serve(*inputs: Any) -> dict[str, Any]:
        outputs = keras.tree.flatten(forward(*inputs))
        return {f"output_{i:02d}": y for i, y in enumerate(outputs)}

    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint(
        _ENDPOINT,
        serve,
        input_signature=[
            tf.TensorSpec((1, *tensor.shape[1:]), tensor.dtype, name=f"input_{i:02d}")
            for i, tensor in enumerate(model.inputs)
        ],
    )
    archive.write_out(directory, verbose=False)
    converter = tf.lite.TFLiteConverter.from_saved_model(directory)
    if weights == "float16":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
    return typing.cast(bytes, converter.convert())
