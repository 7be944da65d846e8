"""Imports the int8 file of a model through TVM's TFLite frontend.

TVM computes such a file with float32 arithmetic between roundings: each operator converts its
inputs to float32 and rounds its result to the file's steps. Its outputs are those of LiteRT, or one
step beside them where the two round half a step differently; no int8 arithmetic is used.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from tvm import relax
from tvm.relax.frontend.tflite.tflite_frontend import get_tensor_name

from cprune_tf.compiler.importer.importing import ImportedModel
from cprune_tf.compiler.importer.registry import UnsupportedOperationError
from cprune_tf.compiler.importer.tflite_frontend import (
    OperatorRecorder,
    describe,
    import_traced,
    require_tflite,
)
from cprune_tf.graph.flat import Call
from cprune_tf.litert.quantization import CASTS, Quantized
from cprune_tf.litert.tflite_graph import repacked
from cprune_tf.litert.tracing import TracedFile, trace

# TVM's converters of these take float32 only, and that of the average cuts digits off where LiteRT
# rounds. They are converted as float32 operators between a conversion to float32 and one back.
_BETWEEN_CONVERSIONS = frozenset(
    {
        "AVERAGE_POOL_2D",
        "BATCH_MATMUL",
        "BROADCAST_TO",
        "GATHER",
        "MIRROR_PAD",
        "PACK",
        "PAD",
        "RESIZE_NEAREST_NEIGHBOR",
        "SLICE",
        "SPACE_TO_DEPTH",
        "SPLIT",
        "STRIDED_SLICE",
        "TRANSPOSE",
    }
)


def import_quantized(quantized: Quantized) -> ImportedModel:
    """Converts an int8 file to Relax.

    Args:
        quantized: The result of `litert.quantize`.

    Returns:
        The same as `import_model`, for a batch size of 1. Parameters are float32 and hold the
        rounded weights.

    Raises:
        MissingTfliteError: The `tflite` package is not installed.
        UnsupportedOperationError: TVM cannot import or compile operators of the file; the error
            names them and their layers.
    """
    require_tflite()
    return import_traced(quantized.graph, _traced(quantized), _Int8Recorder)


def _traced(quantized: Quantized) -> TracedFile:
    """Ties the int8 file's operators to calls, which the float32 file tells in the same order."""
    graph = quantized.graph
    known = trace(graph, lambda *_: quantized.float_content)
    file = trace(graph, lambda *_: repacked(quantized.content))
    calls = _calls(file, iter(known.calls))
    return dataclasses.replace(file, calls=tuple(calls), untied=known.untied)


def _calls(
    file: TracedFile, of_operators: Iterator[tuple[Call, ...]]
) -> Iterator[tuple[Call, ...]]:
    for operator in file.operators:
        yield () if operator.code in CASTS else next(of_operators)


class _Int8Recorder(OperatorRecorder):
    """The converter, which also converts quantised operators that TVM's refuses."""

    advice = "Keep these layers in float32 (keep_float), or run the int8 file with LiteRT."
    _is_plain = False

    def check_unsupported_ops(self) -> None:
        """Raises UnsupportedOperationError if there is no converter for an operator."""
        descriptions = [
            describe(operator, calls)
            for number, (operator, calls) in enumerate(
                zip(self._file.operators, self._file.calls, strict=True)
            )
            if operator.code not in self._SUPPORTED_QUANTIZED_OPS | _BETWEEN_CONVERSIONS
            and self._quantized(self.subgraph.Operators(number))
        ]
        if descriptions:
            raise UnsupportedOperationError(
                "TVM's TFLite frontend has no int8 form of "
                f"{'; '.join(dict.fromkeys(descriptions))}. {self.advice}"
            )
        self._is_plain = True
        super().check_unsupported_ops()
        self._is_plain = False

    def get_tensors(self, tensors_idx_list: Any) -> list[Any]:
        """Returns tensors; without scales while an operator is converted as a float32 one."""
        tensors: list[Any] = super().get_tensors(tensors_idx_list)
        if self._is_plain:
            for tensor in tensors:
                tensor.qnn_params = None
        return tensors

    def converted(self, code: str, convert: Callable[..., Any], op: Any) -> Any:
        """See OperatorRecorder. The float32 form between conversions, where there is no other."""
        if code not in _BETWEEN_CONVERSIONS or not self._quantized(op):
            return convert(op=op)
        given = {tensor: self.exp_tab.exprs.get(self._name(tensor)) for tensor in self._inputs(op)}
        for tensor in given:
            value = self.bb.emit(self.dequantize(self.get_tensor_expr(tensor), tensor))
            self.exp_tab.set_expr(self._name(tensor), value, force_override=True)
        self._is_plain = True
        try:
            result = convert(op=op)
        finally:
            self._is_plain = False
            for tensor, expr in given.items():
                self.exp_tab.exprs.pop(self._name(tensor))
                if expr is not None:
                    self.exp_tab.set_expr(self._name(tensor), expr)
        outputs = self.get_output_tensors(op)
        if len(outputs) == 1:
            return self.quantize(result, outputs[0])
        parts = self.bb.emit(result)
        rounded = (self.quantize(parts[i], output) for i, output in enumerate(outputs))
        return relax.Tuple([self.bb.emit(part) for part in rounded])

    def _quantized(self, op: Any) -> bool:
        return any(tensor.qnn_params for tensor in self.get_output_tensors(op))

    def _inputs(self, op: Any) -> list[Any]:
        """Returns the different quantised tensors that an operator reads."""
        tensors = {one.tensor_idx: one for one in self.get_input_tensors(op) if one.qnn_params}
        return list(tensors.values())

    def _name(self, tensor: Any) -> str:
        return str(get_tensor_name(self.subgraph, tensor.tensor_idx))
