"""Converts a Keras model to a `.tflite` file and ties the file's operators to Keras calls.

Every call of the model's flat graph is traced under a separate name scope ("keras_call_17").
TensorFlow's converter joins the names of the operations that it fuses into one operator, so the
first component of each name in the file tells which calls the operator computes. The converter
drops two kinds of names:

- The name of an operator that yields a model output. The file's signature identifies this
  operator.
- The names of operations that it folds into weights, such as a batch norm. They are recovered if
  the result is certain. A call on a path between two calls of one operator is part of that
  operator, since the file's graph has no cycles. A batch norm is part of an operator if folding it
  into the preceding layer yields exactly the operator's constants.

A layer that cannot be tied in any of these ways is listed as untied; nothing is guessed.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from cprune_tf.graph.flat import Call, FlatGraph
from cprune_tf.graph.fused_layers import (
    depthwise_kernel,
    fold_kernel_and_bias,
    layer_bias,
    plan_folding,
    to_numpy,
)
from cprune_tf.litert import scopes
from cprune_tf.litert.conversion import convert
from cprune_tf.litert.workloads import names_of

_MISSING = -1  # The tensor index of an optional input that is absent.
# Class of a layer that a batch norm is folded into -> the attribute that holds its kernel, and the
# kernel's axis of output channels. The axis is None for a depthwise kernel.
_KERNELS: dict[type, tuple[str, int | None]] = {
    keras.layers.Conv1D: ("kernel", -1),
    keras.layers.Conv2D: ("kernel", -1),
    keras.layers.Conv2DTranspose: ("kernel", -2),
    keras.layers.Dense: ("kernel", -1),
    keras.layers.DepthwiseConv1D: ("kernel", None),
    keras.layers.DepthwiseConv2D: ("kernel", None),
    keras.layers.SeparableConv1D: ("pointwise_kernel", -1),
    keras.layers.SeparableConv2D: ("pointwise_kernel", -1),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Operator:
    """One operator of a `.tflite` file.

    Attributes:
        code: The name of its operator code: "CONV_2D", ...
        names: The names of its output tensors and of the constants that no other operator reads.
        outputs: The indices of its output tensors.
        constants: The values of its float32 constants, each flat.
    """

    code: str
    names: tuple[str, ...]
    outputs: tuple[int, ...]
    constants: tuple[np.ndarray, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class TracedFile:
    """A model's `.tflite` file and the Keras calls that its operators came from.

    Attributes:
        content: The content of the file.
        operators: The file's operators, in the order in which they run.
        calls: For each operator, the calls that it computes, in the model's order.
        input_numbers: For each input of the file, its position among the Keras model's inputs.
        output_numbers: For each output of the file, its position among the Keras model's outputs. A
            Keras output that repeats another one is not in the file.
        untied: Names of the layers that no operator is known to compute.
    """

    content: bytes
    operators: tuple[Operator, ...]
    calls: tuple[tuple[Call, ...], ...]
    input_numbers: tuple[int, ...]
    output_numbers: tuple[int, ...]
    untied: tuple[str, ...]


def trace(
    graph: FlatGraph, converter: Callable[[Any, Callable[..., Any]], bytes] = convert
) -> TracedFile:
    """Converts a model to TFLite and ties the file's operators to the model's calls.

    Args:
        graph: The flat graph of a float32 model with inputs of fixed size.
        converter: Converts a Keras model, given a function that computes it; see
            `litert.convert`. Names of operations must survive it.

    Returns:
        The file, for a batch size of 1, with the calls of every operator.

    Raises:
        ConversionError: TensorFlow cannot convert the model.
    """
    content = converter(graph.model, scopes.scoped_forward(graph))
    model = schema.Model.GetRootAsModel(content, 0)
    operators = tuple(_operators(model))
    inputs, outputs = _signature(model)
    ties = _Ties(graph, operators)
    ties.add_named()
    ties.add_outputs(outputs)
    ties.add_folded()
    ties.add_between()
    subgraph = model.Subgraphs(0)
    return TracedFile(
        content=content,
        operators=operators,
        calls=ties.calls(),
        input_numbers=tuple(inputs[index] for index in subgraph.InputsAsNumpy().tolist()),
        output_numbers=tuple(outputs[index] for index in subgraph.OutputsAsNumpy().tolist()),
        untied=ties.untied(),
    )


def _operators(model: Any) -> Iterator[Operator]:
    """Yields the file's operators in the order in which they run."""
    names = names_of(schema.BuiltinOperator)
    subgraph = model.Subgraphs(0)
    operators = [subgraph.Operators(number) for number in range(subgraph.OperatorsLength())]
    all_inputs = [
        operator.InputsAsNumpy().tolist() if operator.InputsLength() else []
        for operator in operators
    ]
    num_readers = Counter(index for inputs in all_inputs for index in set(inputs))
    for operator, inputs in zip(operators, all_inputs, strict=True):
        code = model.OperatorCodes(operator.OpcodeIndex())
        outputs = tuple(operator.OutputsAsNumpy().tolist())
        data = {index: _data(model, subgraph, index) for index in inputs if index != _MISSING}
        constants = {index: content for index, content in data.items() if len(content)}
        single_reader_indices = [index for index in constants if num_readers[index] == 1]
        yield Operator(
            code=names[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())],
            names=tuple(
                subgraph.Tensors(index).Name().decode()
                for index in [*outputs, *single_reader_indices]
            ),
            outputs=outputs,
            constants=tuple(
                content.view(np.float32)
                for index, content in constants.items()
                if subgraph.Tensors(index).Type() == schema.TensorType.FLOAT32
            ),
        )


