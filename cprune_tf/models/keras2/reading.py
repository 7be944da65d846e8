"""A model from an `.h5` file of Keras 2: the graph in its config, then its weights."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import h5py
import keras

from cprune_tf.graph import keras_internals
from cprune_tf.models.errors import ModelError
from cprune_tf.models.keras2.layers import make_layer
from cprune_tf.models.keras2.operations import OPERATION_CLASSES, call_operation
from cprune_tf.models.keras2.weights import load_weights

_CONSTANT = "_CONSTANT_VALUE"
_MODELS = ("Functional", "Model", "Sequential")


def is_keras2_file(path: pathlib.Path) -> bool:
    """Whether a file is HDF5 and holds a model that a version of Keras before 3 wrote."""
    if not h5py.is_hdf5(path):
        return False
    with h5py.File(path) as file:
        version = _text(file.attrs.get("keras_version", "2"))
        return "model_config" in file.attrs and not version.startswith("3")


def read(
    path: pathlib.Path, custom_objects: Mapping[str, Any], *, unsafe_lambda: bool = False
) -> keras.Model:
    """Reads a model.

    Args:
        path: A file for which `is_keras2_file` is true.
        custom_objects: Name -> custom layer class or function.
        unsafe_lambda: Whether the code of Lambda layers in the file may run.

    Returns:
        A Functional or Sequential model of Keras 3, uncompiled. Layers keep their names, but for
        "/", which Keras 3 does not allow in them and which becomes "_".

    Raises:
        ModelError: Keras 3 cannot compute the same as a layer of the file, or weights are missing.
    """
    with h5py.File(path) as file:
        saved = json.loads(_text(file.attrs["model_config"]))
        reader = _Reader(custom_objects, unsafe_lambda)
        model = reader.model(saved, _new_name(_layers_name(saved)))
        if "model_weights" not in file:
            raise ModelError("it holds no weights; expected a file of model.save('model.h5').")
        load_weights(file["model_weights"], model, reader.file_names)
    return model


def _text(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def _new_name(name: str) -> str:
    return name.replace("/", "_")


def _layers_name(saved: Mapping[str, Any]) -> str:
    """The name of a layer or model as the file has it."""
    config = saved["config"]
    inner = config.get("name") if isinstance(config, dict) else None
    return str(saved.get("name") or inner or "sequential")


@dataclass
class _Graph:
    """The layers of one functional model, and what they have been called with so far.

    Attributes:
        saved: The layers as the file has them, by their names there.
        layers: The new layers; an operation of TensorFlow has none.
        outputs: The tensors that each call of a layer returned.
        sigmoids: The layers whose output still goes through Keras 2's own hard sigmoid.
        names: The names of the new layers that are taken.
    """

    saved: dict[str, Any]
    layers: dict[str, Any] = field(default_factory=dict)
    outputs: dict[str, list[list[Any]]] = field(default_factory=dict)
    sigmoids: set[str] = field(default_factory=set)
    names: set[str] = field(default_factory=set)

    def find(self, name: str, call: int, index: int) -> Any:
        """The tensor that a call of a layer returned, or None if it was not called yet."""
        if name not in self.saved:
            raise ModelError(f"its config calls the layer {name!r}, which it does not hold.")
        # Keras 2 counts the making of a model inside a model as its first call.
        call -= isinstance(self.layers.get(name), keras.Model)
        calls = self.outputs.get(name, [])
        return calls[call][index] if call < len(calls) else None


class _NotYetError(Exception):
    """A layer is called with the output of a call that has not been repeated yet."""


class _Reader:
    """Builds models from configs.

    Attributes:
        file_names: The name in the file of each layer of the outermost model whose name changed.
    """

    def __init__(self, custom_objects: Mapping[str, Any], unsafe_lambda: bool) -> None:
        self.file_names: dict[str, str] = {}
        self._custom_objects = custom_objects
        self._unsafe_lambda = unsafe_lambda

    def model(self, saved: Mapping[str, Any], name: str) -> keras.Model:
        """Builds a model; of the outermost one, `file_names` remain."""
        kind, config = saved["class_name"], saved["config"]
        if kind == "Sequential":
            return self._sequential(config, name)
        if kind not in _MODELS and kind not in self._custom_objects:
            raise ModelError(
                f"it is of a class that is not Keras' own ({kind}); expected a Functional or "
                "Sequential model. Pass the class in custom_objects if it has been made from "
                "inputs and outputs; a subclassed model must be rebuilt with "
                "keras.Model(inputs, outputs)."
            )
        if not isinstance(config, dict) or "output_layers" not in config:
            raise ModelError(
                f"it is a subclassed model ({kind}); expected a Functional or Sequential model, "
                "whose graph is known. Rebuild it as keras.Model(inputs, outputs)."
            )
        return self._functional(config, name, self._custom_objects.get(kind, keras.Model))

    def _sequential(self, config: Any, name: str) -> keras.Model:
        """Builds a Sequential, whose config was a plain list before Keras 2.2."""
        saved = config if isinstance(config, list) else config["layers"]
        model = keras.Sequential(name=name)
        names: set[str] = set()
        file_names: dict[str, str] = {}
        for number, one in enumerate(saved):
            if one["class_name"] == "InputLayer":
                if not model.layers and not number:
                    model.add(_input(one["config"], _new_name(_layers_name(one))))
                continue
            new = _free_name(_new_name(_layers_name(one)), names)
            file_names[new] = _layers_name(one)
            layer, own_sigmoid = self._layer(one, new)
            if not number:
                _add_input(model, layer, one["config"])
            model.add(layer)
            if own_sigmoid:
                # clip(0.2 x + 0.5, 0, 1) as layers, since a Sequential holds nothing else.
                model.add(keras.layers.Rescaling(0.2, 0.5, name=_free_name(f"{new}_line", names)))
                model.add(keras.layers.ReLU(1.0, name=_free_name(f"{new}_clip", names)))
        shape = None if isinstance(config, list) else config.get("build_input_shape")
        if not model.built and shape:
            model.build(tuple(shape))
        self.file_names = file_names
        return model

    def _functional(self, config: dict[str, Any], name: str, cls: Any) -> keras.Model:
        graph = _Graph({_layers_name(one): one for one in config["layers"]})
        file_names: dict[str, str] = {}
        for old, one in graph.saved.items():
            new = _free_name(_new_name(old), graph.names)
            file_names[new] = old
            if one["class_name"] == "InputLayer":
                graph.outputs[old] = [[_input(one["config"], new)]]
            elif one["class_name"] not in OPERATION_CLASSES:
                graph.layers[old], own_sigmoid = self._layer(one, new)
                if own_sigmoid:
                    graph.sigmoids.add(old)
        _repeat_calls(graph, {old: new for new, old in file_names.items()})
        inputs = _tensors(config["input_layers"], graph)
        outputs = _tensors(config["output_layers"], graph)
        self.file_names = file_names
        return cls(inputs=inputs, outputs=outputs, name=name)

    def _layer(self, saved: Mapping[str, Any], name: str) -> tuple[Any, bool]:
        if saved["class_name"] in _MODELS:
            model = self.model(saved, name)
            if isinstance(saved["config"], dict) and saved["config"].get("trainable") is False:
                model.trainable = False
            return model, False
        return make_layer(saved, name, self._custom_objects, unsafe_lambda=self._unsafe_lambda)


def _free_name(name: str, taken: set[str]) -> str:
    """Returns a name that is not taken, and takes it."""
    free, number = name, 1
    while free in taken:
        free, number = f"{name}_{number}", number + 1
    taken.add(free)
    return free


def _input(config: Mapping[str, Any], name: str) -> Any:
    shape = config.get("batch_input_shape", config.get("batch_shape"))
    if shape is None or config.get("ragged") or config.get("sparse"):
        raise ModelError(
            f"the input {name!r} is ragged, sparse or without a shape; expected a dense one."
        )
    return keras.Input(batch_shape=tuple(shape), dtype=config.get("dtype"), name=name)


def _add_input(model: keras.Sequential, layer: Any, config: Any) -> None:
    """Gives a Sequential the input shape that its first layer has."""
    shape = config.get("batch_input_shape") if isinstance(config, dict) else None
    if shape is not None:
        dtype = config.get("dtype")
        dtype = dtype if isinstance(dtype, str) else None
        if isinstance(layer, keras.layers.Embedding):
            dtype = "int32"
        model.add(keras.Input(batch_shape=tuple(shape), dtype=dtype))
    elif isinstance(layer, keras.Model) and layer.built and len(layer.inputs) == 1:
        tensor = layer.inputs[0]
        model.add(keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype))


def _repeat_calls(graph: _Graph, new_names: Mapping[str, str]) -> None:
    """Calls all layers as the config says, in any order in which their inputs exist."""
    waiting = {name: list(one.get("inbound_nodes", [])) for name, one in graph.saved.items()}
    waiting = {name: nodes for name, nodes in waiting.items() if nodes}
    while waiting:
        before = sum(map(len, waiting.values()))
        for name in list(waiting):
            while waiting[name]:
                try:
                    outputs = _repeat(graph, name, waiting[name][0], new_names[name])
                except _NotYetError:
                    break
                graph.outputs.setdefault(name, []).append(outputs)
                del waiting[name][0]
            if not waiting[name]:
                del waiting[name]
        if sum(map(len, waiting.values())) == before:
            raise ModelError(
                f"the layers {', '.join(map(repr, sorted(waiting)[:8]))} in its config are called "
                "with outputs that nothing computes; expected a whole model. Save it again."
            )


def _repeat(graph: _Graph, name: str, node: Any, new_name: str) -> list[Any]:
    """Repeats one call; returns its outputs as a flat list."""
    operand, kwargs = _arguments(node, graph)
    layer = graph.layers.get(name)
    if layer is None:
        result = call_operation(graph.saved[name], name, operand, kwargs)
        return _named(result, (operand, kwargs), new_name)
    if isinstance(operand, list) and len(operand) == 1:
        operand = operand[0]
    result = layer(operand, **{key: value for key, value in kwargs.items() if value is not None})
    if name in graph.sigmoids:
        line = keras.ops.add(keras.ops.multiply(result, 0.2), 0.5)
        clipped = keras.ops.clip(line, 0.0, 1.0)
        return _named(clipped, (result,), _free_name(f"{new_name}_hard_sigmoid", graph.names))
    return list(keras.tree.flatten(result))


def _named(result: Any, arguments: Any, name: str) -> list[Any]:
    outputs = list(keras.tree.flatten(result))
    known = [t for t in keras.tree.flatten(arguments) if isinstance(t, keras.KerasTensor)]
    keras_internals.name_operations(outputs, known, name)
    return outputs


def _arguments(node: Any, graph: _Graph) -> tuple[Any, dict[str, Any]]:
    """Reads a call: the first argument, with tensors for references, and the others by name."""
    kwargs: dict[str, Any] = {}

    def first(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: first(inner) for key, inner in value.items()}
        if value and isinstance(value[0], str):
            if len(value) > 3 and not kwargs:
                kwargs.update(value[3])
            return value[2] if value[0] == _CONSTANT else _find(graph, *value[:3])
        return [first(inner) for inner in value]

    operand = first(node)
    return operand, {key: _other(value, graph) for key, value in kwargs.items()}


def _other(value: Any, graph: _Graph) -> Any:
    """Replaces the references to tensors in an argument."""
    if isinstance(value, dict):
        return {key: _other(inner, graph) for key, inner in value.items()}
    if not isinstance(value, list):
        return value
    if len(value) == 3 and isinstance(value[0], str):
        if value[0] == _CONSTANT:
            return value[2]
        if value[0] in graph.saved:
            return _find(graph, *value)
    return [_other(inner, graph) for inner in value]


def _find(graph: _Graph, name: str, call: int, index: int) -> Any:
    found = graph.find(name, call, index)
    if found is None:
        raise _NotYetError
    return found


def _tensors(references: Any, graph: _Graph) -> Any:
    """The tensors of a model's inputs or outputs; one tensor instead of a list of one."""
    if isinstance(references, dict):
        return {key: _tensors(value, graph) for key, value in references.items()}
    if references and isinstance(references[0], str):
        found = graph.find(*references[:3])
        if found is None:
            raise ModelError(f"nothing in its config computes the output {references[0]!r}.")
        return found
    tensors = [_tensors(value, graph) for value in references]
    return tensors[0] if len(tensors) == 1 else tensors
