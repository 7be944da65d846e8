"""A Keras model as a `.tflite` file in which every operator can be traced back to Keras calls.

Every call of the model's flat graph is traced under a name scope of its own ("keras_call_17"). The
converter joins the names of the operations it fuses into one operator, so the first component of
each name in the file says which calls the operator computes. What the converter drops:

- the name of an operator that yields a model output, which is known from the file's signature;
- the names of what it folds into weights, such as a batch norm. They are recovered where it is
  certain: a call on a path between two calls of one operator is in that operator (the file's graph
  has no cycles), and a batch norm whose fold into the preceding layer gives the operator's very
  constants is in that operator.

A layer that none of this ties is listed as untied; nothing is guessed.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from cprune_tf.compiler.importer.convolution import depthwise_kernel, layer_bias
from cprune_tf.compiler.importer.emitter import to_numpy
from cprune_tf.compiler.importer.folding import fold_kernel_and_bias, plan_folding
from cprune_tf.compiler.importer.frontends import MissingTfliteError
from cprune_tf.graph.flat import Call, FlatGraph, Tensor
from cprune_tf.litert.conversion import convert

_SCOPE = "keras_call_{}"
_SCOPE_PATTERN = re.compile(r"keras_call_(\d+)")
_MISSING = -1  # the tensor index of an optional input that is not given
# Layers a batch norm is folded into: the kernel, and its axis of output channels; None: depthwise.
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
    """One operator of the file.

    Attributes:
        code: What it computes: "CONV_2D", ...
        names: The names of the tensors it yields, and of the constants that only it reads.
        outputs: Indices of the tensors it yields.
        constants: The float32 values among its inputs.
    """

    code: str
    names: tuple[str, ...]
    outputs: tuple[int, ...]
    constants: tuple[np.ndarray, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class TracedFile:
    """A model's `.tflite` file and what in it came from where.

    Attributes:
        content: The file.
        model: The parsed file, a `tflite.Model`.
        operators: Its operators, in the order they run.
        calls: For every operator: the calls it computes, in the model's order.
        input_numbers: Position of a file's input -> position among the Keras model's inputs.
        output_numbers: Position of a file's output -> position among the Keras model's outputs;
            a Keras output that repeats another one is missing.
        untied: Names of layers that no operator is known to compute.
    """

    content: bytes
    model: Any
    operators: tuple[Operator, ...]
    calls: tuple[tuple[Call, ...], ...]
    input_numbers: tuple[int, ...]
    output_numbers: tuple[int, ...]
    untied: tuple[str, ...]


def trace(graph: FlatGraph) -> TracedFile:
    """Converts a model to TFLite and ties the file's operators to the model's calls.

    Args:
        graph: The flat graph of a float32 model with inputs of fixed size.

    Returns:
        The file for a batch of 1 with all ties.

    Raises:
        MissingTfliteError: The `tflite` package is not installed.
        ConversionError: TensorFlow cannot convert the model.
    """
    tflite = _require_tflite()
    content = convert(graph.model, _scoped_forward(graph))
    model = tflite.Model.GetRootAsModel(content, 0)
    operators = tuple(_operators(tflite, model))
    inputs, outputs = _signature(model)
    ties = _Ties(graph, operators)
    ties.add_named()
    ties.add_outputs(outputs)
    ties.add_folded()
    ties.add_between()
    subgraph = model.Subgraphs(0)
    return TracedFile(
        content=content,
        model=model,
        operators=operators,
        calls=ties.calls(),
        input_numbers=tuple(inputs[index] for index in subgraph.InputsAsNumpy().tolist()),
        output_numbers=tuple(outputs[index] for index in subgraph.OutputsAsNumpy().tolist()),
        untied=ties.untied(),
    )


def _require_tflite() -> Any:
    try:
        import tflite
    except ImportError as error:
        raise MissingTfliteError(
            "config.frontend='tflite' reads .tflite files with the package tflite, which is not "
            "installed: pip install tflite (or cprune_tf[tflite]), or use config.frontend='keras'."
        ) from error
    return tflite


def _scoped_forward(graph: FlatGraph) -> Any:
    """Computes the model call by call, each under its own name scope."""
    import tensorflow as tf

    def forward(*inputs: Any) -> Any:
        values: dict[Tensor, Any] = dict(zip(graph.inputs, inputs, strict=True))

        def swap(value: Any) -> Any:
            return values[value] if isinstance(value, Tensor) else value

        for number, call in enumerate(graph.calls):
            args, kwargs = keras.tree.map_structure(swap, (call.args, dict(call.kwargs)))
            if "training" in kwargs:
                kwargs["training"] = False
            # The slash makes the scope absolute, so TensorFlow does not number it.
            with tf.name_scope(_SCOPE.format(number) + "/"):
                results = keras.tree.flatten(call.operation(*args, **kwargs))
            values.update(zip(call.outputs, results, strict=True))
        return keras.tree.map_structure(swap, graph.outputs)

    return forward


def _operators(tflite: Any, model: Any) -> Iterator[Operator]:
    names = {code: name for name, code in vars(tflite.BuiltinOperator).items() if name[0] != "_"}
    subgraph = model.Subgraphs(0)
    operators = [subgraph.Operators(number) for number in range(subgraph.OperatorsLength())]
    all_inputs = [
        operator.InputsAsNumpy().tolist() if operator.InputsLength() else []
        for operator in operators
    ]
    readers = Counter(index for inputs in all_inputs for index in set(inputs))
    for operator, inputs in zip(operators, all_inputs, strict=True):
        code = model.OperatorCodes(operator.OpcodeIndex())
        outputs = tuple(operator.OutputsAsNumpy().tolist())
        data = {index: _data(model, subgraph, index) for index in inputs if index != _MISSING}
        own = [index for index, content in data.items() if len(content) and readers[index] == 1]
        yield Operator(
            code=names[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())],
            names=tuple(subgraph.Tensors(index).Name().decode() for index in [*outputs, *own]),
            outputs=outputs,
            constants=tuple(
                content.view(np.float32)
                for index, content in data.items()
                if len(content) and subgraph.Tensors(index).Type() == tflite.TensorType.FLOAT32
            ),
        )


def _data(model: Any, subgraph: Any, index: int) -> np.ndarray:
    """A constant tensor's bytes; none where the tensor is computed."""
    buffer = model.Buffers(subgraph.Tensors(index).Buffer())
    return buffer.DataAsNumpy() if buffer.DataLength() else np.zeros(0, np.uint8)