def _data(model: Any, subgraph: Any, index: int) -> np.ndarray:
    """Returns a constant tensor's bytes, or no bytes if the tensor is computed."""
    buffer = model.Buffers(subgraph.Tensors(index).Buffer())
    return buffer.DataAsNumpy() if buffer.DataLength() else np.zeros(0, np.uint8)


def _signature(model: Any) -> tuple[dict[int, int], dict[int, int]]:
    """Returns tensor index -> position in the Keras model, for the inputs and for the outputs."""
    signature = model.SignatureDefs(0)
    inputs = [signature.Inputs(i) for i in range(signature.InputsLength())]
    outputs = [signature.Outputs(i) for i in range(signature.OutputsLength())]
    return _positions(inputs), _positions(outputs)


def _positions(entries: list[Any]) -> dict[int, int]:
    # litert.convert() names the entries of the signature "input_00", "output_00", ...
    return {entry.TensorIndex(): int(entry.Name().decode().split("_")[1]) for entry in entries}


class _Ties:
    """Finds the operators that certainly compute each call; operators are known by number."""

    def __init__(self, graph: FlatGraph, operators: tuple[Operator, ...]):
        self._graph = graph
        self._operators = operators
        # The operators known to compute each call.
        self._numbers_of_call: dict[Call, set[int]] = {call: set() for call in graph.calls}
        self._producer = {tensor: call for call in graph.calls for tensor in call.outputs}

    def add_named(self) -> None:
        """Ties the calls whose scopes are in the operators' names."""
        for number, operator in enumerate(self._operators):
            for joined_names in operator.names:
                for position in scopes.call_positions(joined_names):
                    self._numbers_of_call[self._graph.calls[position]].add(number)

    def add_outputs(self, output_numbers: dict[int, int]) -> None:
        """Ties the calls that yield the model's outputs; takes tensor index -> output position."""
        results = keras.tree.flatten(self._graph.outputs)
        for number, operator in enumerate(self._operators):
            for index in set(operator.outputs) & set(output_numbers):
                call = self._producer.get(results[output_numbers[index]])
                if call is not None:
                    self._numbers_of_call[call].add(number)

    def add_folded(self) -> None:
        """Ties the batch norms whose fold into another layer yields an operator's constants."""
        for absorber, absorbed in plan_folding(self._graph).absorbed.items():
            if absorbed.batch_norm is None:
                continue
            batch_norm = next(c for c in self._graph.calls if c.operation is absorbed.batch_norm)
            if self._numbers_of_call[batch_norm]:
                continue
            self._numbers_of_call[batch_norm] |= {
                number
                for number in self._numbers_of_call[absorber]
                if _holds_fold(self._operators[number], absorber.operation, absorbed.batch_norm)
            }

    def add_between(self) -> None:
        """Ties the calls on a path between two calls of one operator."""
        # The nearest operators that lead to each call, and the nearest ones that it leads to.
        above: dict[Call, set[int]] = {}
        below: dict[Call, set[int]] = {call: set() for call in self._graph.calls}
        for call in self._graph.calls:
            above[call] = set().union(*(self._nearest(above, c) for c in self._parents(call)))
        for call in reversed(self._graph.calls):
            for parent in self._parents(call):
                below[parent] |= self._nearest(below, call)
        for call, numbers in self._numbers_of_call.items():
            surrounding_numbers = above[call] & below[call]
            if not numbers and len(surrounding_numbers) == 1:
                numbers |= surrounding_numbers

    def _parents(self, call: Call) -> list[Call]:
        return [self._producer[tensor] for tensor in call.inputs if tensor in self._producer]

    def _nearest(self, beyond: dict[Call, set[int]], call: Call) -> set[int]:
        """Returns the nearest operators in one direction, starting at a call.

        Args:
            beyond: Call -> the nearest operators beyond it in this direction.
            call: The call to start at.

        Returns:
            The operator that computes the call. If no operator is known to, the operators beyond
            the call. If several operators compute it, none, since their order is not known.
        """
        numbers = self._numbers_of_call[call]
        if not numbers:
            return beyond[call]
        return numbers if len(numbers) == 1 else set()

    def calls(self) -> tuple[tuple[Call, ...], ...]:
        """Returns, for every operator, its calls in the model's order."""
        return tuple(
            tuple(call for call, numbers in self._numbers_of_call.items() if number in numbers)
            for number in range(len(self._operators))
        )

    def untied(self) -> tuple[str, ...]:
        """Returns the names of the layers without any call that is tied to an operator."""
        tied_names = {call.name for call, numbers in self._numbers_of_call.items() if numbers}
        names = dict.fromkeys(call.name for call in self._graph.calls)
        return tuple(name for name in names if name not in tied_names)


def _holds_fold(operator: Operator, layer: Any, batch_norm: Any) -> bool:
    """Whether an operator's constants are a layer's kernel and bias with the batch norm folded in.

    Sorted values are compared, since the file may store them in another layout.
    """
    if type(layer) not in _KERNELS:
        return False
    attribute, channel_axis = _KERNELS[type(layer)]
    kernel = to_numpy(getattr(layer, attribute))
    if channel_axis is None:
        kernel, channel_axis = depthwise_kernel(kernel), -2
    kernel_and_bias = fold_kernel_and_bias(kernel, layer_bias(layer), batch_norm, channel_axis)
    return all(
        any(_same_values(value, constant) for constant in operator.constants)
        for value in kernel_and_bias
        if value is not None
    )


def _same_values(left: np.ndarray, right: np.ndarray) -> bool:
    if left.size != right.size:
        return False
    tolerance = 1e-5 * max(float(np.abs(left).max()), 1e-6)
    return bool(np.allclose(np.sort(left, axis=None), np.sort(right, axis=None), 0, tolerance))
