"""Layers that only call other layers: the calls inside take the layer's place in the graph.

Model libraries write blocks (an inverted residual, a transformer's block) as layers of their own,
whose `call` chains Keras's layers and `keras.ops`. Such a layer needs no rule: its `call` is run on
KerasTensors, and what it calls is followed as the layers of a nested model are.

Weights that `call` uses itself become calls, too (`cprune_tf.graph.parameters`).

A layer stays whole if this would not say all that it computes: if training takes another way
through it, if it draws random numbers, or if `call` needs values. Then it needs a rule. Layers that
have a rule or a converter of their own stay whole, too.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Sequence
from typing import Any

import keras

from cprune_tf.graph import keras_internals
from cprune_tf.graph.errors import GraphError
from cprune_tf.graph.keras_internals import Node, Trace
from cprune_tf.graph.parameters import ForEachSample
from cprune_tf.graph.tensors import Shape, Tensor

# Code that reads the batch size receives this prime, by which sizes made from it are recognised.
_BATCH = 1031

_WHOLE: set[type | str] = set()


class CannotUnfoldError(Exception):
    """A layer stays whole; the message says why, as part of what the user reads."""


def keep_whole(kind: type | str) -> None:
    """Declares that layers of a class are never unfolded.

    Args:
        kind: A layer class, or "module.QualifiedName" of one.
    """
    _WHOLE.add(kind)


def may_unfold(kind: type | str) -> None:
    """Takes `keep_whole` back."""
    _WHOLE.discard(kind)


def unfold(layer: Any, args: Any, kwargs: Any, outputs: Sequence[Any]) -> Trace:
    """Finds the calls of which a layer's call consists.

    Args:
        layer: A layer of the original model, which is not changed.
        args: The positional arguments of its call, with KerasTensors or Tensors.
        kwargs: The keyword arguments, likewise.
        outputs: The tensors that the call returned, as a flat list.

    Returns:
        The calls inside. The sizes of its tensors hold for no batch: see `outside`.

    Raises:
        CannotUnfoldError: The layer stays whole.
    """
    _check_layer(layer)
    # With None, the layers inside find out themselves whether they train, or are told by the graph.
    kwargs = {**kwargs, "training": None}
    holders = [layer]
    trace = _traced(layer, args, kwargs, holders)
    if trace.read:
        # Such as the weights of an embedding of positions, which are no tensor of the graph.
        holders += _holders(layer, trace.read)
        trace = _traced(layer, args, kwargs, holders)
    trained = _traced(layer, args, {**kwargs, "training": True}, holders)
    if _structure(layer, trained) != _structure(layer, trace):
        raise CannotUnfoldError("its training takes another way than its inference")
    _check_weights(layer, trace, holders)
    _check_outputs(trace, outputs)
    nodes = tuple(_for_any_batch(layer, trace, node) for node in trace.nodes)
    return dataclasses.replace(trace, nodes=nodes)


def outside(shape: Shape) -> Shape:
    """A shape of a trace for any batch: sizes made from the batch size are unknown."""
    return tuple(None if _is_of_batch(size) else size for size in shape)


def passes_at_inference(layer: Any, args: Any, kwargs: Any) -> bool:
    """Whether a layer returns its only tensor unchanged unless it is trained, as a dropout does.

    Args:
        layer: Any operation.
        args: The positional arguments of its call, as in `unfold`.
        kwargs: The keyword arguments, likewise.
    """
    if not isinstance(layer, keras.layers.Layer) or layer.weights or is_of_keras(layer):
        return False
    try:
        trace = _traced(layer, args, {**kwargs, "training": False}, [])
    except CannotUnfoldError:
        return False
    return len(trace.inputs) == 1 and trace.outputs == trace.inputs


def is_of_keras(layer: Any) -> bool:
    """Whether Keras itself defines what a layer computes."""
    return str(type(layer).call.__module__).startswith("keras.")


def _check_layer(layer: Any) -> None:
    kind = type(layer)
    if _holds_unknown_function(layer):
        return
    if _WHOLE & {kind, f"{kind.__module__}.{kind.__qualname__}"} or is_of_keras(layer):
        raise CannotUnfoldError("it has a rule or is Keras's own")
    if keras_internals.has_random_state(layer):
        raise CannotUnfoldError("it draws random numbers or keeps metrics")
    if layer.compute_dtype != layer.variable_dtype:
        raise CannotUnfoldError(f"it casts its weights to {layer.compute_dtype}")


def _holds_unknown_function(layer: Any) -> bool:
    """Whether a layer is an activation by a function that no file could name."""
    if type(layer) is not keras.layers.Activation:
        return False
    functions = keras_internals.own_functions(layer).values()
    names = map(keras.saving.get_registered_name, functions)
    return any(keras.saving.get_registered_object(name) is None for name in names)


def _traced(layer: Any, args: Any, kwargs: Any, holders: Sequence[Any]) -> Trace:
    """Runs `call` on new inputs; a batch of unknown size gets `_BATCH`."""

    def new_input(value: Any) -> Any:
        if not isinstance(value, (keras.KerasTensor, Tensor)):
            return value
        if isinstance(value, keras.KerasTensor) and keras_internals.has_mask(value):
            raise CannotUnfoldError("it receives a mask of time steps")
        if value.dtype.startswith(("float", "bfloat")) and value.dtype != layer.compute_dtype:
            raise CannotUnfoldError(f"it casts {value.dtype} to {layer.compute_dtype}")
        shape = tuple(value.shape)
        if shape and shape[0] is None:
            shape = (_BATCH, *shape[1:])
        return keras.Input(batch_shape=shape, dtype=value.dtype)

    args, kwargs = keras.tree.map_structure(new_input, (args, dict(kwargs)))
    if "training" not in inspect.signature(layer.call).parameters:
        kwargs.pop("training", None)
    try:
        return keras_internals.trace(layer, args, kwargs, holders)
    except GraphError as error:
        raise CannotUnfoldError(str(error)) from error


def _structure(layer: Any, trace: Trace) -> list[Any]:
    """What a trace calls, on which tensors and with which constants, in comparable form."""
    given = (*trace.inputs, *(tensor for tensor, _ in trace.weights))
    numbers = {id(tensor): number for number, tensor in enumerate(given)}
    known = {id(inner) for inner in keras_internals.layers_inside(layer)}
    calls: list[Any] = []
    for node in trace.nodes:
        kwargs = {key: value for key, value in node.kwargs.items() if key != "training"}
        values = keras.tree.flatten((node.args, kwargs))
        arguments = [numbers[id(v)] if id(v) in numbers else _constant(v) for v in values]
        operation = node.operation
        config = id(operation) if id(operation) in known else repr(_settings(operation))
        calls.append((type(operation), config, arguments))
        numbers.update({id(tensor): len(numbers) + i for i, tensor in enumerate(node.outputs)})
    weights = [id(variable) for _, variable in trace.weights]
    return [*calls, weights, [numbers[id(tensor)] for tensor in trace.outputs]]


def _constant(value: Any) -> Any:
    """A constant argument in comparable form; `repr` would leave values of an array out."""
    if hasattr(value, "shape") and not isinstance(value, keras.KerasTensor):
        array = keras.ops.convert_to_numpy(value)
        return array.shape, array.tobytes()
    return repr(value)


def _settings(operation: Any) -> dict[str, Any]:
    """The settings of a raw operation or of a layer that `call` made."""
    if isinstance(operation, keras.layers.Layer):
        settings = dict(operation.get_config())
    else:
        settings = {key: value for key, value in vars(operation).items() if key[0] != "_"}
    settings.pop("name", None)
    return settings


def _holders(layer: Any, variables: Sequence[Any]) -> list[Any]:
    """The layers inside that hold some variables."""
    wanted = {id(variable) for variable in variables}
    inside = keras_internals.all_layers(layer)[1:]
    return [
        inner for inner in inside if wanted & set(map(id, keras_internals.own_variables(inner)))
    ]


def _check_weights(layer: Any, trace: Trace, holders: Sequence[Any]) -> None:
    """Refuses weights of which the calls would hold only the values."""
    if trace.read:
        raise CannotUnfoldError(f"it uses the values of {trace.read[0].path!r}")
    known = {id(inner) for inner in keras_internals.layers_inside(layer)}
    for node in trace.nodes:
        operation = node.operation
        if getattr(operation, "weights", None) and id(operation) not in known:
            raise CannotUnfoldError(f"it calls {operation.name!r}, which it does not hold")
        if any(operation is holder for holder in holders):
            raise CannotUnfoldError(f"it uses the weights of {operation.name!r}, and calls it")


def _check_outputs(trace: Trace, outputs: Sequence[Any]) -> None:
    """Refuses a trace whose outputs are not what the layer returned."""
    found = [(outside(tuple(tensor.shape)), tensor.dtype) for tensor in trace.outputs]
    expected = [(tuple(tensor.shape), tensor.dtype) for tensor in outputs]
    same = len(found) == len(expected) and all(
        len(a) == len(b)
        and a_type == b_type
        and all(x is None or y is None or x == y for x, y in zip(a, b, strict=True))
        for (a, a_type), (b, b_type) in zip(found, expected, strict=True)
    )
    if not same:
        raise CannotUnfoldError(f"its call() returned {found} where it had returned {expected}")


def _for_any_batch(layer: Any, trace: Trace, node: Node) -> Node:
    """Makes a call of a trace fit any batch; a reshape or a repetition may contain its size."""
    operation = node.operation
    if _repeats_for_batch(node):
        like = next(tensor for tensor in trace.inputs if _is_of_batch(tensor.shape[0]))
        one = node.inputs[0]
        repeat = ForEachSample(name=operation.name, dtype=one.dtype)
        return Node(repeat, (one, like), {}, (one, like), node.outputs)
    if keras_internals.operation_kind(operation) == "ops.Reshape":
        (output,) = node.outputs
        new = [-1 if _is_of_batch(size) else size for size in output.shape]
        if new.count(-1) > 1:
            raise CannotUnfoldError("it spreads the batch over several axes")
        try:
            operation = keras_internals.recreate_operation(operation, {"newshape": tuple(new)})
        except GraphError as error:
            raise CannotUnfoldError(str(error)) from error
        return dataclasses.replace(node, operation=operation)
    values = keras.tree.flatten((node.args, node.kwargs))
    if operation not in keras_internals.layers_inside(layer):
        values += keras.tree.flatten(_settings(operation))
    if any(map(_holds_batch, values)):
        raise CannotUnfoldError(f"its {type(operation).__name__} needs the size of the batch")
    return node


def _repeats_for_batch(node: Node) -> bool:
    """Whether a call repeats one sample as often as the batch has samples, and does no more."""
    kind = keras_internals.operation_kind(node.operation)
    if kind not in ("ops.Tile", "ops.BroadcastTo", "ops.Repeat") or len(node.inputs) != 1:
        return False
    before, after = tuple(node.inputs[0].shape), tuple(node.outputs[0].shape)
    return before[:1] == (1,) and after == (_BATCH, *before[1:])


def _is_of_batch(size: int | None) -> bool:
    return size is not None and size > 0 and size % _BATCH == 0


def _holds_batch(value: Any) -> bool:
    if isinstance(value, keras.KerasTensor):
        return False
    if isinstance(value, slice):
        return any(map(_holds_batch, (value.start, value.stop, value.step)))
    if isinstance(value, int):
        return _is_of_batch(value)
    return any(map(_is_of_batch, getattr(value, "shape", ())))
