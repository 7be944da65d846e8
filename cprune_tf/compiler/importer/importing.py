"""The importer's entry point: turns a Keras model into a Relax module with named parameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tvm
from tvm import relax

from cprune_tf.compiler.importer.emitter import Emitter, computed_dtype, shape
from cprune_tf.compiler.importer.registry import (
    Converter,
    UnsupportedOperation,
    UnsupportedOperationError,
    find_converter,
    qualified_name,
)
from cprune_tf.errors import UserError
from cprune_tf.graph.flat import Call, FlatGraph, Tensor, flatten
from cprune_tf.graph.fused_layers import Absorbed, FoldingPlan, plan_folding
from cprune_tf.graph.unfolding import passes_at_inference


class InputShapeError(UserError, ValueError):
    """A model's inputs do not have the shapes that they would be compiled for."""


@dataclasses.dataclass(frozen=True)
class ImportedModel:
    """A Keras model as a Relax module.

    Attributes:
        mod: The module with the function `main(inputs..., params...)`; main's attribute `num_input`
            is the number of inputs. Shapes are static, images are NHWC.
        params: Parameter name ("conv1/kernel") -> its value, in the order of main's parameters.
        input_names: The Keras names of the inputs, in main's order.
        layers_of_param: Parameter name -> names of all Keras layers whose weights went into it.
        layers_of_var: Name of every variable bound in `main` -> names of the Keras layers that its
            binding computes. For a convolution with a folded batch norm, these are both layers.
        untied_layers: Names of layers that cannot be tied to a binding with certainty. They are in
            none of the tables above. The Keras frontend ties all layers, so it leaves this empty.
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
        batch_size: The batch size that the module is compiled for.
        input_shapes: Input name -> shape without the batch axis, for inputs with unknown
            dimensions.

    Returns:
        The Relax module, its parameters, and the Keras layers that each of them came from.

    Raises:
        UnsupportedOperationError: Some operations cannot be converted; the error names all of them.
        GraphError: The model is not a built functional or Sequential Keras 3 model.
        InputShapeError: An input has an unknown dimension or another fixed batch size, or
            `input_shapes` names an input that the model does not have.
    """
    graph = flatten(model)
    _check_converters(model, graph)
    builder = relax.BlockBuilder()
    emitter = Emitter(builder)
    inputs = _input_vars(graph, batch_size, input_shapes or {})
    variables: dict[Tensor, Any] = dict(zip(graph.inputs, inputs, strict=True))
    with builder.function("main", attrs={"num_input": len(inputs)}):
        with builder.dataflow():
            problems = _convert_all(graph, emitter, variables)
            # The function is completed even if there are problems: TVM prints an error about a
            # function that is left open.
            tensors = keras.tree.flatten(graph.outputs)
            results = inputs if problems else [variables[tensor] for tensor in tensors]
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
    unknown_names = set(input_shapes) - set(names)
    if unknown_names:
        raise InputShapeError(
            f"input_shapes names {sorted(unknown_names)}; expected names of the model's inputs, "
            f"{list(names)}."
        )
    inputs = []
    for name, tensor in zip(names, graph.inputs, strict=True):
        extents = tuple(input_shapes.get(name, tensor.shape[1:]))
        if any(extent is None for extent in extents):
            raise InputShapeError(
                f"Input {name!r} has the shape {tensor.shape}; expected fixed sizes, which "
                "compiled code needs. Fix them with --input_shape, or in Python with "
                f'cprune_tf.graph.fix_inputs(model, {{"{name}": (height, width, channels)}}).'
            )
        if tensor.shape[0] not in (None, batch_size):
            raise InputShapeError(
                f"Input {name!r} has the fixed batch size {tensor.shape[0]}; expected none, or "
                f"{batch_size}, which this is compiled for. cprune_tf.graph.fix_inputs(model) "
                "frees the batch."
            )
        dtype = computed_dtype(tensor.dtype)
        inputs.append(relax.Var(name, relax.TensorType((batch_size, *extents), dtype)))
    return inputs


def _check_converters(model: keras.Model, graph: FlatGraph) -> None:
    problems = [
        UnsupportedOperation(
            call.name, qualified_name(call.operation), "no converter is registered"
        )
        for call in graph.calls
        if _converter(call) is None
    ]
    if problems:
        raise UnsupportedOperationError.for_model(model.name, problems)


def _converter(call: Call) -> Converter | None:
    """The converter of a call: the registered one, or none is needed at inference."""
    converter = find_converter(call.operation)
    if converter is None and passes_at_inference(call.operation, call.args, call.kwargs):
        return _convert_nothing
    return converter


def _convert_nothing(emitter: Emitter, layer: Any, x: Any) -> Any:
    """Converts a layer that only trains: it returns its input."""
    del emitter, layer
    return x


def _convert_all(
    graph: FlatGraph, emitter: Emitter, variables: dict[Tensor, Any]
) -> list[UnsupportedOperation]:
    """Converts every call of a graph.

    Args:
        graph: The model's flat graph.
        emitter: Receives the converted calls.
        variables: Keras tensor -> Relax variable, of the inputs; receives those of all outputs.

    Returns:
        The calls whose settings are not supported.
    """
    plan = plan_folding(graph)
    problems: list[UnsupportedOperation] = []
    for call in graph.calls:
        output = call.outputs[0]
        if output in plan.alias:
            if plan.alias[output] in variables:
                variables[output] = variables[plan.alias[output]]
            continue
        if any(tensor not in variables for tensor in call.inputs):
            continue  # An earlier call failed, and that problem is reported already.
        try:
            variables.update(_convert(call, plan, emitter, variables))
        except UnsupportedOperationError as error:
            problems.append(
                UnsupportedOperation(call.name, qualified_name(call.operation), str(error))
            )
    return problems


def _convert(
    call: Call, plan: FoldingPlan, emitter: Emitter, variables: Mapping[Tensor, Any]
) -> dict[Tensor, Any]:
    """Converts one call and returns its output tensors -> Relax variables."""
    converter = _converter(call)
    assert converter is not None
    args, kwargs = keras.tree.map_structure(
        lambda x: variables[x] if isinstance(x, Tensor) else x, (call.args, call.kwargs)
    )
    if getattr(call.operation, "quantization_mode", None):
        raise UnsupportedOperationError(
            f"the layer is quantized ({call.operation.quantization_mode}); expected a float layer: "
            "import the model as it was before quantize()"
        )
    # The module is for inference, which overrides a recorded training=True.
    kwargs.pop("training", None)
    with emitter.converting(call, plan.absorbed.get(call, Absorbed())):
        results = keras.tree.flatten(converter(emitter, call.operation, *args, **kwargs))
    _check_shapes(call, results)
    return dict(zip(call.outputs, results, strict=True))


def _check_shapes(call: Call, results: Sequence[Any]) -> None:
    for tensor, var in zip(call.outputs, results, strict=True):
        expected, received = tensor.shape, shape(var)
        matches = len(expected) == len(received) and all(
            size is None or size == extent
            for size, extent in zip(expected[1:], received[1:], strict=True)
        )
        if not matches:
            raise UnsupportedOperationError(
                f"the converter returned the shape {received}; Keras says it is {expected}"
            )
