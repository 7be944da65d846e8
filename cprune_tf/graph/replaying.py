"""Builds a new model by repeating a flat graph's calls with new layers."""

from __future__ import annotations

import contextlib
import inspect
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np

from cprune_tf.graph import keras_internals
from cprune_tf.graph.errors import GraphError
from cprune_tf.graph.flat import Call, FlatGraph, Shape, Tensor
from cprune_tf.graph.rules.registry import Indices, Keep, Weight

# Calls a new operation: (position of the call, the operation, args, kwargs) -> its outputs.
Invoke = Callable[[int, Any, tuple[Any, ...], dict[str, Any]], Any]
Make = Callable[[Call], Any]

# The methods with which a model class changes how it is trained.
_TRAINING = ("train_step", "test_step", "compute_loss", "compute_metrics")


def plain_invoke(
    position: int, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Calls the operation without any change."""
    return operation(*args, **kwargs)


def replay(
    flat: FlatGraph,
    make: Make,
    invoke: Invoke = plain_invoke,
    arguments: Callable[[int], tuple[tuple[Any, ...], dict[str, Any]]] | None = None,
    stand_ins: Mapping[int, Tensor | None] | None = None,
    input_shapes: Mapping[str, Shape] | None = None,
) -> Any:
    """Repeats all calls on new inputs.

    New weights start as zeros, because they are overwritten and random numbers would cost time. The
    state of Python's random numbers, from which Keras draws seeds, does not change.

    Args:
        flat: The original graph.
        make: Makes the new layer or operation of a call; used once per distinct operation.
        invoke: Calls the new layer or operation.
        arguments: Returns new arguments (with the original's Tensors) of the call at a position;
            None to keep all arguments.
        stand_ins: The positions of calls to leave out, each with the Tensor that takes the place of
            its output, or None if no other call reads the output.
        input_shapes: The new inputs' shapes with the batch axis, by name; None: as the original's.

    Returns:
        A new functional keras.Model with the original's name and input and output structure.
    """
    random_state = random.getstate()
    values: dict[int, Any] = {}
    for layer, tensor in zip(flat.input_layers, flat.inputs, strict=True):
        values[id(tensor)] = new_input(layer, (input_shapes or {}).get(layer.name))
    operations: dict[str, Any] = {}
    initializers: list[tuple[Any, str, Any]] = []

    def swap(value: Any) -> Any:
        return values[id(value)] if isinstance(value, Tensor) else value

    stand_ins = stand_ins or {}
    for position, call in enumerate(flat.calls):
        if position in stand_ins:
            operand = stand_ins[position]
            if operand is not None:
                values[id(call.outputs[0])] = values[id(operand)]
            continue
        if call.name not in operations:
            operations[call.name] = make(call)
            initializers += _without_random_start(operations[call.name])
        args, kwargs = arguments(position) if arguments else (call.args, call.kwargs)
        args = keras.tree.map_structure(swap, args)
        kwargs = keras.tree.map_structure(swap, kwargs)
        outputs = keras.tree.flatten(invoke(position, operations[call.name], args, kwargs))
        for tensor, output in zip(call.outputs, outputs, strict=True):
            values[id(tensor)] = output
    for layer, name, initializer in initializers:
        setattr(layer, name, initializer)
    random.setstate(random_state)
    structure = keras_internals.input_structure(keras_internals.functional(flat.model))
    inputs = keras.tree.pack_sequence_as(structure, [values[id(t)] for t in flat.inputs])
    outputs = keras.tree.map_structure(swap, flat.outputs)
    with deep_recursion(len(keras.tree.flatten(inputs)) + 4 * len(flat.calls)):
        return model_class(flat.model)(inputs=inputs, outputs=outputs, name=flat.model.name)


@contextlib.contextmanager
def deep_recursion(frames: int) -> Iterator[None]:
    """Allows this many nested calls: Keras walks a graph by recursion, one frame per layer."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, frames + 1000))
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)


def _without_random_start(layer: Any) -> list[tuple[Any, str, Any]]:
    """Sets a new layer's random initializers to zeros; returns (layer, attribute, original)."""
    initializers = [
        (layer, name, value)
        for name, value in vars(layer).items()
        if isinstance(value, keras.initializers.Initializer)
        and hasattr(value, "seed")
        and not name.startswith("_")
    ]
    for _, name, _ in initializers:
        setattr(layer, name, keras.initializers.Zeros())
    return initializers


def model_class(model: Any) -> Any:
    """Returns the user's functional model class if it can be made from inputs and outputs.

    Args:
        model: A functional or Sequential model.

    Returns:
        The class, or keras.Model where the user's class does not change training.

    Raises:
        GraphError: The class has its own training step, and cannot be made again.
    """
    if isinstance(model, keras.Sequential):
        return keras.Model
    cls = type(model)
    parameters = inspect.signature(cls.__init__).parameters
    own = [p for name, p in parameters.items() if name not in ("self", "inputs", "outputs", "name")]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in own)
    needed = [
        p.name
        for p in own
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    if ({"inputs", "outputs"} <= set(parameters) or takes_any) and not needed:
        return cls
    changed = [name for name in _TRAINING if getattr(cls, name) is not getattr(keras.Model, name)]
    if changed:
        raise GraphError(
            f"The class {cls.__name__} of the model '{model.name}' has its own {changed[0]}(), but "
            f"its __init__ takes {', '.join(map(str, parameters.values()))}; expected inputs, "
            "outputs and name, so that the smaller model can be of the same class. Give all other "
            "arguments defaults."
        )
    return keras.Model


def new_input(layer: Any, shape: Shape | None = None) -> Any:
    """Makes a new model input like that of an existing InputLayer, or of another shape."""
    config = layer.get_config()
    if shape is not None:
        config["batch_shape"] = shape
    return keras.layers.InputLayer.from_config(config).output


def make_operation(call: Call, changes: dict[str, Any]) -> Any:
    """Makes a copy of a call's layer or operation, with its flat name and some config changes.

    Args:
        call: Any call of the original layer or operation.
        changes: New values of config entries, by name.

    Returns:
        The new, unbuilt layer, or the new operation.

    Raises:
        GraphError: The layer cannot be made from its own config.
    """
    original = call.operation
    if not call.is_layer:
        twin = keras_internals.recreate_operation(original, changes)
        twin.name = call.name
        return twin
    try:
        config = {**keras_internals.config_of(original), **changes, "name": call.name}
        return keras_internals.recreate_layer(original, config)
    except Exception as error:  # the layer's own get_config() and __init__() raise what they like
        detail = str(error).strip().splitlines()[-1]
        raise GraphError(
            f"The layer '{call.path}' ({type(original).__name__}) cannot be made again from its "
            f"config ({detail}). Give it a get_config() that holds all constructor arguments."
        ) from error


def copy_weights(
    call: Call,
    twin: Any,
    weights: dict[str, Weight],
    keep: Keep | None,
    additions: Mapping[str, Any] | None = None,
) -> None:
    """Copies a layer's weights without the removed channels, and their trainable flags.

    Args:
        call: A call of the original layer.
        twin: The new layer, built.
        weights: The channel axes of the weights, by name.
        keep: The labels that remain; None to keep all.
        additions: Arrays to add to weights, by name and in the original's shape. A weight that only
            the new layer has starts from zero.

    Raises:
        GraphError: The remaining values do not fit the new layer, so the layer's rule is wrong.
    """
    if not call.is_layer or not call.operation.weights:
        return
    names = keras_internals.relative_weight_names(call.operation)
    olds = dict(zip(names, call.operation.weights, strict=True))
    additions = additions or {}
    for name, new in twin_weights(call, twin).items():
        old = olds.get(name)
        value = np.zeros(()) if old is None else keras_internals.view(old)
        if name in additions:
            value = np.asarray(value + additions[name]).astype(new.dtype)
        kept = _kept_indices(weights.get(name), keep, value.shape)
        shape = tuple(n if i is None else len(i) for n, i in zip(value.shape, kept, strict=True))
        if shape != tuple(new.shape):
            raise GraphError(
                f"The weight '{name}' of '{call.path}' ({type(call.operation).__name__}) keeps the "
                f"shape {shape}, but the new layer has {tuple(new.shape)}: the layer's rule must "
                "list the weight's axes and resize the config; see docs/extending.md."
            )
        if any(indices is not None for indices in kept):
            # Cutting all axes at once avoids larger intermediate copies.
            full = [
                np.arange(n) if i is None else i for n, i in zip(value.shape, kept, strict=True)
            ]
            value = value[np.ix_(*full)]
        new.assign(value)
        if old is not None and new.trainable != old.trainable:
            new.trainable = old.trainable


def _kept_indices(
    weight: Weight | None, keep: Keep | None, shape: tuple[int, ...]
) -> list[Indices | None]:
    """Returns the indices that remain on each axis of a weight; None if all of them remain."""
    kept: list[Indices | None] = [None] * len(shape)
    if weight is not None and keep is not None:
        for axis, labels in enumerate(weight.axes):
            if labels is not None and keep.touches(labels):
                kept[axis] = keep.indices(labels)
    return kept


def twin_weights(call: Call, twin: Any) -> dict[str, Any]:
    """Returns the weights of a new layer by their names in the original.

    The names agree unless the layer contains other layers: Keras numbers layers without a name, and
    the layer inside a wrapper may be built before the wrapper. Then weights are matched by order,
    as `set_weights` does.

    Args:
        call: A call of the original layer.
        twin: The new layer, built.

    Returns:
        The new layer's variables by name, including those that the original lacks.

    Raises:
        GraphError: The new layer has other weights.
    """
    names = keras_internals.relative_weight_names(call.operation)
    new_names = keras_internals.relative_weight_names(twin)
    if not set(names) <= set(new_names):
        last = [[name.split("/")[-1].split(":")[0] for name in n] for n in (names, new_names)]
        if last[0] != last[1]:
            raise GraphError(
                f"The layer '{call.path}' ({type(call.operation).__name__}) has the weights "
                f"{', '.join(names)}, but made again from its config it has "
                f"{', '.join(new_names) or 'none'}: its get_config() must hold all constructor "
                "arguments, and build() must make all weights."
            )
        new_names = names
    return dict(zip(new_names, twin.weights, strict=True))


def copy_compile_state(model: Any, twin: Any) -> None:
    """Compiles `twin` as `model` was compiled, with a new optimizer.

    Args:
        model: The original model; nothing happens if it is not compiled.
        twin: The new model.
    """
    if not getattr(model, "compiled", False):
        return
    arguments = keras_internals.compile_arguments(model)
    for key in ("metrics", "weighted_metrics"):
        if key in arguments:
            arguments[key] = keras.tree.map_structure(_stateless_copy, arguments[key])
    if model.optimizer is not None:
        optimizer = model.optimizer
        arguments["optimizer"] = type(optimizer).from_config(optimizer.get_config())
    twin.compile(**arguments)


def _stateless_copy(metric: Any) -> Any:
    """Copies a metric without its state; names and functions are returned as they are."""
    if isinstance(metric, keras.metrics.Metric):
        return type(metric).from_config(metric.get_config())
    return metric
