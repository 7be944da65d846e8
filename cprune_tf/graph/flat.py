"""A model as a flat list of calls: nested models inlined, shared layers called several times.

Everything else in this package works on this form. It refers to the layers of the original model
and never changes them.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import keras

from cprune_tf.graph import keras_internals
from cprune_tf.graph.errors import GraphError

Shape = tuple[int | None, ...]


@dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor of the graph: an output of one call and an input of others.

    Attributes:
        shape: The sizes of its axes, the batch axis first; None for an unknown size.
        dtype: The name of its type, e.g. "float32".
    """

    shape: Shape
    dtype: str


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


@dataclass(frozen=True, eq=False)
class _Draft:
    operation: Any
    path: str
    depth: int
    args: Any
    kwargs: Any
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


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
    """Lists the calls of a model, with nested functional and Sequential models inlined.

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
    drafts: list[_Draft] = []
    _walk(top, tensors, drafts, "", 0, {})
    outputs = keras.tree.map_structure(
        lambda t: tensors[id(t)], keras_internals.output_structure(top)
    )
    input_layers = tuple(keras_internals.input_layer(t) for t in top.inputs)
    names = _names(drafts, {layer.name for layer in input_layers})
    calls = tuple(
        Call(d.operation, names[id(d.operation)], d.path, d.args, d.kwargs, d.inputs, d.outputs)
        for d in drafts
    )
    return FlatGraph(model, calls, input_layers, inputs, outputs)


def _walk(
    model: Any,
    tensors: dict[int, Tensor],
    drafts: list[_Draft],
    prefix: str,
    depth: int,
    extra: dict[str, Any],
) -> None:
    """Appends the calls of `model` to `drafts`.

    Args:
        model: A functional model.
        tensors: The Tensor of each KerasTensor, by the KerasTensor's id; the walk adds to it.
        drafts: The calls so far; the walk adds to it.
        prefix: The names of the nested models around `model`, each with a slash.
        depth: Number of nested models around `model`.
        extra: Keyword arguments (`training`) that a nested model passes on to its layers.
    """

    def swap(value: Any) -> Any:
        return tensors[id(value)] if isinstance(value, keras.KerasTensor) else value

    for node in keras_internals.nodes(model):
        args = keras.tree.map_structure(swap, node.args)
        kwargs = keras.tree.map_structure(swap, node.kwargs)
        path = prefix + node.operation.name
        if keras_internals.is_inlinable(node.operation):
            inner = keras_internals.functional(node.operation)
            arguments = [tensors[id(t)] for t in node.inputs]
            scope = {id(t): a for t, a in zip(inner.inputs, arguments, strict=True)}
            training = kwargs.get("training")
            inner_extra = extra if training is None else {"training": training}
            _walk(inner, scope, drafts, f"{path}/", depth + 1, inner_extra)
            for outer, produced in zip(node.outputs, inner.outputs, strict=True):
                tensors[id(outer)] = scope[id(produced)]
            continue
        for produced in node.outputs:
            tensors[id(produced)] = Tensor(tuple(produced.shape), produced.dtype)
        inputs = tuple(tensors[id(t)] for t in node.inputs)
        outputs = tuple(tensors[id(t)] for t in node.outputs)
        kwargs = {**_accepted(node.operation, extra, kwargs), **kwargs}
        drafts.append(_Draft(node.operation, path, depth, args, kwargs, inputs, outputs))


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
    for draft in sorted(drafts, key=lambda d: d.depth):
        if id(draft.operation) in names:
            continue
        name = draft.operation.name
        if name in used:
            name = draft.path.replace("/", "_")
        number = 1
        while name in used:
            name, number = f"{draft.path.replace('/', '_')}_{number}", number + 1
        used.add(name)
        names[id(draft.operation)] = name
    return names
