"""The second frontend: imports a Keras model through a `.tflite` file and TVM's TFLite frontend.

It shares nothing but the model's graph with the Keras importer's converters, so equal outputs of
the two frontends are evidence that both are right. TVM's frontend loses all names. They are
recovered because it converts one operator of the file after the other, and every operator is tied
to Keras calls (`litert.tracing`). Weights become named parameters again, so the task table, pruning
and the final build work as with the Keras importer.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tvm
from tvm import relax
from tvm.relax.frontend.tflite.tflite_frontend import OperatorConverter, from_tflite

from cprune_tf.compiler.importer.emitter import safe_hint, shape
from cprune_tf.compiler.importer.frontends import MissingTfliteError
from cprune_tf.compiler.importer.importing import ImportedModel
from cprune_tf.compiler.importer.registry import UnsupportedOperationError
from cprune_tf.graph.flat import Call, FlatGraph, Tensor, flatten
from cprune_tf.graph.naming import savable_twin
from cprune_tf.litert.tracing import Operator, TracedFile, trace

_LOGGER = logging.getLogger(__name__)
_WITH_KERNEL = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")


def import_through_tflite(model: keras.Model) -> ImportedModel:
    """Converts a Keras 3 model to TFLite and from there to Relax.

    Args:
        model: A built functional or Sequential model that computes in float32, channels last, with
            inputs of fixed size.

    Returns:
        The same as `import_model`, for a batch size of 1. Layers that cannot be tied to an operator
        of the file with certainty are in `untied_layers` and in no table.

    Raises:
        MissingTfliteError: The `tflite` package is not installed.
        ConversionError: TensorFlow cannot convert the model to TFLite.
        UnsupportedOperationError: TVM cannot import or compile an operator of the file; the error
            names the operator and its layers.
        GraphError: The model is not a built functional or Sequential Keras 3 model.
    """
    graph = flatten(savable_twin(model))
    require_tflite()
    return import_traced(graph, trace(graph))


def import_traced(
    graph: FlatGraph, file: TracedFile, recorder: type[OperatorRecorder] | None = None
) -> ImportedModel:
    """Converts a traced file to Relax.

    Args:
        graph: The flat graph of the Keras model.
        file: The model's file, whose operators are tied to its calls.
        recorder: TVM's converter; None: `OperatorRecorder`.

    Returns:
        See `import_through_tflite`.

    Raises:
        MissingTfliteError: See `import_through_tflite`.
        UnsupportedOperationError: See `import_through_tflite`.
    """
    tflite = require_tflite()
    operator_of: dict[str, int] = {}
    content = tflite.Model.GetRootAsModel(file.content, 0)
    recorder = recorder or OperatorRecorder
    converter = functools.partial(recorder, file, operator_of)
    mod = from_tflite(content, op_converter=converter)
    # The frontend rearranges kernels at run time; folding rearranges them once, here.
    mod = relax.transform.FoldConstant()(mod)
    imported = _MainRebuilder(graph, file, mod["main"], operator_of).imported()
    _check_lowerable(imported, recorder.advice)
    _report_untied(imported.untied_layers, graph)
    return imported


def require_tflite() -> Any:
    """Returns the package that reads `.tflite` files, or raises MissingTfliteError."""
    try:
        import tflite
    except ImportError as error:
        raise MissingTfliteError(
            "config.frontend='tflite' needs the package tflite to read .tflite files, but it is "
            "not installed. Run: pip install tflite (or cprune_tf[tflite]), or use "
            "config.frontend='keras'."
        ) from error
    return tflite


def _check_lowerable(imported: ImportedModel, advice: str) -> None:
    """Raises UnsupportedOperationError if TVM cannot compile the module.

    TVM's frontend expresses some operators in Relax that LegalizeOps cannot lower. They are refused
    here, before anything expensive is done.
    """
    legal_mod = relax.transform.LegalizeOps()(imported.mod)
    operators = [
        f"{binding.value.op.name} of {', '.join(imported.layers_of_var[binding.var.name])}"
        for block in legal_mod["main"].body.blocks
        for binding in block.bindings
        if isinstance(binding.value, relax.Call) and binding.value.op.name != "relax.call_tir"
    ]
    if operators:
        raise UnsupportedOperationError(
            "TVM cannot compile these operators, which its TFLite frontend created: "
            f"{'; '.join(operators)}. {advice}"
        )


def _report_untied(untied_layers: tuple[str, ...], graph: FlatGraph) -> None:
    """Logs the layers that are in no task; those with weights as a warning."""
    layers = graph.layers()
    for has_weights, level in ((True, logging.WARNING), (False, logging.INFO)):
        names = [
            name
            for name in untied_layers
            if bool(getattr(layers[name], "weights", None)) is has_weights
        ]
        if names:
            _LOGGER.log(
                level,
                "No operator of the .tflite file could be tied to these layers, so they are in no "
                "task: %s.",
                ", ".join(names),
            )


class OperatorRecorder(OperatorConverter):
    """TVM's converter, which also records the variable that holds each operator's result.

    Args:
        file: The file that is converted.
        operator_of: Filled with the name of a bound variable -> the number of the operator whose
            result it holds.
        *args: The arguments of the base class.

    Attributes:
        advice: What to do about an operator that cannot be converted.
    """

    advice = "Use config.frontend='keras'."

    def __init__(self, file: TracedFile, operator_of: dict[str, int], *args: Any):
        super().__init__(*args)
        self._file = file
        self._operator_of = operator_of
        self._number = -1
        self.convert_map: dict[str, Callable[..., Any]] = {
            code: functools.partial(self._convert, convert)
            for code, convert in self.convert_map.items()
        }

    def check_unsupported_ops(self) -> None:
        """Raises UnsupportedOperationError if TVM has no converter for an operator."""
        descriptions = [
            describe(operator, calls)
            for operator, calls in zip(self._file.operators, self._file.calls, strict=True)
            if operator.code not in self.convert_map
        ]
        if descriptions:
            raise UnsupportedOperationError(
                "TVM's TFLite frontend has no converter for "
                f"{'; '.join(dict.fromkeys(descriptions))}. {self.advice}"
            )
        super().check_unsupported_ops()

    def converted(self, code: str, convert: Callable[..., Any], op: Any) -> Any:
        """Returns what an operator computes.

        Args:
            code: The name of its operator code.
            convert: TVM's function that converts it.
            op: The operator in the file.
        """
        return convert(op=op)

    def _convert(self, convert: Callable[..., Any], op: Any) -> Any:
        self._number += 1
        operator, calls = self._file.operators[self._number], self._file.calls[self._number]
        try:
            result = self.converted(operator.code, convert, op)
            if isinstance(result, relax.Call | relax.Tuple | relax.TupleGetItem):
                result = self._reshape_as_in_file(self.bb.normalize(result), operator)
                result = self.bb.emit(result, name_hint=f"operator{self._number}_")
        except Exception as error:
            raise UnsupportedOperationError(
                f"TVM's TFLite frontend cannot convert {describe(operator, calls)} "
                f"({type(error).__name__}: {error}). {self.advice}"
            ) from error
        if isinstance(result, relax.Var):
            self._operator_of.setdefault(result.name, self._number)
        return result

    def _reshape_as_in_file(self, result: Any, operator: Operator) -> Any:
        """Reshapes a result to its shape in the file, since the frontend keeps axes of extent 1."""
        if not isinstance(result.ty, relax.TensorType):
            return result
        expected = tuple(self.subgraph.Tensors(operator.outputs[0]).ShapeAsNumpy().tolist())
        if shape(result) == expected:
            return result
        return relax.op.reshape(self.bb.emit(result), expected)


def describe(operator: Operator, calls: tuple[Call, ...]) -> str:
    """Returns an operator's code and its layers."""
    names = ", ".join(dict.fromkeys(call.name for call in calls)) or "no known layer"
    return f"{operator.code} of {names}"


