"""Converts Keras 3 models to `.tflite`: batch size 1, variables frozen into constants."""

from __future__ import annotations

import logging
import tempfile
import typing
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from cprune_tf import native_output
from cprune_tf.graph.copying import plain_layers
from cprune_tf.graph.fixing import unknown_sizes
from cprune_tf.graph.naming import any_names, savable_twin
from cprune_tf.litert import precisions
from cprune_tf.litert.errors import ConversionError

PRECISIONS = ("float32", "float16", "int8")

_ENDPOINT = "serving_default"
_MAX_REASON_LENGTH = 600  # characters
_logger = logging.getLogger(__name__)

# One array [num_images, ...] for each input of a model; an array alone for a single input.
Images = npt.NDArray[Any] | Sequence[npt.NDArray[Any]]


def convert(
    model: keras.Model,
    forward: Callable[..., Any] | None = None,
    *,
    precision: str = "float32",
    representative: Images | None = None,
    keep_float: Sequence[str] = (),
    sparse: bool = False,
) -> bytes:
    """Converts a model to LiteRT's file format without printing anything.

    The conversion goes through a SavedModel, because converting the traced function directly leaves
    the weights as variables, which LiteRT can neither fold nor delegate. Inputs and outputs are
    named "input_00", "output_00", ... in the model's order, and are float32 at every precision.

    A model that computes in float16, bfloat16 or float64, in whole or in part, is converted through
    a float32 copy, which is logged as a warning.

    Args:
        model: A built Keras model whose inputs have a fixed size in every dimension but the batch.
        forward: A function that computes the model's outputs from one tensor per input, for callers
            that need other names of operations; None to call the model. Not for int8, which needs
            names of its own.
        precision: "float32"; "float16": weights are stored as float16, and the device computes in
            what it has; "int8": see `quantization.quantize`, which also tells what stays float.
        representative: For int8, images as for `quantization.quantize`.
        keep_float: For int8, patterns of the Keras layers that stay float32.
        sparse: For float32: whether weights that are mostly zero are stored without their zeros, as
            TensorFlow sees fit.

    Returns:
        The content of the `.tflite` file, for a batch size of 1.

    Raises:
        ConversionError: The model is not built, has an input of unknown size, was quantised by
            Keras, or cannot be converted by TensorFlow; or the arguments do not fit.
    """
    if sparse and precision != "float32":
        raise ConversionError(f"sparse=True is for float32; the precision is {precision!r}.")
    if precision == "int8":
        from cprune_tf.litert import quantization  # which stands on this module

        if forward is not None:
            raise ConversionError("precision='int8' takes no `forward`; expected None.")
        quantized = quantization.quantize(model, representative, keep_float=keep_float)
        _warn(quantized.remarks)
        return quantized.content
    if precision not in PRECISIONS:
        raise ConversionError(
            f"precision is {precision!r}; expected one of {', '.join(PRECISIONS)}."
        )
    if representative is not None or keep_float:
        raise ConversionError(
            f"precision is {precision!r}, which needs neither `representative` nor `keep_float`; "
            "give them with precision='int8' only."
        )
    plain, remarks = convertible(model)
    if plain is not model and forward is not None:
        remark = (*remarks, "Its layers were built with a colon in their names.")[0]
        raise ConversionError(f"{remark} So it takes no `forward`; expected None.")
    _warn(remarks)
    half = precision == "float16"
    return to_tflite(plain, forward or _forward_of(plain), half=half, sparse=sparse)


def convertible(model: keras.Model) -> tuple[keras.Model, tuple[str, ...]]:
    """Checks that a model can be converted, and makes a float32 copy if it has other types.

    Args:
        model: The model.

    Returns:
        The model or its copy, and remarks for the user.

    Raises:
        ConversionError: The model cannot be converted; says why.
    """
    _require_fixed_inputs(model)
    precisions.require_unquantized(model)
    _require_no_tables(model)
    types = precisions.other_float_types(model)
    if not types:
        return savable_twin(model), ()
    remark = (
        f"Model {model.name!r} uses {', '.join(types)}; it is converted through a float32 copy, "
        "whose outputs differ a little."
    )
    return precisions.float32_twin(model), (remark,)


def to_tflite(
    model: keras.Model,
    forward: Callable[..., Any],
    *,
    half: bool = False,
    sparse: bool = False,
) -> bytes:
    """Converts a float32 model; see `convert`.

    Args:
        model: A model that `convertible` has passed.
        forward: Computes the model's outputs from one tensor per input.
        half: Whether weights are stored as float16.
        sparse: Whether weights that are mostly zero are stored without their zeros.

    Returns:
        The content of the file.

    Raises:
        ConversionError: TensorFlow cannot convert the model.
    """
    with (
        tempfile.TemporaryDirectory(prefix="cprune_tf_convert_") as directory,
        native_output.silenced(),
        any_names(),
    ):
        try:
            return _convert(model, forward, directory, half, sparse)
        except Exception as error:
            raise ConversionError(
                f"TensorFlow could not convert model {model.name!r} to TFLite: "
                f"{type(error).__name__}: {_reasons(str(error))}"
            ) from error


