"""A model as a flat list of calls: nested models inlined, shared layers called several times.

Everything else in this package works on this form. It refers to the layers of the original model
and never changes them.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import keras

from cprune_tf.graph import keras_internals, unfolding
from cprune_tf.graph.errors import GraphError
from cprune_tf.graph.keras_internals import Node, Trace
from cprune_tf.graph.parameters import Parameter
from cprune_tf.graph.tensors import Shape, Tensor

__all__ = ["Call", "FlatGraph", "Shape", "Tensor", "flatten", "inputs_and_outputs"]


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a layer or raw operation.

    Attributes:
        operation: The layer or raw operation of the original model.
        name: The operation's name, unique in the flat graph; calls of a shared layer share it.
        path: The operation's name with the names of the nested models around it
            ("backbone/conv1").
        args: The positional arguments; each KerasTensor is replaced by its Tensor.
        kwargs: The keyword arguments, likewise.
        inputs: All Tensors among the arguments, in order.
        outputs: The Tensors that the call returns, as a flat list.
    """

    operation: Any
    name: str
    path: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    @property
    def is_layer(self) -> bool:
        """Whether this is a Keras layer rather than a raw operation."""
        return isinstance(self.operation, keras.layers.Layer)

    def inside(self, layer: Any) -> Call:
        """The call of a layer that a wrapper applies to every index of axis 1 (a time step).

        Args:
            layer: The wrapped layer.

        Returns:
            The wrapped layer's call, with tensors that lack the axis.
        """
        inputs, outputs = (
            tuple(Tensor((t.shape[0], *t.shape[2:]), t.dtype) for t in tensors)
            for tensors in (self.inputs, self.outputs)
        )
        path = f"{self.path}/{layer.name}"
        return Call(layer, f"{self.name}/{layer.name}", path, inputs, {}, inputs, outputs)


@dataclass(frozen=True, eq=False)
class FlatGraph:
    """A whole model.

    Attributes:
        model: The original model.
        calls: All calls, in topological order.
        input_layers: The original's InputLayers, in the order of its inputs.
        inputs: The Tensors that the input layers return.
        outputs: The model's outputs, in their original structure (a Tensor, list, dict, ...).
    """

    model: Any
    calls: tuple[Call, ...]
    input_layers: tuple[Any, ...]
    inputs: tuple[Tensor, ...]
    outputs: Any

    def layers(self) -> dict[str, Any]:
        """The distinct layers and raw operations by flat name, in topological order."""
        return {call.name: call.operation for call in self.calls}


@dataclass(frozen=True)
class _Place:
    """Where a call stands.

    Attributes:
        prefix: The names of the nested models and unfolded layers around it, each with a slash.
        depth: Number of these.
        extra: Keyword arguments (`training`) that these pass on to their layers.
        is_trace: Whether the call was found by running the code of a layer.
    """

    prefix: str = ""
    depth: int = 0
    extra: dict[str, Any] = field(default_factory=dict)
    is_trace: bool = False

    def below(self, name: str, training: bool | None) -> _Place:
        """The place of what is inside an operation that stands here."""
        extra = self.extra if training is None else {"training": training}
        return _Place(f"{self.prefix}{name}/", self.depth + 1, extra)


@dataclass(frozen=True, eq=False)
class _Draft:
    operation: Any
    place: _Place
    args: Any
    kwargs: Any
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    @property
    def path(self) -> str:
        """The operation's name with all names around it."""
        return f"{self.place.prefix}{self.operation.name}"


def inputs_and_outputs(model: Any) -> tuple[list[Any], list[Any]]:
    """Returns the KerasTensors that a model takes and gives.

    Args:
        model: A built functional or Sequential model.

    Raises:
        GraphError: If it has no inputs and outputs.
    """
    try:
        inputs, outputs = model.inputs, model.outputs
    except (AttributeError, ValueError):
        inputs = outputs = None
    if inputs is None or outputs is None:
        raise GraphError(
            f"The model is {type(model).__name__!r} without inputs and outputs; expected a built "
            "functional or Sequential keras.Model."
        )
    return inputs, outputs


def flatten(model: Any) -> FlatGraph:
    """Lists the calls of a model, with nested models inlined and layers unfolded.

    `cprune_tf.graph.unfolding` says which layers are.

    Args:
        model: A functional or built Sequential Keras 3 model.

    Returns:
        The flat graph; it contains the layers of `model` itself, not copies.

    Raises:
        GraphError: `model` is not such a model.
    """
    keras_internals.check_model(model)
    top = keras_internals.functional(model)
    tensors = {id(t): Tensor(tuple(t.shape), t.dtype) for t in top.inputs}
    inputs = tuple(tensors[id(t)] for t in top.inputs)
    walk = _Walk()
    walk.model(top, tensors, _Place())
    outputs = keras.tree.map_structure(
        lambda t: tensors[id(t)], keras_internals.output_structure(top)
    )
    input_layers = tuple(keras_internals.input_layer(t) for t in top.inputs)
    names = _names(walk.drafts, {layer.name for layer in input_layers})
    calls = tuple(
        Call(d.operation, names[id(d.operation)], d.path, d.args, d.kwargs, d.inputs, d.outputs)
        for d in walk.drafts
    )
    return FlatGraph(model, calls, input_layers, inputs, outputs)


