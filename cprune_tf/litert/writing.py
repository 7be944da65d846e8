"""Writes a `.tflite` file that runs one workload, in milliseconds and without TensorFlow.

Weights are random, since they do not change the latency. Constants that decide what is computed
(axes, paddings, shapes) are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flatbuffers
import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

from cprune_tf.devices.agent.arrays import random_array
from cprune_tf.litert.workloads import (
    Operator,
    Tensor,
    Workload,
    names_of,
    options_class,
)

_FILE_VERSION = 3
_FILE_IDENTIFIER = b"TFL3"
_LARGEST_OLD_CODE = 127  # of the field that older files have for an operator's code
_OPERATOR_CODES = {name: code for code, name in names_of(schema.BuiltinOperator).items()}
_OPTION_CODES = {name: code for code, name in names_of(schema.BuiltinOptions).items()}
_TYPE_CODES = {name.lower(): code for code, name in names_of(schema.TensorType).items()}


def empty_workload() -> Workload:
    """Returns a workload that does almost nothing: its latency is what every call costs."""
    tensor = Tensor("float32", (1, 1))
    options = (("fusedActivationFunction", 0), ("potScaleInt16", True))
    return Workload((Operator("ADD", 1, "AddOptions", options, (0, 1), (2,)),), (tensor,) * 3)


def reference_workload() -> Workload:
    """Returns a convolution of some ten microseconds, for telling how fast a machine is now."""
    shapes = (1, 16, 16, 32), (32, 3, 3, 32), (32,), (1, 16, 16, 32)
    constant = (False, True, True, False)
    tensors = (Tensor("float32", *pair) for pair in zip(shapes, constant, strict=True))
    options = {"dilationHFactor": 1, "dilationWFactor": 1, "fusedActivationFunction": 1}
    options |= {"padding": 0, "quantizedBiasType": 0, "strideH": 1, "strideW": 1}
    operator = Operator("CONV_2D", 1, "Conv2DOptions", tuple(options.items()), (0, 1, 2), (3,))
    return Workload((operator,), tuple(tensors))


def write(workload: Workload) -> bytes:
    """Writes a `.tflite` file that runs a workload once.

    Args:
        workload: The workload.

    Returns:
        The content of the file. Its inputs are the computed tensors that the workload reads.
    """
    buffers = [schema.BufferT()]  # the first one stands for a computed tensor
    tensors = [
        _tensor_table(tensor, number, buffers) for number, tensor in enumerate(workload.tensors)
    ]
    codes = list(dict.fromkeys((one.code, one.version) for one in workload.operators))
    written = [index for operator in workload.operators for index in operator.outputs]
    read = {index for operator in workload.operators for index in operator.inputs}
    graph = schema.SubGraphT()
    graph.tensors = tensors
    graph.operators = [_operator_table(operator, codes) for operator in workload.operators]
    graph.inputs = [
        index
        for index, tensor in enumerate(workload.tensors)
        if index not in written and not tensor.is_constant
    ]
    graph.outputs = [index for index in written if index not in read]
    model = schema.ModelT()
    model.version, model.subgraphs, model.buffers = _FILE_VERSION, [graph], buffers
    model.operatorCodes = [_code_table(code, version) for code, version in codes]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), _FILE_IDENTIFIER)
    return bytes(builder.Output())


def _tensor_table(tensor: Tensor, number: int, buffers: list[Any]) -> Any:
    table = schema.TensorT()
    table.name, table.hasRank = f"tensor_{number}", True
    table.type, table.shape = _TYPE_CODES[tensor.dtype], list(tensor.shape)
    if tensor.is_constant:
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(_data(tensor, seed=number).tobytes(), np.uint8)
        table.buffer = len(buffers)
        buffers.append(buffer)
    if tensor.quantization is not None:
        table.quantization = schema.QuantizationParametersT()
        table.quantization.scale = list(tensor.quantization.scales)
        table.quantization.zeroPoint = list(tensor.quantization.zero_points)
        table.quantization.quantizedDimension = tensor.quantization.axis
    return table


def _data(tensor: Tensor, seed: int) -> npt.NDArray[Any]:
    if tensor.values:
        return np.array(tensor.values, dtype=tensor.dtype)
    return random_array(tensor.dtype, tensor.shape, seed)


def _operator_table(operator: Operator, codes: Sequence[tuple[str, int]]) -> Any:
    table = schema.OperatorT()
    table.opcodeIndex = codes.index((operator.code, operator.version))
    table.inputs, table.outputs = list(operator.inputs), list(operator.outputs)
    table.builtinOptionsType = _OPTION_CODES[operator.options_kind]
    if operator.options_kind != "NONE":
        table.builtinOptions = options_class(operator.options_kind)()
        for name, value in operator.options:
            setattr(table.builtinOptions, name, list(value) if isinstance(value, tuple) else value)
    return table


def _code_table(code: str, version: int) -> Any:
    table = schema.OperatorCodeT()
    table.builtinCode, table.version = _OPERATOR_CODES[code], version
    table.deprecatedBuiltinCode = min(table.builtinCode, _LARGEST_OLD_CODE)
    return table
