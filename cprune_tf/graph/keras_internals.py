"""Every use of Keras's private attributes, in one place.

Keras 3 offers no public way to walk a functional model's calls, to find the graph behind a
`Sequential`, or to tell which raw `keras.ops` operation a graph holds. This module does so for the
package; no other module uses an attribute of Keras with a leading underscore or imports from
`keras.src`.
"""

from __future__ import annotations

import collections
import contextlib
import copy
import inspect
import random
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras.src.applications import convnext, inception_resnet_v2
from keras.src.backend.common import global_state, masking
from keras.src.models.functional import Functional

from cprune_tf.graph.errors import GraphError


@dataclass(frozen=True, eq=False)
class Node:
    """One call of one operation inside one model.

    Attributes:
        operation: The layer or raw operation that was called.
        args: The positional arguments, with KerasTensors for the tensors of the graph.
        kwargs: The keyword arguments, likewise.
        inputs: All KerasTensors among the arguments, in order.
        outputs: The KerasTensors that the call returned, as a flat list.
    """

    operation: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inputs: tuple[Any, ...]
    outputs: tuple[Any, ...]


def check_model(model: object) -> None:
    """Raises GraphError unless `model` is a built functional or Sequential Keras 3 model.

    Args:
        model: The object that the user passed.

    Raises:
        GraphError: It is a tf_keras model, a subclassed model, an unbuilt Sequential or no model.
    """
    module = type(model).__module__
    legacy = ("tf_keras", "tensorflow.python.keras", "keras.legacy")
    ancestors = [cls.__module__ for cls in type(model).__mro__]
    if any(name.startswith(legacy) for name in ancestors):
        raise GraphError(
            f"Received a Keras 2 model ({module}.{type(model).__name__}); expected Keras 3. "
            "Save it as .h5 and load it with keras.models.load_model of Keras 3."
        )
    if not isinstance(model, keras.Model):
        raise GraphError(
            f"Received {type(model).__name__}; expected a keras.Model (functional or Sequential)."
        )
    if isinstance(model, keras.Sequential):
        if model._functional is None:
            raise GraphError(
                f"The Sequential model '{model.name}' has not been built, so its shapes are "
                "unknown. Start it with keras.Input(shape=...) or call model.build(input_shape)."
            )
        return
    if not isinstance(model, Functional):
        raise GraphError(
            f"'{model.name}' ({type(model).__name__}) is a subclassed model: its call() is Python "
            "code, not a graph. Rewrite it with the functional API: keras.Model(inputs, outputs)."
        )
    if not has_inherited_call(model):
        raise GraphError(
            f"'{model.name}' ({type(model).__name__}) is built from inputs and outputs but "
            "overrides call(), so its graph does not say what it computes. Remove the override."
        )


def has_inherited_call(model: Any) -> bool:
    """Whether a functional model computes its graph, i.e. does not override `call`."""
    base = keras.Sequential if isinstance(model, keras.Sequential) else Functional
    return type(model).call is base.call


def is_inlinable(operation: object) -> bool:
    """Whether an operation of a graph is itself a model whose graph can replace it."""
    if isinstance(operation, keras.Sequential):
        return operation._functional is not None and has_inherited_call(operation)
    return isinstance(operation, Functional) and has_inherited_call(operation)


def has_nested_models(model: Any) -> bool:
    """Whether any operation of a model's graph is itself a model that is inlined."""
    return any(is_inlinable(operation) for operation in functional(model).operations)


def functional(model: Any) -> Any:
    """Returns the functional model behind a Sequential; a functional model is returned as it is."""
    return model._functional if isinstance(model, keras.Sequential) else model


def all_layers(model: Any) -> list[Any]:
    """Returns a model and all layers in it, those inside models, wrappers and own layers too."""
    return [*model._flatten_layers(include_self=True, recursive=True), functional(model)]


def trace_function(function: Any) -> Trace:
    """Runs a function of one tensor, as an activation is, on a KerasTensor.

    Args:
        function: The function.

    Returns:
        The calls inside.

    Raises:
        GraphError: The function does more than call `keras.ops`.
    """
    holder = keras.layers.Layer(name="function")
    holder.call = function
    return trace(holder, (keras.Input((4, 4)),), {})


