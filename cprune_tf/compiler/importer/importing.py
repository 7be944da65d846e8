"""The importer's entry: from a Keras model to a Relax module with named parameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tvm
from tvm import relax

from cprune_tf.compiler.importer.emitter import Absorbed, Emitter, computed_dtype, shape
from cprune_tf.compiler.importer.folding import FoldingPlan, plan_folding
from cprune_tf.compiler.importer.registry import (
    UnsupportedOperation,
    UnsupportedOperationError,
    find_converter,
    qualified_name,
)
from cprune_tf.graph.flat import Call, FlatGraph, Tensor, flatten


@dataclasses.dataclass(frozen=True)
class ImportedModel:
    """A Keras model as a Relax module.

    Attributes:
        mod: Module with `main(inputs..., params...)`; attribute `num_input` is the number of
            inputs. Static shapes, NHWC.
        params: Parameter name ("conv1/kernel") -> value, in the order of main's parameters.
        input_names: The Keras names of the inputs, in main's order.
        layers_of_param: Parameter name -> names of all Keras layers whose weights went into it.
        layers_of_var: Name of every variable bound in `main` -> names of the Keras layers it
            computes (a convolution with a folded batch norm: both).
        untied_layers: Layers of which it is not certain what computes them; they are in none of
            the above. Only a frontend that loses names has such.
    """

    mod: tvm.IRModule
    params: dict[str, np.ndarray]
    input_names: tuple[str, ...]
    layers_of_param: dict[str, tuple[str, ...]]
    layers_of_var: dict[str, tuple[str, ...]]
    untied_layers: tuple[str, ...] = ()


def import_model(
    model: keras.Model,
    *,
    batch_size: int = 1,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
) -> ImportedModel:
    """Converts a Keras 3 model for inference.

    Args:
        model: A built functional or Sequential model, channels last. Floating point inputs and
            weights become float32 whatever the model's dtype policy.
        batch_size: The batch the module is compiled for.
        input_shapes: Input name -> shape without the batch axis, for inputs with unknown
            dimensions.

    Returns:
        The module, its parameters, and what came from which layer.

    Raises:
        UnsupportedOperationError: Some operations have no converter; all of them are named.
        GraphError: Not a built functional or Sequential Keras 3 model.
        ValueError: An input dimension is unknown.
    """
    graph = flatten(model)
    _check_converters(model, graph)
    builder = relax.BlockBuilder()
    emitter = Emitter(builder)
    inputs = _input_vars(graph, batch_size, input_shapes or {})
    env: dict[Tensor, Any] = {tensor: var for tensor, var in zip(graph.inputs, inputs, strict=True)}
    with builder.function("main", attrs={"num_input": len(inputs)}):
        with builder.dataflow():
            problems = _convert_all(graph, emitter, env)
            # With problems the function is closed all the same: TVM complains of open ones.
            results = inputs if problems else [env[t] for t in keras.tree.flatten(graph.outputs)]
            outputs = [
                builder.emit_output(result, name_hint=f"output{index}")
                for index, result in enumerate(results)
            ]
        builder.emit_func_output(
            outputs[0] if len(outputs) == 1 else outputs,
            params=[*inputs, *emitter.param_vars.values()],
        )
    if problems:
        raise UnsupportedOperationError.for_model(model.name, problems)
    return ImportedModel(
        mod=builder.get(),
        params=emitter.params,
        input_names=_input_names(graph),
        layers_of_param=emitter.layers_of_param,
        layers_of_var=emitter.layers_of_var,
    )


def _input_names(graph: FlatGraph) -> tuple[str, ...]:
    return tuple(layer.name for layer in graph.input_layers)


def _input_vars(
    graph: FlatGraph, batch_size: int, input_shapes: Mapping[str, Sequence[int]]
) -> list[relax.Var]:
    names = _input_names(graph)
    unknown = set(input_shapes) - set(names)
    if unknown:
        raise ValueError(
            f"input_shapes names {sorted(unknown)}; the model's inputs are {list(names)}."
        )
    inputs = []
    for name, tensor in zip(names, graph.inputs, strict=True):
        extents = tuple(input_shapes.get(name, tensor.shape[1:]))
        if any(extent is None for extent in extents):
            raise ValueError(
                f"Input {name!r} has the shape {tensor.shape}; compiled code needs fixed sizes: "
                f'pass input_shapes={{"{name}": (height, width, channels)}}.'
            )
        if tensor.shape[0] not in (None, batch_size):
            raise ValueError(
                f"Input {name!r} has the fixed batch size {tensor.shape[0]} and batch_size is "
                f"{batch_size}; pass batch_size={tensor.shape[0]}."
            )
        dtype = computed_dtype(tensor.dtype)
        inputs.append(relax.Var(name, relax.TensorType((batch_size, *extents), dtype)))
    return inputs


def _check_converters(model: keras.Model, graph: FlatGraph) -> None:
    missing = [
        UnsupportedOperation(
            call.name, qualified_name(call.operation), "no converter is registered"
        )
        for call in graph.calls
        if find_converter(call.operation) is None
    ]
    if missing:
        raise UnsupportedOperationError.for_model(model.name, missing)


def _convert_all(
    graph: FlatGraph, emitter: Emitter, env: dict[Tensor, Any]
) -> list[UnsupportedOperation]:
    """Converts every call, filling `env`; returns the calls whose settings are unsupported."""
    plan = plan_folding(graph)
    problems: list[UnsupportedOperation] = []
    for call in graph.calls:
        if call.outputs[0] in plan.alias:
            if plan.alias[call.outputs[0]] in env:
                env[call.outputs[0]] = env[plan.alias[call.outputs[0]]]
            continue
        if any(tensor not in env for tensor in call.inputs):
            continue  # Downstream of a problem that is reported already.
        try:
            env.update(_convert(call, plan, emitter, env))
        except UnsupportedOperationError as error:
            problems.append(
                UnsupportedOperation(call.name, qualified_name(call.operation), str(error))
            )
    return problems


def _convert(
    call: Call, plan: FoldingPlan, emitter: Emitter, env: Mapping[Tensor, Any]
) -> dict[Tensor, Any]:
    converter = find_converter(call.operation)
    assert converter is not None
    args, kwargs = keras.tree.map_structure(
        lambda x: env[x] if isinstance(x, Tensor) else x, (call.args, call.kwargs)
    )
    if getattr(call.operation, "quantization_mode", None):
        raise UnsupportedOperationError(
            f"the layer is quantized ({call.operation.quantization_mode}); import the model as it "
            "was before quantize()"
        )
    # Recorded or not, training=False of the whole model overrides it at inference.
    kwargs.pop("training", None)
    with emitter.converting(call, plan.absorbed.get(call, Absorbed())):
        results = keras.tree.flatten(converter(emitter, call.operation, *args, **kwargs))
    _check_shapes(call, results)
    return dict(zip(call.outputs, results, strict=True))


def _check_shapes(call: Call, results: Sequence[Any]) -> None:
    for tensor, var in zip(call.outputs, results, strict=True):
        expected, received = tensor.shape, shape(var)
        matches = len(expected) == len(received) and all(
            e is None or e == r for e, r in zip(expected[1:], received[1:], strict=True)
        )
        if not matches:
            raise UnsupportedOperationError(
                f"the converter yields the shape {received}, Keras says {expected}"
            )