class _Walk:
    """Lists the calls of a model and of what it is made of.

    Attributes:
        drafts: The calls so far.
    """

    def __init__(self) -> None:
        self.drafts: list[_Draft] = []
        self._parameters: dict[int, Parameter] = {}

    def model(self, model: Any, tensors: dict[int, Tensor], where: _Place) -> None:
        """Appends the calls of a functional model.

        Args:
            model: The model.
            tensors: The Tensor of each KerasTensor, by the KerasTensor's id; the walk adds to it.
            where: The place of the model's layers.
        """
        for node in keras_internals.nodes(model):
            self._node(node, tensors, where)

    def _node(self, node: Node, tensors: dict[int, Tensor], where: _Place) -> None:
        def swap(value: Any) -> Any:
            return tensors[id(value)] if isinstance(value, keras.KerasTensor) else value

        inputs = tuple(tensors[id(t)] for t in node.inputs)
        kwargs = keras.tree.map_structure(swap, node.kwargs)
        below = where.below(node.operation.name, kwargs.get("training"))
        if keras_internals.is_inlinable(node.operation):
            inner = keras_internals.functional(node.operation)
            scope = {id(t): a for t, a in zip(inner.inputs, inputs, strict=True)}
            self.model(inner, scope, below)
            _return(inner.outputs, scope, node.outputs, tensors)
            return
        if trace := _trace(node):
            scope = {id(t): a for t, a in zip(trace.inputs, inputs, strict=True)}
            below = dataclasses.replace(below, is_trace=True)
            for tensor, variable in trace.weights:
                scope[id(tensor)] = self._parameter(variable, inputs[0], below)
            for one in trace.nodes:
                self._node(one, scope, below)
            _return(trace.outputs, scope, node.outputs, tensors)
            return
        args = keras.tree.map_structure(swap, node.args)
        for produced in node.outputs:
            shape = tuple(produced.shape)
            shape = unfolding.outside(shape) if where.is_trace else shape
            tensors[id(produced)] = Tensor(shape, produced.dtype)
        outputs = tuple(tensors[id(t)] for t in node.outputs)
        kwargs = {**kwargs, **_accepted(node.operation, where.extra, kwargs)}
        self.drafts.append(_Draft(node.operation, where, args, kwargs, inputs, outputs))

    def _parameter(self, variable: Any, any_input: Tensor, where: _Place) -> Tensor:
        """Appends the call that returns a weight of an unfolded layer."""
        if id(variable) not in self._parameters:
            self._parameters[id(variable)] = Parameter.of(variable, variable.name)
        layer = self._parameters[id(variable)]
        output = Tensor(tuple(variable.shape), variable.dtype)
        args = (any_input,)
        self.drafts.append(_Draft(layer, where, args, {}, args, (output,)))
        return output


def _trace(node: Node) -> Trace | None:
    """The calls inside a layer that takes no part in the graph itself; None if it does."""
    if not isinstance(node.operation, keras.layers.Layer):
        return None
    try:
        return unfolding.unfold(node.operation, node.args, node.kwargs, node.outputs)
    except unfolding.CannotUnfoldError:
        return None


def _return(
    inner: Sequence[Any], scope: dict[int, Tensor], outer: Sequence[Any], tensors: dict[int, Tensor]
) -> None:
    """Adds the Tensors that a nested model or an unfolded layer returns."""
    for returned, received in zip(inner, outer, strict=True):
        tensors[id(received)] = scope[id(returned)]


def _accepted(operation: Any, extra: dict[str, Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments that a nested model passes on and a layer inside accepts (`training=False`)."""
    if not extra or kwargs.get("training") is not None:
        return {}
    parameters = inspect.signature(operation.call).parameters
    return {key: value for key, value in extra.items() if key in parameters}


def _names(drafts: list[_Draft], input_names: set[str]) -> dict[int, str]:
    """Unique names by operation id; on a collision, the inner model's layer gets its path."""
    names: dict[int, str] = {}
    used = set(input_names)
    for draft in sorted(drafts, key=lambda d: d.place.depth):
        if id(draft.operation) in names:
            continue
        name = draft.operation.name
        # Blocks of one class give their layers the same names.
        if name in used or draft.place.is_trace:
            name = draft.path.replace("/", "_")
        number = 1
        while name in used:
            name, number = f"{draft.path.replace('/', '_')}_{number}", number + 1
        used.add(name)
        names[id(draft.operation)] = name
    return names
