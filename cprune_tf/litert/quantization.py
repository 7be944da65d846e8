"""Post-training static quantisation to int8 with ai-edge-quantizer.

Weights get one scale for each output channel, and are symmetric. Every other tensor gets one scale
and one zero point, from the range that it takes on representative images. Biases are int32.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import io
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy.typing as npt

from cprune_tf import native_output
from cprune_tf.devices.agent.arrays import random_array
from cprune_tf.graph import flat
from cprune_tf.graph.errors import GraphError
from cprune_tf.graph.flat import FlatGraph
from cprune_tf.litert import conversion, scopes, tflite_graph
from cprune_tf.litert.bias_correction import BiasCorrection, correct_biases
from cprune_tf.litert.bias_range import fit_biases
from cprune_tf.litert.errors import ConversionError

INPUT_TYPES = ("float32", "int8")

_SIGNATURE = "serving_default"
# Operators that only change how numbers are stored, in any file with int8.
CASTS = ("QUANTIZE", "DEQUANTIZE")


@dataclasses.dataclass(frozen=True)
class FloatOperator:
    """An operator of an int8 file that computes in float32.

    Attributes:
        code: The name of its operator code: "CONV_2D", ...
        layers: The Keras layers that it is known to compute.
        requested: Whether `keep_float` asked for it; otherwise there is no int8 form of it.
    """

    code: str
    layers: tuple[str, ...]
    requested: bool

    def __str__(self) -> str:
        return f"{', '.join(self.layers) or 'an unnamed layer'} ({self.code})"


@dataclasses.dataclass(frozen=True, eq=False)
class Quantized:
    """A quantised model.

    Attributes:
        content: The content of the int8 `.tflite` file.
        float_content: The content of the float32 file, without any correction of biases; the
            tensors of both have the same names.
        graph: The calls of the Keras model that was converted.
        float_operators: What computes in float32 in `content`.
        correction: What the correction of biases did; None without one.
        remarks: What the user should know, in whole sentences.
    """

    content: bytes = dataclasses.field(repr=False)
    float_content: bytes = dataclasses.field(repr=False)
    graph: FlatGraph = dataclasses.field(repr=False)
    float_operators: tuple[FloatOperator, ...]
    correction: BiasCorrection | None
    remarks: tuple[str, ...]


def quantize(
    model: keras.Model,
    images: conversion.Images | None,
    *,
    keep_float: Sequence[str] = (),
    inputs: str = "float32",
    correct_bias: bool = False,
) -> Quantized:
    """Quantises a model to int8.

    Args:
        model: A built model, functional or Sequential, whose inputs have a fixed size.
        images: Preprocessed training images, [num_images, ...]; one array for each input, or the
            only one. The ranges of all tensors come from them.
        keep_float: Patterns (fnmatch) of the names of Keras layers that stay float32.
        inputs: The type of the file's inputs and outputs: "float32", or "int8" with the scale and
            zero point that the file states.
        correct_bias: Whether biases are corrected first; see `bias_correction`.

    Returns:
        The int8 file, for a batch size of 1, and what is known about it.

    Raises:
        ConversionError: The model or the images cannot be used, a pattern matches nothing, no
            operator has an int8 form, or ai-edge-quantizer is missing.
    """
    if inputs not in INPUT_TYPES:
        raise ConversionError(f"inputs is {inputs!r}; expected one of {', '.join(INPUT_TYPES)}.")
    _require_package()
    plain, remarks = conversion.convertible(model)
    arrays = conversion.as_arrays(plain, images)
    try:
        graph = flat.flatten(plain)
    except GraphError as error:
        raise ConversionError(f"int8 needs a model with a known graph: {error}") from error
    float_content = base = conversion.to_tflite(plain, scopes.scoped_forward(graph))
    kept = _kept_operators(float_content, graph, keep_float)
    correction = None
    if correct_bias:
        names = {layer for op in kept for layer in tflite_graph.layer_names(op, graph)}
        corrected, correction = correct_biases(plain, arrays, names)
        base = conversion.to_tflite(corrected, scopes.scoped_forward(flat.flatten(corrected)))
    content = _quantize_file(base, graph, arrays, kept, inputs)
    requested = {operator.outputs[0].name for operator in kept}
    float_operators = tuple(_float_operators(content, graph, requested))
    _require_int8(content, graph, model, float_operators)
    return Quantized(
        content,
        float_content,
        graph,
        float_operators,
        correction,
        (*remarks, *_remarks(float_operators)),
    )


def quantize_for_timing(
    float_content: bytes, graph: FlatGraph, *, keep_float: Sequence[str] = (), inputs: str
) -> bytes:
    """Quantises a file with made-up ranges: it has the latency of `quantize`'s, but no accuracy.

    Args:
        float_content: The content of a float32 file that was traced by `scopes.scoped_forward`.
        graph: The graph that it was converted from.
        keep_float: As for `quantize`.
        inputs: As for `quantize`.

    Returns:
        The content of the int8 file. Its operators are those of the float32 file in the same
        order, with those of `CASTS` between them.

    Raises:
        ConversionError: A pattern matches nothing, no operator has an int8 form, or
            ai-edge-quantizer is missing.
    """
    _require_package()
    arrays = [
        random_array(keras.backend.standardize_dtype(tensor.dtype), (1, *tensor.shape[1:]), number)
        for number, tensor in enumerate(graph.model.inputs)
    ]
    kept = _kept_operators(float_content, graph, keep_float)
    content = _quantize_file(float_content, graph, arrays, kept, inputs)
    _require_int8(content, graph, graph.model, tuple(_float_operators(content, graph, set())))
    return content


def _require_package() -> None:
    try:
        import ai_edge_quantizer  # noqa: F401
    except ImportError as error:
        raise ConversionError(
            "precision='int8' needs the package ai-edge-quantizer, but it is not installed. Run: "
            "pip install ai-edge-quantizer (or cprune_tf[int8])."
        ) from error


def _kept_operators(
    float_content: bytes, graph: FlatGraph, patterns: Sequence[str]
) -> list[tflite_graph.FileOperator]:
    """Returns the operators of a file that compute layers which patterns name."""
    operators = tflite_graph.read_operators(float_content, graph)
    names = [tflite_graph.layer_names(operator, graph) for operator in operators]
    kept: set[int] = set()
    for pattern in patterns:
        matching = {
            number
            for number, layers in enumerate(names)
            if any(fnmatch.fnmatchcase(layer, pattern) for layer in layers)
        }
        if not matching:
            known = list(dict.fromkeys(layer for layers in names for layer in layers))
            raise ConversionError(
                f"keep_float has the pattern {pattern!r}, which matches no layer that an operator "
                f"of the file is known to compute; these are {', '.join(known)}. A layer that is "
                "fused into another one, as a batch norm is, goes by the other one's name."
            )
        kept |= matching
    return [operators[number] for number in sorted(kept)]


def _quantize_file(
    float_content: bytes,
    graph: FlatGraph,
    arrays: Sequence[npt.NDArray[Any]],
    kept: Sequence[tflite_graph.FileOperator],
    inputs: str,
) -> bytes:
    from ai_edge_quantizer import quantizer

    recipe = _recipe(kept, inputs)
    with _quiet():
        ranges = _ranges(float_content, arrays, recipe)
        if not ranges:
            return float_content  # no operator has an int8 form
        changed = bytearray(float_content)
        fit_biases(tflite_graph.read_operators(changed, graph), ranges)
        result = quantizer.Quantizer(changed, recipe).quantize(
            ranges, enable_progress_bar=False, enable_progress_report=False
        )
    return bytes(result.quantized_model)


def _recipe(kept: Sequence[tflite_graph.FileOperator], inputs: str) -> Any:
    """Says what becomes int8, as ai-edge-quantizer reads it."""
    from ai_edge_quantizer import qtyping, recipe, recipe_manager

    names = qtyping.TFLOperationName
    rules = recipe_manager.RecipeManager()
    rules.load_quantization_recipe(recipe.static_wi8_ai8())

    def exclude(pattern: str, operation: Any) -> None:
        rules.add_quantization_config(
            pattern, operation, algorithm_key=recipe_manager.AlgorithmName.NO_QUANTIZE
        )

    for operator in kept:
        # An operator is found by the names of its outputs, each followed by a semicolon.
        name = "".join(f"{tensor.name};" for tensor in operator.outputs)
        exclude(f"^{re.escape(name)}$", names.ALL_SUPPORTED)
    if inputs == "float32":
        exclude(".*", names.INPUT)
        exclude(".*", names.OUTPUT)
    return rules.get_quantization_recipe()


def _ranges(
    float_content: bytes, arrays: Sequence[npt.NDArray[Any]], recipe: Any
) -> dict[str, Any]:
    """Returns the least and largest value of every tensor that becomes int8, by its name."""
    from ai_edge_quantizer import calibrator, recipe_manager
    from ai_edge_quantizer.utils import qsv_utils

    rules = recipe_manager.RecipeManager()
    rules.load_quantization_recipe(recipe)
    samples = [
        {f"input_{i:02d}": array[n : n + 1] for i, array in enumerate(arrays)}
        for n in range(len(arrays[0]))
    ]
    # The package's default ranges are moving averages of each image's extremes, which half of the
    # images exceed.
    found = calibrator.Calibrator(
        float_content,
        num_threads=os.cpu_count() or 1,
        qsv_update_func=qsv_utils.min_max_update,
    )
    found.calibrate({_SIGNATURE: samples}, rules)
    return dict(found.get_model_qsvs())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Discards the progress bar of the package, which has no switch."""
    with native_output.silenced(), contextlib.redirect_stderr(io.StringIO()):
        yield