def nodes(model: Any) -> Iterator[Node]:
    """Yields the calls that belong to `model`, in topological order, without its inputs.

    Args:
        model: A functional model (not a Sequential, see `functional`).

    Yields:
        One Node per call; a shared layer appears once per call.
    """
    order = {id(op): position for position, op in enumerate(model.operations)}
    for depth in sorted(model._nodes_by_depth, reverse=True):
        level = [n for n in model._nodes_by_depth[depth] if n.operation and not n.is_input]
        level.sort(key=lambda n: (order[id(n.operation)], n.operation._inbound_nodes.index(n)))
        for node in level:
            yield _node(node)


def _node(node: Any) -> Node:
    """Describes a node of Keras."""
    return Node(
        node.operation,
        tuple(node.arguments.args),
        dict(node.arguments.kwargs),
        tuple(node.input_tensors),
        tuple(node.outputs),
    )


@dataclass(frozen=True, eq=False)
class Trace:
    """The calls that one call of a layer consists of.

    Attributes:
        inputs: The KerasTensors that the layer received, in the order of its arguments.
        weights: For each weight that `call` used itself, a KerasTensor and the variable.
        nodes: The calls inside the layer, in topological order.
        outputs: The KerasTensors that the layer returned, as a flat list.
        read: The variables that `call` used outside the layers that it called, and of which the
            calls would hold only the values.
    """

    inputs: tuple[Any, ...]
    weights: tuple[tuple[Any, Any], ...]
    nodes: tuple[Node, ...]
    outputs: tuple[Any, ...]
    read: tuple[Any, ...]


class _ReadingScope(keras.StatelessScope):
    """Notes the variables whose values are used, but not by layers, which have their own scopes."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[Any] = []

    def get_current_value(self, variable: Any) -> Any:
        self.read.append(variable)
        return super().get_current_value(variable)


def trace(layer: Any, args: Any, kwargs: Any, holders: Sequence[Any] = ()) -> Trace:
    """Runs a layer's `call` on KerasTensors, and leaves no trace of that in the layer.

    Args:
        layer: A built layer, of which `call` is run directly.
        args: The positional arguments; their tensors are KerasTensors of `keras.Input`.
        kwargs: The keyword arguments, likewise.
        holders: Layers, this one or inside it, whose weights are KerasTensors meanwhile.

    Returns:
        The calls inside.

    Raises:
        GraphError: `call` does more than call layers and `keras.ops`.
    """
    with _unchanged(layer), contextlib.ExitStack() as stack:
        weights = [pair for one in holders for pair in stack.enter_context(_symbolic_weights(one))]
        scope = stack.enter_context(_ReadingScope())
        try:
            outputs = keras.tree.flatten(layer.call(*args, **kwargs))
        except Exception as error:  # whatever the layer's own code raises
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise GraphError(f"its call() does not work on a graph ({first[:120]})") from error
        if not all(isinstance(output, keras.KerasTensor) for output in outputs):
            raise GraphError("its call() returns a value that is no tensor of a graph")
        tensors = keras.tree.flatten((args, kwargs))
        inputs = tuple(tensor for tensor in tensors if isinstance(tensor, keras.KerasTensor))
        given = (*inputs, *(tensor for tensor, _ in weights))
        found = tuple(_nodes_between(given, outputs))
        read = {id(tensor) for node in found for tensor in node.inputs} | set(map(id, outputs))
        used = tuple((tensor, variable) for tensor, variable in weights if id(tensor) in read)
        values = (v for n in found for v in keras.tree.flatten((n.args, n.kwargs)))
        variables = [value for value in values if isinstance(value, keras.Variable)]
        return Trace(inputs, used, found, tuple(outputs), (*scope.read, *variables))


@contextlib.contextmanager
def _symbolic_weights(layer: Any) -> Iterator[list[tuple[Any, Any]]]:
    """Puts KerasTensors in the place of a layer's own weights."""
    attributes = vars(layer)
    own = {id(v) for v in own_variables(layer)}
    found = {name: value for name, value in attributes.items() if id(value) in own}
    if len({id(value) for value in found.values()}) < len(own):
        raise GraphError("it does not hold each of its weights in an attribute")
    tensors = {
        name: keras.Input(batch_shape=tuple(value.shape), dtype=value.dtype)
        for name, value in found.items()
    }
    attributes.update(tensors)
    try:
        yield [(tensors[name], value) for name, value in found.items()]
    finally:
        attributes.update(found)