def _signature(model: Any) -> tuple[dict[int, int], dict[int, int]]:
    """Tensor index -> position in the Keras model, of the inputs and of the outputs."""
    signature = model.SignatureDefs(0)
    inputs = [signature.Inputs(i) for i in range(signature.InputsLength())]
    outputs = [signature.Outputs(i) for i in range(signature.OutputsLength())]
    # convert() names them "input_00", "output_00", ...
    in_numbers = {one.TensorIndex(): int(one.Name().decode().split("_")[1]) for one in inputs}
    out_numbers = {one.TensorIndex(): int(one.Name().decode().split("_")[1]) for one in outputs}
    return in_numbers, out_numbers


class _Ties:
    """Which operators every call is computed by, as far as it is certain."""

    def __init__(self, graph: FlatGraph, operators: tuple[Operator, ...]):
        self._graph = graph
        self._operators = operators
        self._found: dict[Call, set[int]] = {call: set() for call in graph.calls}
        self._producer = {tensor: call for call in graph.calls for tensor in call.outputs}

    def add_named(self) -> None:
        """The calls whose scopes are in the file's names."""
        for number, operator in enumerate(self._operators):
            for joined in operator.names:
                for name in joined.split(";"):
                    if match := _SCOPE_PATTERN.fullmatch(name.split("/")[0]):
                        self._found[self._graph.calls[int(match[1])]].add(number)

    def add_outputs(self, output_numbers: dict[int, int]) -> None:
        """The calls that yield the model's outputs."""
        results = keras.tree.flatten(self._graph.outputs)
        for number, operator in enumerate(self._operators):
            for index in set(operator.outputs) & set(output_numbers):
                call = self._producer.get(results[output_numbers[index]])
                if call is not None:
                    self._found[call].add(number)

    def add_folded(self) -> None:
        """The batch norms whose folded values are an operator's constants."""
        for host, absorbed in plan_folding(self._graph).absorbed.items():
            if absorbed.batch_norm is None:
                continue
            batch_norm = next(c for c in self._graph.calls if c.operation is absorbed.batch_norm)
            if self._found[batch_norm]:
                continue
            self._found[batch_norm] |= {
                number
                for number in self._found[host]
                if _holds_fold(self._operators[number], host.operation, absorbed.batch_norm)
            }

    def add_between(self) -> None:
        """The calls on a path between two calls of one operator."""
        above: dict[Call, set[int]] = {}
        below: dict[Call, set[int]] = {call: set() for call in self._graph.calls}
        for call in self._graph.calls:
            above[call] = set().union(*(self._reached(above, c) for c in self._parents(call)))
        for call in reversed(self._graph.calls):
            for parent in self._parents(call):
                below[parent] |= self._reached(below, call)
        for call, found in self._found.items():
            both = above[call] & below[call]
            if not found and len(both) == 1:
                found |= both

    def _parents(self, call: Call) -> list[Call]:
        return [self._producer[tensor] for tensor in call.inputs if tensor in self._producer]

    def _reached(self, beyond: dict[Call, set[int]], call: Call) -> set[int]:
        """The nearest operators in a direction: the call's own, or what lies beyond it.

        Of a call that several operators compute it is not known which is next.
        """
        found = self._found[call]
        return beyond[call] if not found else found if len(found) == 1 else set()

    def calls(self) -> tuple[tuple[Call, ...], ...]:
        """For every operator: its calls in the model's order."""
        return tuple(
            tuple(call for call, found in self._found.items() if number in found)
            for number in range(len(self._operators))
        )

    def untied(self) -> tuple[str, ...]:
        """The layers of which no call is tied to an operator."""
        tied = {call.name for call, found in self._found.items() if found}
        names = dict.fromkeys(call.name for call in self._graph.calls)
        return tuple(name for name in names if name not in tied)


def _holds_fold(operator: Operator, layer: Any, batch_norm: Any) -> bool:
    """Whether an operator's constants are a layer's kernel and bias with the batch norm folded in.

    Values are compared sorted, whatever the layout of the file.
    """
    if type(layer) not in _KERNELS:
        return False
    attribute, channel_axis = _KERNELS[type(layer)]
    kernel = to_numpy(getattr(layer, attribute))
    if channel_axis is None:
        kernel, channel_axis = depthwise_kernel(kernel), -2
    folded = fold_kernel_and_bias(kernel, layer_bias(layer), batch_norm, channel_axis)
    return all(
        any(_same_values(value, constant) for constant in operator.constants)
        for value in folded
        if value is not None
    )


def _same_values(left: np.ndarray, right: np.ndarray) -> bool:
    if left.size != right.size:
        return False
    tolerance = 1e-5 * max(float(np.abs(left).max()), 1e-6)
    return bool(np.allclose(np.sort(left, axis=None), np.sort(right, axis=None), 0, tolerance))
