"""Divides a `.tflite` file into the workloads that LiteRT runs one after the other."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

from cprune_tf.errors import UserError
from cprune_tf.litert.tflite_graph import unpack
from cprune_tf.litert.workloads import ABSENT, Operator, Quantization, Tensor, Workload, names_of

_PAD_READERS = ("CONV_2D", "DEPTHWISE_CONV_2D")
_INDEX_TYPES = ("int32", "int64")
_OPERATOR_NAMES = names_of(schema.BuiltinOperator)
_OPTION_NAMES = names_of(schema.BuiltinOptions)
_TYPE_NAMES = {code: name.lower() for code, name in names_of(schema.TensorType).items()}


class UnsupportedOperatorError(UserError, ValueError):
    """An operator of a `.tflite` file cannot be measured alone; the message names it."""


def divide(content: bytes) -> tuple[tuple[Workload, tuple[int, ...]], ...]:
    """Divides a `.tflite` file into the workloads that LiteRT runs one after the other.

    Args:
        content: The content of the file.

    Returns:
        Each workload with the numbers of its operators in the file, in the order of running.

    Raises:
        UnsupportedOperatorError: An operator cannot be measured alone.
    """
    model = unpack(content)
    graph = model.subgraphs[0]
    fused = _fused_paddings(model, graph)
    stored = _stored_in_float16(model, graph)
    parts = []
    for number in range(len(graph.operators)):
        if number not in fused and number not in stored:
            part = (*(pad for pad, reader in fused.items() if reader == number), number)
            parts.append((_workload(model, graph, part, set(stored.values())), part))
    return tuple(parts)


def _fused_paddings(model: Any, graph: Any) -> dict[int, int]:
    """Returns the paddings that XNNPACK computes in a convolution, each with the convolution."""
    readers: dict[int, list[int]] = {}
    for number, operator in enumerate(graph.operators):
        for index in operator.inputs:
            readers.setdefault(int(index), []).append(number)
    fused = {}
    for number, operator in enumerate(graph.operators):
        result = int(operator.outputs[0])
        if _code(model, operator) != "PAD" or result in set(map(int, graph.outputs)):
            continue
        if len(readers.get(result, [])) != 1:
            continue
        reader = graph.operators[readers[result][0]]
        if _code(model, reader) in _PAD_READERS and int(reader.inputs[0]) == result:
            fused[number] = readers[result][0]
    return fused


def _stored_in_float16(model: Any, graph: Any) -> dict[int, int]:
    """Returns the operators that XNNPACK runs only once, to read float16 weights, with the weights.

    The weights are known by the index of the tensor that holds them in float32.
    """
    return {
        number: int(operator.outputs[0])
        for number, operator in enumerate(graph.operators)
        if _code(model, operator) == "DEQUANTIZE"
        and _content(model, graph.tensors[operator.inputs[0]]) is not None
    }


def _content(model: Any, tensor: Any) -> npt.NDArray[np.uint8] | None:
    """Returns the bytes of a constant; None if the tensor is computed."""
    data = model.buffers[tensor.buffer].data
    return None if data is None or not len(data) else np.asarray(data, np.uint8)


def _code(model: Any, operator: Any) -> str:
    code = model.operatorCodes[operator.opcodeIndex]
    return _OPERATOR_NAMES[max(code.builtinCode, code.deprecatedBuiltinCode)]


def _workload(model: Any, graph: Any, numbers: Sequence[int], weights: Collection[int]) -> Workload:
    operators = [graph.operators[number] for number in numbers]
    indices: dict[int, None] = {}
    for operator in operators:
        for index in (*operator.inputs, *operator.outputs):
            if index != ABSENT:
                indices[int(index)] = None
    # Without a change, outputs come last, as each operator names its inputs first.
    position = {ABSENT: ABSENT, **{index: number for number, index in enumerate(indices)}}
    return Workload(
        tuple(_operator(model, operator, position) for operator in operators),
        tuple(_tensor(model, graph.tensors[index], index in weights) for index in indices),
    )


def _operator(model: Any, operator: Any, position: Mapping[int, int]) -> Operator:
    code = _code(model, operator)
    if code == "CUSTOM" or operator.builtinOptions2 is not None or operator.intermediates:
        raise UnsupportedOperatorError(
            f"The .tflite file has the operator {code}, which cannot be measured alone; expected "
            "LiteRT's builtin operators with ordinary options."
        )
    options = {} if operator.builtinOptions is None else vars(operator.builtinOptions)
    return Operator(
        code,
        model.operatorCodes[operator.opcodeIndex].version,
        _OPTION_NAMES[operator.builtinOptionsType],
        tuple(sorted((name, _plain(value)) for name, value in options.items())),
        tuple(position[int(index)] for index in operator.inputs),
        tuple(position[int(index)] for index in operator.outputs),
    )


def _plain(value: Any) -> Any:
    return tuple(value.tolist()) if isinstance(value, np.ndarray) else value


def _tensor(model: Any, tensor: Any, is_weight: bool) -> Tensor:
    shape = () if tensor.shape is None else tuple(int(size) for size in tensor.shape)
    dtype = _TYPE_NAMES[tensor.type]
    content = _content(model, tensor)
    quantization = _quantization(tensor.quantization)
    values: tuple[int, ...] = ()
    if content is not None and quantization is None and dtype in _INDEX_TYPES:
        values = tuple(content.view(dtype).tolist())
    return Tensor(dtype, shape, is_weight or content is not None, values, quantization)


def _quantization(parameters: Any) -> Quantization | None:
    if parameters is None or parameters.scale is None or not len(parameters.scale):
        return None
    scales = tuple(map(float, parameters.scale))
    zero_points = tuple(map(int, parameters.zeroPoint))
    return Quantization(parameters.quantizedDimension, len(scales) > 1, scales, zero_points)