class _MainRebuilder:
    """Rebuilds main with the Keras names of inputs and layers, and weights as named parameters.

    Args:
        graph: The model's flat graph.
        file: The model's file, whose operators are tied to calls.
        main: The function that TVM's frontend created.
        operator_of: Name of a variable bound in `main` -> number of the operator whose result it
            holds.
    """

    def __init__(
        self,
        graph: FlatGraph,
        file: TracedFile,
        main: relax.Function,
        operator_of: Mapping[str, int],
    ):
        self._graph = graph
        self._file = file
        self._main = main
        self._operator_of = operator_of
        self._values: dict[Any, Any] = {}
        self._params: dict[str, np.ndarray] = {}
        self._param_vars: dict[str, relax.Var] = {}
        self._layers_of_param: dict[str, tuple[str, ...]] = {}
        self._layers_of_var: dict[str, tuple[str, ...]] = {}

    def imported(self) -> ImportedModel:
        """Rebuilds main and returns it with the tables of names."""
        names = tuple(layer.name for layer in self._graph.input_layers)
        inputs: list[Any] = [None] * len(names)
        for var, number in zip(self._main.params, self._file.input_numbers, strict=True):
            inputs[number] = self._values[var] = relax.Var(names[number], var.ty)
        for number, tensor in enumerate(self._graph.inputs):
            if inputs[number] is None:  # TFLite drops inputs that no operator reads.
                tensor_type = relax.TensorType((1, *tensor.shape[1:]), tensor.dtype)
                inputs[number] = relax.Var(names[number], tensor_type)
        builder = relax.BlockBuilder()
        with builder.function("main", attrs={"num_input": len(inputs)}):
            with builder.dataflow():
                for bindings in self._segments():
                    self._emit(builder, *bindings)
                outputs = [
                    builder.emit_output(result, name_hint=f"output{number}")
                    for number, result in enumerate(self._results())
                ]
            builder.emit_func_output(
                outputs[0] if len(outputs) == 1 else outputs,
                params=[*inputs, *self._param_vars.values()],
            )
        return ImportedModel(
            mod=builder.get(),
            params=self._params,
            input_names=names,
            layers_of_param=self._layers_of_param,
            layers_of_var=self._layers_of_var,
            untied_layers=self._file.untied,
        )

    def _segments(self) -> list[tuple[int | None, list[Any]]]:
        """Splits main's bindings by operator number; an operator's result is its last binding.

        Bindings after the last operator have the number None.
        """
        segments: list[tuple[int | None, list[Any]]] = []
        pending: list[Any] = []
        for block in self._main.body.blocks:
            for binding in block.bindings:
                pending.append(binding)
                number = self._operator_of.get(binding.var.name)
                if number is not None:
                    segments.append((number, pending))
                    pending = []
        return [*segments, (None, pending)]

    def _emit(self, builder: relax.BlockBuilder, number: int | None, bindings: list[Any]) -> None:
        """Emits an operator's bindings, named after the operator's first layer."""
        calls = () if number is None else self._file.calls[number]
        layers = tuple(dict.fromkeys(call.name for call in calls))
        hint = safe_hint(layers[0]) if layers else f"operator{number}"
        for binding in bindings:
            value = self._translate(binding.value, number)
            if isinstance(value, relax.Call | relax.TupleGetItem):
                value = builder.emit(value, name_hint=hint)
                self._layers_of_var[value.name] = layers
            self._values[binding.var] = value

    def _translate(self, expr: Any, number: int | None) -> Any:
        """Rewrites an operator's expression in terms of the new main's variables and parameters."""
        if isinstance(expr, relax.Var):
            return self._values[expr]
        if isinstance(expr, relax.Tuple):
            return relax.Tuple([self._translate(field, number) for field in expr.fields])
        if isinstance(expr, relax.TupleGetItem):
            value = self._translate(expr.tuple_value, number)
            is_tuple = isinstance(value, relax.Tuple)
            return value.fields[expr.index] if is_tuple else relax.TupleGetItem(value, expr.index)
        if isinstance(expr, relax.Call):
            args = [self._translate(arg, number) for arg in expr.args]
            return relax.Call(expr.op, args, expr.attrs, expr.ty_args)
        if isinstance(expr, tvm.ir.GenericConst) and number is not None:
            return self._param(expr, number)
        return expr

    def _param(self, constant: Any, number: int) -> Any:
        """Returns the named parameter for a constant that is a weight, else the constant itself."""
        value = constant.value.numpy()
        if value.dtype != np.float32 or value.size == 1:
            return constant
        calls, code = self._file.calls[number], self._file.operators[number].code
        layers = tuple(
            dict.fromkeys(call.name for call in calls if getattr(call.operation, "weights", None))
        )
        role = ("kernel" if value.ndim > 1 else "bias") if code in _WITH_KERNEL else "constant"
        base = name = f"{layers[0] if layers else f'operator{number}'}/{role}"
        # A layer may have several weights of one role; equal ones share a parameter.
        count = 1
        while name in self._params and not np.array_equal(self._params[name], value):
            count += 1
            name = f"{base}_{count}"
        if name not in self._params:
            self._params[name] = np.ascontiguousarray(value)
            self._param_vars[name] = relax.Var(name, relax.TensorType(value.shape, "float32"))
            self._layers_of_param[name] = layers
        return self._param_vars[name]

    def _results(self) -> list[Any]:
        """Returns the values of the model's outputs in Keras's order."""
        body = self._translate(self._main.body.body, None)
        results = list(body.fields) if isinstance(body, relax.Tuple) else [body]
        tensors: list[Tensor] = keras.tree.flatten(self._graph.outputs)
        result_of = {
            tensors[number]: result
            for number, result in zip(self._file.output_numbers, results, strict=True)
        }
        return [result_of[tensor] for tensor in tensors]
