"""A second way from Keras to Relax: over a `.tflite` file and TVM's own TFLite frontend.

Nothing but the model's graph is shared with the Keras importer's converters, so equal outputs of
the two are evidence for both. TVM's frontend loses all names; they come back because it converts
one operator of the file after the other, and every operator is traced to Keras calls
(`tflite_file`). Weights become named parameters again, so that the task table, pruning and the
final build work as with the Keras importer.
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
from cprune_tf.compiler.importer.importing import ImportedModel
from cprune_tf.compiler.importer.registry import UnsupportedOperationError
from cprune_tf.compiler.importer.tflite_file import Operator, TracedFile, trace
from cprune_tf.graph.flat import Call, FlatGraph, Tensor, flatten

_LOGGER = logging.getLogger(__name__)
_WITH_KERNEL = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")


def import_through_tflite(model: keras.Model) -> ImportedModel:
    """Converts a Keras 3 model to TFLite and from there to Relax.

    Args:
        model: A built functional or Sequential model that computes in float32, channels last, with
            inputs of fixed size.

    Returns:
        The same as `import_model`, for a batch of 1. Layers that cannot be tied to an operator of
        the file with certainty are in `untied_layers` and in no table.

    Raises:
        MissingTfliteError: The `tflite` package is not installed.
        ConversionError: TensorFlow cannot convert the model to TFLite.
        UnsupportedOperationError: TVM cannot import an operator of the file, which is named.
        GraphError: Not a built functional or Sequential Keras 3 model.
    """
    graph = flatten(model)
    file = trace(graph)
    operator_of: dict[str, int] = {}
    mod = from_tflite(file.model, op_converter=functools.partial(_Recorder, file, operator_of))
    mod = relax.transform.FoldConstant()(mod)  # the frontend turns kernels round at run time
    imported = _Renaming(graph, file, mod["main"], operator_of).imported()
    _check_lowerable(imported)
    _report_untied(imported.untied_layers, graph)
    return imported


def _check_lowerable(imported: ImportedModel) -> None:
    """Refuses what TVM can write down but not compile, before anything expensive is done."""
    legal = relax.transform.LegalizeOps()(imported.mod)
    stuck = [
        f"{binding.value.op.name} of {', '.join(imported.layers_of_var[binding.var.name])}"
        for block in legal["main"].body.blocks
        for binding in block.bindings
        if isinstance(binding.value, relax.Call) and binding.value.op.name != "relax.call_tir"
    ]
    if stuck:
        raise UnsupportedOperationError(
            f"TVM cannot compile what its TFLite frontend makes of {'; '.join(stuck)}. Use "
            "config.frontend='keras'."
        )


def _report_untied(untied: tuple[str, ...], graph: FlatGraph) -> None:
    layers = graph.layers()
    for has_weights, level in ((True, logging.WARNING), (False, logging.INFO)):
        names = [n for n in untied if bool(getattr(layers[n], "weights", None)) is has_weights]
        if names:
            _LOGGER.log(
                level,
                "These layers left no trace in the .tflite file and are in no task: %s.",
                ", ".join(names),
            )


class _Recorder(OperatorConverter):
    """TVM's converter; notes which variable holds which operator's result.

    Args:
        file: What is converted.
        operator_of: Receives: name of a bound variable -> number of the operator it ends.
        *args: Of the base class.
    """

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
        """Names the operators TVM has no converter for, and whose they are."""
        missing = [
            _described(operator, calls)
            for operator, calls in zip(self._file.operators, self._file.calls, strict=True)
            if operator.code not in self.convert_map
        ]
        if missing:
            raise UnsupportedOperationError(
                f"TVM's TFLite frontend has no converter for {'; '.join(dict.fromkeys(missing))}. "
                "Use config.frontend='keras'."
            )
        super().check_unsupported_ops()

    def _convert(self, convert: Callable[..., Any], op: Any) -> Any:
        self._number += 1
        operator, calls = self._file.operators[self._number], self._file.calls[self._number]
        try:
            result = convert(op=op)
            if isinstance(result, relax.Call | relax.Tuple | relax.TupleGetItem):
                result = self._shaped(self.bb.normalize(result), operator)
                result = self.bb.emit(result, name_hint=f"operator{self._number}_")
        except Exception as error:
            raise UnsupportedOperationError(
                f"TVM's TFLite frontend cannot convert {_described(operator, calls)} "
                f"({type(error).__name__}: {error}). Use config.frontend='keras'."
            ) from error
        if isinstance(result, relax.Var):
            self._operator_of.setdefault(result.name, self._number)
        return result

    def _shaped(self, result: Any, operator: Operator) -> Any:
        """The result in the shape that the file gives it: the frontend keeps axes of size one."""
        if not isinstance(result.ty, relax.TensorType):
            return result
        expected = tuple(self.subgraph.Tensors(operator.outputs[0]).ShapeAsNumpy().tolist())
        if shape(result) == expected:
            return result
        return relax.op.reshape(self.bb.emit(result), expected)


def _described(operator: Operator, calls: tuple[Call, ...]) -> str:
    names = ", ".join(dict.fromkeys(call.name for call in calls)) or "no known layer"
    return f"{operator.code} of {names}"


class _Renaming:
    """Makes main anew: inputs and variables named as in Keras, weights as named parameters."""

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
        names = tuple(layer.name for layer in self._graph.input_layers)
        inputs: list[Any] = [None] * len(names)
        for var, number in zip(self._main.params, self._file.input_numbers, strict=True):
            inputs[number] = self._values[var] = relax.Var(names[number], var.ty)
        for number, tensor in enumerate(self._graph.inputs):
            if inputs[number] is None:  # TFLite drops inputs that nothing reads
                kind = relax.TensorType((1, *tensor.shape[1:]), tensor.dtype)
                inputs[number] = relax.Var(names[number], kind)
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
        """Main's bindings by operator: an operator's are bound in a row, its result last."""
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
        calls = () if number is None else self._file.calls[number]
        layers = tuple(dict.fromkeys(call.name for call in calls))
        hint = safe_hint(layers[0]) if layers else f"operator{number}"
        for binding in bindings:
            value = self._swapped(binding.value, number)
            if isinstance(value, relax.Call | relax.TupleGetItem):
                value = builder.emit(value, name_hint=hint)
                self._layers_of_var[value.name] = layers
            self._values[binding.var] = value

    def _swapped(self, expr: Any, number: int | None) -> Any:
        if isinstance(expr, relax.Var):
            return self._values[expr]
        if isinstance(expr, relax.Tuple):
            return relax.Tuple([self._swapped(field, number) for field in expr.fields])
        if isinstance(expr, relax.TupleGetItem):
            whole = self._swapped(expr.tuple_value, number)
            is_tuple = isinstance(whole, relax.Tuple)
            return whole.fields[expr.index] if is_tuple else relax.TupleGetItem(whole, expr.index)
        if isinstance(expr, relax.Call):
            args = [self._swapped(arg, number) for arg in expr.args]
            return relax.Call(expr.op, args, expr.attrs, expr.ty_args)
        if isinstance(expr, tvm.ir.GenericConst) and number is not None:
            return self._param(expr, number)
        return expr

    def _param(self, constant: Any, number: int) -> Any:
        """A named parameter in place of a weight; other constants stay."""
        value = constant.value.numpy()
        if value.dtype != np.float32 or value.size == 1:
            return constant
        calls, code = self._file.calls[number], self._file.operators[number].code
        layers = tuple(
            dict.fromkeys(call.name for call in calls if getattr(call.operation, "weights", None))
        )
        role = ("kernel" if value.ndim > 1 else "bias") if code in _WITH_KERNEL else "constant"
        base = name = f"{layers[0] if layers else f'operator{number}'}/{role}"
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
        """The model's outputs in Keras's order."""
        body = self._swapped(self._main.body.body, None)
        returned = list(body.fields) if isinstance(body, relax.Tuple) else [body]
        tensors: list[Tensor] = keras.tree.flatten(self._graph.outputs)
        by_tensor = {
            tensors[number]: value
            for number, value in zip(self._file.output_numbers, returned, strict=True)
        }
        return [by_tensor[tensor] for tensor in tensors]