def _float_operators(
    content: bytes, graph: FlatGraph, requested: set[str]
) -> Iterator[FloatOperator]:
    for operator in tflite_graph.read_operators(content, graph):
        if operator.code in CASTS or operator.outputs[0].dtype != "float32":
            continue
        layers = tflite_graph.layer_names(operator, graph)
        yield FloatOperator(operator.code, layers, operator.outputs[0].name in requested)


def _require_int8(
    content: bytes,
    graph: FlatGraph,
    model: keras.Model,
    float_operators: Sequence[FloatOperator],
) -> None:
    operators = tflite_graph.read_operators(content, graph)
    if any(op.outputs[0].dtype == "int8" and op.code not in CASTS for op in operators):
        return
    raise ConversionError(
        f"Nothing of model {model.name!r} would compute in int8: "
        f"{'; '.join(map(str, float_operators[:5])) or 'it has no operators'}. Convert it with "
        "precision='float32', or keep less of it float."
    )


def _remarks(float_operators: Sequence[FloatOperator]) -> Iterator[str]:
    lacking = [str(operator) for operator in float_operators if not operator.requested]
    if lacking:
        yield (
            f"{len(lacking)} operator{' has' if len(lacking) == 1 else 's have'} no int8 form and "
            f"compute{'s' if len(lacking) == 1 else ''} in float32, with conversions around: "
            f"{'; '.join(lacking)}."
        )
