"""The operators of a `.tflite` file with their tensors, and the Keras calls that they compute."""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from cprune_tf.graph.flat import FlatGraph
from cprune_tf.litert import scopes

_ABSENT = -1  # The index of an optional input that an operator does not have.
# Codes of the operators that multiply by a weight -> the position of the weight among their inputs.
WEIGHT_INPUTS = {
    "CONV_2D": 1,
    "DEPTHWISE_CONV_2D": 1,
    "FULLY_CONNECTED": 1,
    "TRANSPOSE_CONV": 1,
}


@dataclasses.dataclass(frozen=True, eq=False)
class FileTensor:
    """A tensor of a file.

    Attributes:
        name: Its name.
        dtype: The name of its type: "float32", "int8", ...
        data: Its values if it is a constant, with the shape and type in the file; None otherwise.
        scales: The size of one step, for the whole tensor or for each channel; empty if the tensor
            is not quantised.
        zero_points: The integers that stand for 0, likewise.
        channel_axis: The axis that several scales belong to.
    """

    name: str
    dtype: str
    data: npt.NDArray[Any] | None
    scales: npt.NDArray[np.float32]
    zero_points: npt.NDArray[np.int64]
    channel_axis: int

    def dequantized(self, values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Returns the numbers that stored values stand for."""
        if not len(self.scales):
            return np.asarray(values, np.float32)
        along = [1] * values.ndim
        if len(self.scales) > 1:
            along[self.channel_axis] = -1
        zero_points, scales = self.zero_points.reshape(along), self.scales.reshape(along)
        return ((values.astype(np.int64) - zero_points) * scales).astype(np.float32)

    def rounded(self, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Returns numbers as they are after a computed tensor has stored them."""
        if not len(self.scales):
            return values
        limits = np.iinfo(self.dtype)
        steps = np.rint(values / self.scales[0]) + self.zero_points[0]
        return self.dequantized(np.clip(steps, limits.min, limits.max))


@dataclasses.dataclass(frozen=True, eq=False)
class FileOperator:
    """An operator of a file.

    Attributes:
        code: The name of its operator code: "CONV_2D", ...
        inputs: The tensors that it reads, without absent ones.
        outputs: The tensors that it writes.
        calls: The positions in `FlatGraph.calls` that it is known to compute, in order.
    """

    code: str
    inputs: tuple[FileTensor, ...]
    outputs: tuple[FileTensor, ...]
    calls: tuple[int, ...]

    @property
    def weight(self) -> FileTensor | None:
        """The constant that it multiplies by, for a convolution or matrix product."""
        position = WEIGHT_INPUTS.get(self.code)
        if position is None or self.inputs[position].data is None:
            return None
        return self.inputs[position]


def read_operators(content: bytes, graph: FlatGraph) -> tuple[FileOperator, ...]:
    """Reads the operators of a file whose calls were traced by `scopes.scoped_forward`.

    Args:
        content: The content of the file, of one subgraph.
        graph: The graph that it was converted from.

    Returns:
        The operators, in the order in which they run.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    subgraph = model.subgraphs[0]
    tensors = [_tensor(model, tensor) for tensor in subgraph.tensors]
    num_readers = Counter(int(index) for op in subgraph.operators for index in set(op.inputs))
    positions_of_outputs = _calls_of_outputs(model, graph)

    def operator(packed: Any) -> FileOperator:
        code = model.operatorCodes[packed.opcodeIndex]
        inputs = [int(index) for index in packed.inputs if index != _ABSENT]
        outputs = [int(index) for index in packed.outputs]
        own = [i for i in inputs if tensors[i].data is not None and num_readers[i] == 1]
        positions = {
            position
            for index in (*outputs, *own)
            for position in scopes.call_positions(tensors[index].name)
        }
        positions |= {positions_of_outputs[i] for i in outputs if i in positions_of_outputs}
        return FileOperator(
            code=_codes()[max(code.builtinCode, code.deprecatedBuiltinCode)],
            inputs=tuple(tensors[index] for index in inputs),
            outputs=tuple(tensors[index] for index in outputs),
            calls=tuple(sorted(positions)),
        )

    return tuple(operator(packed) for packed in subgraph.operators)


def layer_names(operator: FileOperator, graph: FlatGraph) -> tuple[str, ...]:
    """Returns the names of the Keras layers that an operator computes, each once."""
    return tuple(dict.fromkeys(graph.calls[position].name for position in operator.calls))


@functools.cache
def _codes() -> dict[int, str]:
    from ai_edge_litert import schema_py_generated as schema

    names = vars(schema.BuiltinOperator).items()
    return {code: name for name, code in names if not name.startswith("_")}


@functools.cache
def _types() -> dict[int, str]:
    from ai_edge_litert import schema_py_generated as schema

    names = vars(schema.TensorType).items()
    return {code: name.lower() for name, code in names if not name.startswith("_")}


def _tensor(model: Any, packed: Any) -> FileTensor:
    dtype = _types()[packed.type]
    buffer = model.buffers[packed.buffer].data
    data = None
    if buffer is not None and len(buffer) and dtype not in ("string", "int4", "resource"):
        data = np.asarray(buffer, np.uint8).view(dtype)
        data = data.reshape(packed.shape if packed.shape is not None else ())
    steps = packed.quantization
    quantized = steps is not None and steps.scale is not None
    return FileTensor(
        name=packed.name.decode(),
        dtype=dtype,
        data=data,
        scales=np.asarray(steps.scale if quantized else (), np.float32),
        zero_points=np.asarray(steps.zeroPoint if quantized else (), np.int64),
        channel_axis=steps.quantizedDimension if quantized else 0,
    )


def _calls_of_outputs(model: Any, graph: FlatGraph) -> dict[int, int]:
    """Returns tensor index -> position of the call, for the model's outputs, which lose names."""
    producer: dict[Any, int] = {}
    for position, call in enumerate(graph.calls):
        producer |= dict.fromkeys(call.outputs, position)
    results = keras.tree.flatten(graph.outputs)
    found = {}
    for entry in model.signatureDefs[0].outputs:
        # convert() names the outputs of the signature "output_00", "output_01", ...
        result = results[int(entry.name.decode().split("_")[1])]
        if result in producer:
            found[int(entry.tensorIndex)] = producer[result]
    return found