def _nodes_between(inputs: tuple[Any, ...], outputs: list[Any]) -> Iterator[Node]:
    """Yields the calls that compute tensors from others, in topological order."""
    done = {id(tensor) for tensor in inputs}
    waiting = list(reversed(outputs))
    while waiting:
        tensor = waiting[-1]
        history = tensor._keras_history
        node = history.operation._inbound_nodes[history.node_index]
        missing = [t for t in reversed(node.input_tensors) if id(t) not in done]
        if id(tensor) in done or not missing:
            waiting.pop()
        if id(tensor) in done:
            continue
        waiting += missing
        if not missing:
            done.update(id(output) for output in node.outputs)
            yield _node(node)


@contextlib.contextmanager
def _unchanged(layer: Any) -> Iterator[None]:
    """Undoes what calls on KerasTensors change: the calls of inner layers, and Keras's counters.

    Layers that `call` makes get the same names every time.
    """
    inner = layer._flatten_layers(include_self=True, recursive=True)
    before = [(op, len(op._inbound_nodes), len(op._outbound_nodes)) for op in inner]
    random_state = random.getstate()
    names = global_state.get_global_attribute("object_name_uids")
    global_state.set_global_attribute("object_name_uids", collections.defaultdict(int))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Keras warns of code that does not work on a graph
            yield
    finally:
        global_state.set_global_attribute("object_name_uids", names)
        random.setstate(random_state)
        for operation, inbound, outbound in before:
            del operation._inbound_nodes[inbound:]
            del operation._outbound_nodes[outbound:]


def own_variables(layer: Any) -> list[Any]:
    """Returns the weights that a layer has besides those of layers inside it."""
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def has_random_state(layer: Any) -> bool:
    """Whether a layer itself, not one inside it, draws random numbers or keeps metrics."""
    return bool(layer._seed_generators or layer._metrics)


def config_of(layer: Any) -> dict[str, Any]:
    """Returns a layer's config."""
    if type(layer) is not keras.layers.Identity:
        return dict(layer.get_config())
    # Keras's Identity has no get_config() of its own, which fails if it was given a dtype policy.
    policy = keras.dtype_policies.serialize(layer.dtype_policy)
    return {"name": layer.name, "trainable": layer.trainable, "dtype": policy}


def has_mask(tensor: Any) -> bool:
    """Whether a KerasTensor carries a mask of time steps, which layers pass on unseen."""
    return masking.get_keras_mask(tensor) is not None


def layers_inside(layer: Any) -> list[Any]:
    """Returns the layers that a layer holds directly."""
    return list(layer._layers)


def input_structure(model: Any) -> Any:
    """Returns the structure (tensor, list, dict, ...) of a functional model's inputs."""
    return model._inputs_struct


def output_structure(model: Any) -> Any:
    """Returns the structure of a functional model's outputs."""
    return model._outputs_struct


def input_layer(tensor: Any) -> Any:
    """Returns the InputLayer that made a model's input tensor."""
    return tensor._keras_history.operation


def name_operations(outputs: list[Any], known: list[Any], name: str) -> None:
    """Renames the operations that compute tensors, since Keras numbers those without a name.

    Args:
        outputs: KerasTensors that raw operations returned.
        known: The KerasTensors that they were computed from; what made these keeps its name.
        name: The name of the operation that made the outputs; those before it get it with a number.
    """
    seen = {id(tensor) for tensor in known}
    waiting, operations = list(outputs), []
    while waiting:
        tensor = waiting.pop(0)
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        history = tensor._keras_history
        if history.operation not in operations:
            operations.append(history.operation)
            waiting += history.operation._inbound_nodes[history.node_index].input_tensors
    for number, operation in enumerate(operations):
        operation.name = f"{name}_part{number}" if number else name


def operation_kind(operation: Any) -> type | str:
    """Returns the key of an operation's rule: a layer's class, or a name such as "ops.Relu"."""
    if isinstance(operation, keras.layers.Layer):
        return type(operation)
    if type(operation).__module__.startswith("keras.src.ops"):
        return f"ops.{type(operation).__name__}"
    return type(operation)