def as_arrays(model: keras.Model, images: Images | None) -> list[npt.NDArray[Any]]:
    """Checks images that are to represent what a model will see.

    Args:
        model: The model.
        images: One array for each input, or the only one.

    Returns:
        One array for each input, [num_images, ...], of the input's type.

    Raises:
        ConversionError: There are no images, or they do not fit the model.
    """
    arrays = [images] if isinstance(images, np.ndarray) else list(images or ())
    if not arrays or not len(arrays[0]):
        raise ConversionError(
            "There are no representative images; int8 needs some to find the ranges of all "
            "tensors. Give preprocessed training images, some hundreds of them "
            "(config.quantization.num_images)."
        )
    received = [array.shape for array in arrays]
    expected = [tuple(tensor.shape) for tensor in model.inputs]
    if [shape[1:] for shape in received] != [shape[1:] for shape in expected] or (
        len({shape[0] for shape in received}) > 1
    ):
        raise ConversionError(
            f"The representative images have the shapes {received}; model {model.name!r} takes "
            f"{expected}: expected one array for each input, all with equally many images."
        )
    if not all(np.isfinite(array).all() for array in arrays):
        raise ConversionError(
            "The representative images hold NaN or infinite values; expected finite numbers, "
            "preprocessed as for the model."
        )
    return [
        np.asarray(array, keras.backend.standardize_dtype(tensor.dtype))
        for array, tensor in zip(arrays, model.inputs, strict=True)
    ]


def _require_no_tables(model: keras.Model) -> None:
    tables = [layer for layer in plain_layers(model) if hasattr(layer, "lookup_table")]
    if tables:
        layers = ", ".join(f"{layer.name!r} ({type(layer).__name__})" for layer in tables)
        raise ConversionError(
            f"Model {model.name!r} looks values up in a table: {layers}. LiteRT has no such "
            "operation; expected numbers as the model's inputs. Do the lookup before the model."
        )


def _reasons(text: str) -> str:
    """What a person can read of TensorFlow's error, which can hold the whole model as MLIR."""
    lines = text.splitlines()
    reasons = [line for line in lines if "error:" in line] or lines
    shortened = "\n".join(dict.fromkeys(line[:_MAX_REASON_LENGTH] for line in reasons))
    return shortened[:_MAX_REASON_LENGTH]


def _warn(remarks: Sequence[str]) -> None:
    for remark in remarks:
        _logger.warning("%s", remark)


def _require_fixed_inputs(model: keras.Model) -> None:
    if not getattr(model, "built", False) or not getattr(model, "inputs", None):
        raise ConversionError(
            f"Model {model.name!r} has no defined inputs; expected a built model. Call it on data "
            "once, or build it from keras.Input, before converting it."
        )
    if problem := unknown_sizes(model):
        raise ConversionError(f"{problem} cprune_tf.graph.fix_inputs does it for a model.")


def _forward_of(model: keras.Model) -> Callable[..., Any]:
    """Returns a function that calls a model with one tensor per input."""

    def forward(*inputs: Any) -> Any:
        return model(inputs[0] if len(inputs) == 1 else list(inputs), training=False)

    return forward


def _convert(
    model: keras.Model, forward: Callable[..., Any], directory: str, half: bool, sparse: bool
) -> bytes:
    import tensorflow as tf

    def serve(*inputs: Any) -> dict[str, Any]:
        outputs = keras.tree.flatten(forward(*inputs))
        return {f"output_{i:02d}": y for i, y in enumerate(outputs)}

    # Only the function and the variables are saved: Keras's own export saves every layer's
    # functions too, which takes as long as all the rest and of which the converter reads nothing.
    module = tf.Module()
    module.saved_variables = [variable.value for variable in model.variables]
    module.serve = tf.function(
        serve,
        input_signature=[
            tf.TensorSpec((1, *tensor.shape[1:]), tensor.dtype, name=f"input_{i:02d}")
            for i, tensor in enumerate(model.inputs)
        ],
        autograph=False,
    )
    tf.saved_model.save(module, directory, signatures={_ENDPOINT: module.serve})
    converter = tf.lite.TFLiteConverter.from_saved_model(directory)
    if half:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
    if sparse:
        converter.optimizations = [tf.lite.Optimize.EXPERIMENTAL_SPARSITY]
    return typing.cast(bytes, converter.convert())
