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
# The types whose stored bytes are values of a numpy type.
_ARRAY_TYPES = frozenset(
    {"float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool"}
)
# Codes of the operators that multiply by a weight -> the positions of the multiplied tensor, the
# weight and the bias among their inputs.
_PRODUCTS = {
    "CONV_2D": (0, 1, 2),
    "DEPTHWISE_CONV_2D": (0, 1, 2),
    "FULLY_CONNECTED": (0, 1, 2),
    "TRANSPOSE_CONV": (2, 1, 3),
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
    def product(self) -> Product | None:
        """The operands of a convolution or a product with a constant; None for all others."""
        if self.code not in _PRODUCTS:
            return None
        factor, weight, bias = _PRODUCTS[self.code]
        if self.inputs[weight].data is None:
            return None
        return Product(
            factor=self.inputs[factor],
            weight=self.inputs[weight],
            bias=self.inputs[bias] if bias < len(self.inputs) else None,
            channel_axis=-1 if self.code == "DEPTHWISE_CONV_2D" else 0,
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Product:
    """The operands of a convolution or matrix product.

    Attributes:
        factor: The tensor that is multiplied.
        weight: The constant that it is multiplied with.
        bias: The constant that is added; None without one.
        channel_axis: The weight's axis of output channels. The last axis is that of input channels,
            unless it is the same.
    """

    factor: FileTensor
    weight: FileTensor
    bias: FileTensor | None
    channel_axis: int


def unpack(content: bytes | bytearray) -> Any:
    """Unpacks a file into the objects of its schema, with the data of all constants.

    Args:
        content: The content of the file. The constants are views of it.

    Returns:
        The file's `ModelT`.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    for buffer in model.buffers:
        # ai-edge-quantizer writes large constants behind the rest of the file.
        if buffer.offset > 1:
            buffer.data = np.frombuffer(content, np.uint8, buffer.size, buffer.offset)
    return model


def repacked(content: bytes | bytearray) -> bytes:
    """Writes a file in the form that older readers expect; it computes the same.

    Codes of operators also stand in the field that older files have, and no constant lies behind
    the rest of the file. ai-edge-quantizer writes neither.

    Args:
        content: The content of the file.
    """
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = unpack(content)
    for code in model.operatorCodes:
        code.deprecatedBuiltinCode = min(
            code.builtinCode, schema.BuiltinOperator.PLACEHOLDER_FOR_GREATER_OP_CODES
        )
    for buffer in model.buffers:
        buffer.offset = buffer.size = 0
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def read_operators(content: bytes | bytearray, graph: FlatGraph) -> tuple[FileOperator, ...]:
    """Reads the operators of a file whose calls were traced by `scopes.scoped_forward`.

    Args:
        content: The content of the file, of one subgraph. The constants of the result are views of
            it, and can be written to if it is a bytearray.
        graph: The graph that it was converted from.

    Returns:
        The operators, in the order in which they run.
    """
    model = unpack(content)
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
    buffer = model.buffers[packed.buffer]
    stored = np.asarray(() if buffer.data is None else buffer.data, np.uint8)
    data = None
    if len(stored) and dtype in _ARRAY_TYPES:
        data = stored.view(dtype).reshape(() if packed.shape is None else packed.shape)
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