def recreate_operation(operation: Any, changes: dict[str, Any]) -> Any:
    """Makes a copy of a raw operation, with some constructor arguments changed.

    Args:
        operation: A raw operation (not a layer).
        changes: Constructor arguments by name.

    Returns:
        The new operation, of the same name, without any calls.

    Raises:
        GraphError: Arguments must change, and Keras did not record them.
    """
    try:
        config = dict(operation.get_config())
    except NotImplementedError as error:
        if changes:
            raise GraphError(
                f"The operation '{operation.name}' ({type(operation).__name__}) was made with "
                "arguments that Keras cannot record, so it cannot be made again for fewer channels."
            ) from error
        twin = copy.copy(operation)
        twin._inbound_nodes, twin._outbound_nodes = [], []
        return twin
    twin = type(operation).from_config({**config, **changes})
    twin.name = operation.name
    return twin


def own_functions(layer: Any) -> dict[str, Any]:
    """Returns the functions among a layer's attributes that are not Keras', by attribute.

    Examples are the function of a Lambda and an activation of the user's. A config holds only their
    code or their name, from which Keras makes no function again unless the user registered it.
    """
    return {
        name: value
        for name, value in vars(layer).items()
        if inspect.isfunction(value)
        and not name.startswith("_")
        and not value.__module__.startswith("keras.")
    }


def recreate_layer(layer: Any, config: dict[str, Any], cls: Any = None) -> Any:
    """Makes a layer from a config, with the functions of the layer that the config comes from.

    Args:
        layer: The original. Its functions need not be serializable.
        config: The original's config, with changes.
        cls: The class of the new layer; None: the original's.

    Returns:
        The new layer, not built.
    """
    if type(layer) is keras.layers.Lambda:
        # from_config would read the function's code again, which Keras refuses to run.
        return keras.layers.Lambda(
            layer.function,
            output_shape=layer._output_shape,
            mask=layer.mask,
            arguments=layer.arguments,
            **{key: config[key] for key in ("name", "dtype", "trainable") if key in config},
        )
    functions = {key: value for key, value in own_functions(layer).items() if key in config}
    return (cls or type(layer)).from_config({**config, **functions})


def compile_arguments(model: Any) -> dict[str, Any]:
    """Returns the arguments that the user compiled a model with, except the optimizer."""
    metrics, weighted = model._compile_metrics, None
    arguments: dict[str, Any] = {"loss": model.loss, "run_eagerly": model.run_eagerly}
    arguments["jit_compile"] = model.jit_compile
    arguments["steps_per_execution"] = model.steps_per_execution
    if model._compile_loss is not None:
        arguments["loss_weights"] = model._compile_loss._user_loss_weights
    if metrics is not None:
        arguments["metrics"] = metrics._user_metrics
        weighted = metrics._user_weighted_metrics
    if weighted is not None:
        arguments["weighted_metrics"] = weighted
    return arguments


def relative_weight_names(layer: Any) -> list[str]:
    """Returns the names of `layer.weights` relative to the layer ("kernel", "query/kernel").

    The weights of a layer inside a wrapper are named below that layer's name ("conv/kernel"),
    whether the wrapper built the layer or the layer was loaded already built.
    """
    prefix = f"{layer.path}/" if getattr(layer, "path", None) else f"{layer.name}/"
    inside: dict[int, str] = {}
    if isinstance(layer, keras.layers.Wrapper):
        inner = layer.layer
        inside = {
            id(weight): f"{inner.name}/{name}"
            for weight, name in zip(inner.weights, relative_weight_names(inner), strict=True)
        }
    names: list[str] = []
    for weight in layer.weights:
        path = weight.path
        name = path[len(prefix) :] if path.startswith(prefix) else weight.name
        name = inside.get(id(weight), name)
        # Keras numbers unnamed variables over the whole process; here they count per layer.
        name = re.sub(r"(^|/)variable_\d+$", r"\1variable", name)
        count = sum(1 for earlier in names if earlier.split(":")[0] == name)
        names.append(f"{name}:{count}" if count else name)
    return names


def view(variable: Any) -> Any:
    """Returns a variable's value as an array that shares its memory; do not write to or keep it."""
    return np.asarray(variable.value.value())  # other ways of reading make a copy


def application_layers() -> dict[str, type]:
    """Returns the layer classes that `keras.applications` defines for its models, by name."""
    return {
        "CustomScaleLayer": inception_resnet_v2.CustomScaleLayer,
        "LayerScale": convnext.LayerScale,
        "StochasticDepth": convnext.StochasticDepth,
    }
