"""A Keras model as one flat list of calls: nested models inlined, shared layers called again."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
from keras import tree

from cprune_tf.compiler.importer.registry import UnsupportedOperationError


@dataclasses.dataclass(frozen=True, eq=False)
class Tensor:
    """One tensor of the flat graph; identity is what matters.

    Attributes:
        shape: As Keras knows it: None for unknown dimensions.
        dtype: A NumPy type name.
    """

    shape: tuple[int | None, ...]
    dtype: str


@dataclasses.dataclass(frozen=True, eq=False)
class OpCall:
    """One call of a layer or operation.

    Attributes:
        op: The Keras layer or `keras.ops` operation.
        name: Its name in the model.
        args: Positional arguments; every Keras tensor is a `Tensor`.
        kwargs: Keyword arguments, likewise.
        inputs: All tensors in args and kwargs, flat.
        outputs: All output tensors, flat.
    """

    op: Any
    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class FlatGraph:
    """All calls of a model in topological order.

    Attributes:
        inputs: The model's inputs with their names.
        calls: Every call, producers first.
        outputs: The model's outputs, flat.
    """

    inputs: tuple[tuple[str, Tensor], ...]
    calls: tuple[OpCall, ...]
    outputs: tuple[Tensor, ...]

    def consumers(self) -> dict[Tensor, list[OpCall | None]]:
        """Who reads each tensor: one entry a use, None for "is a model output"."""
        readers: dict[Tensor, list[OpCall | None]] = {}
        for call in self.calls:
            for tensor in call.inputs:
                readers.setdefault(tensor, []).append(call)
        for tensor in self.outputs:
            readers.setdefault(tensor, []).append(None)
        return readers


def flatten(model: keras.Model) -> FlatGraph:
    """Lists every call a functional or Sequential model makes.

    Args:
        model: A built functional or Sequential model.

    Returns:
        Its flat graph.

    Raises:
        ValueError: The model is not built, or is a subclassed model without a graph.
    """
    functional = _functional(model)
    inputs = tuple(
        (tensor.name, Tensor(tuple(tensor.shape), str(tensor.dtype)))
        for tensor in functional.inputs
    )
    calls: list[OpCall] = []
    env = {id(kt): ref for kt, (_, ref) in zip(functional.inputs, inputs, strict=True)}
    _walk(functional, env, calls.append)
    outputs = tuple(env[id(kt)] for kt in functional.outputs)
    return FlatGraph(inputs, tuple(calls), outputs)


def _functional(model: keras.Model) -> Any:
    if isinstance(model, keras.Sequential):
        if not model.built or model._functional is None:
            raise ValueError(
                f"Sequential model {model.name!r} has no input shape yet: add a keras.Input first "
                "or call model.build(input_shape)."
            )
        return model._functional
    if not hasattr(model, "_nodes_by_depth"):
        raise ValueError(
            f"Model {model.name!r} is a subclassed keras.Model ({type(model).__name__}) whose "
            "graph Keras does not record; expected a functional or Sequential model."
        )
    return model


def _nodes(functional: Any) -> Iterator[Any]:
    for depth in sorted(functional._nodes_by_depth, reverse=True):
        for node in functional._nodes_by_depth[depth]:
            if not node.is_input:
                yield node


def _walk(functional: Any, env: dict[int, Tensor], add: Callable[[OpCall], None]) -> None:
    """Appends the calls of one model; `env` maps the ids of its Keras tensors to flat ones."""
    for node in _nodes(functional):
        args, kwargs = node.arguments.convert(
            lambda x: env[id(x)] if isinstance(x, keras.KerasTensor) else x
        )
        if _is_plain_model(node.operation):
            inner = _functional(node.operation)
            _check_nested_arguments(node.operation, kwargs)
            inner_inputs = [t for t in tree.flatten(args) if isinstance(t, Tensor)]
            inner_env = {id(kt): t for kt, t in zip(inner.inputs, inner_inputs, strict=True)}
            _walk(inner, inner_env, add)
            outputs = [inner_env[id(kt)] for kt in inner.outputs]
        else:
            outputs = [Tensor(tuple(kt.shape), str(kt.dtype)) for kt in node.outputs]
            inputs = [t for t in tree.flatten((args, kwargs)) if isinstance(t, Tensor)]
            add(
                OpCall(
                    node.operation,
                    node.operation.name,
                    tuple(args),
                    dict(kwargs),
                    tuple(inputs),
                    tuple(outputs),
                )
            )
        env.update((id(kt), t) for kt, t in zip(node.outputs, outputs, strict=True))


def _is_plain_model(op: object) -> bool:
    return isinstance(op, keras.Sequential) or (
        isinstance(op, keras.Model) and hasattr(op, "_nodes_by_depth")
    )


def _check_nested_arguments(op: Any, kwargs: Mapping[str, Any]) -> None:
    if kwargs.get("training"):
        raise UnsupportedOperationError(
            f"nested model {op.name!r} is called with training=True; an imported model is for "
            "inference: call it without."
        )
