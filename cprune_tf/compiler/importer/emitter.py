"""The emitter, with which converters emit Relax calls and create parameters named after layers."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from tvm import relax

from cprune_tf.compiler.importer.registry import UnsupportedOperationError, find_converter
from cprune_tf.graph.flat import Call
from cprune_tf.graph.fused_layers import Absorbed, to_numpy


class Emitter:
    """Builds one Relax function, one Keras call after the other.

    Converters use `emit`, `param`, `convert` and the properties; `import_model` uses the
    rest.

    Attributes:
        params: Parameter name -> its value.
        param_vars: Parameter name -> its Relax variable.
        layers_of_param: Parameter name -> the Keras layers whose weights it holds.
        layers_of_var: Variable name -> the Keras layers that the variable's binding computes.
    """

    def __init__(self, builder: relax.BlockBuilder):
        self._builder = builder
        self._call: Call | None = None
        self._absorbed = Absorbed()
        self.params: dict[str, np.ndarray] = {}
        self.param_vars: dict[str, relax.Var] = {}
        self.layers_of_param: dict[str, tuple[str, ...]] = {}
        self.layers_of_var: dict[str, tuple[str, ...]] = {}

    @contextlib.contextmanager
    def converting(self, call: Call, absorbed: Absorbed) -> Iterator[None]:
        """Attributes everything that is emitted meanwhile to `call` and the layers it absorbs."""
        self._call, self._absorbed = call, absorbed
        try:
            yield
        finally:
            self._call, self._absorbed = None, Absorbed()

    @property
    def call(self) -> Call:
        """The call under conversion."""
        if self._call is None:
            raise RuntimeError(
                "The emitter was used outside of a conversion; expected a call from a converter."
            )
        return self._call

    @property
    def absorbed(self) -> Absorbed:
        """The layers that the call under conversion absorbs."""
        return self._absorbed

    @property
    def output_dtype(self) -> str:
        """The element type of the first output of the call under conversion."""
        return computed_dtype(str(self.call.outputs[0].dtype))

    @property
    def layers(self) -> tuple[str, ...]:
        """The call under conversion and the layers it absorbs, by name, in the model's order."""
        return (*self._absorbed.layers_before, self.call.name, *self._absorbed.layers_after)

    def emit(self, expr: Any) -> relax.Var:
        """Binds a Relax expression to a variable named after the layer under conversion.

        Args:
            expr: A call or another expression; each nested call gets a binding of its own.

        Returns:
            The variable.
        """
        if isinstance(expr, relax.Call):
            args = [self._operand(arg) for arg in expr.args]
            expr = relax.Call(expr.op, args, expr.attrs, expr.ty_args)
        var = self._builder.emit(expr, name_hint=safe_hint(self.call.name))
        self.layers_of_var[var.name] = self.layers
        return var

    def _operand(self, expr: Any) -> Any:
        """Binds nested calls here: the builder would bind them without recording their layers."""
        if isinstance(expr, relax.Tuple):
            return relax.Tuple([self._operand(field) for field in expr.fields])
        return self.emit(expr) if isinstance(expr, relax.Call | relax.TupleGetItem) else expr

    def convert(self, operation: Any, *args: Any, **kwargs: Any) -> Any:
        """Converts a layer that is wrapped by the layer under conversion, as a part of it.

        Args:
            operation: The wrapped layer.
            *args: The wrapped layer's arguments, with Relax variables in place of tensors.
            **kwargs: The wrapped layer's keyword arguments, likewise.

        Returns:
            What the wrapped layer's converter returns.

        Raises:
            UnsupportedOperationError: The wrapped layer has no converter.
        """
        converter = find_converter(operation)
        if converter is None:
            name = type(operation).__name__
            raise UnsupportedOperationError(f"no converter is registered for the wrapped {name}")
        return converter(self, operation, *args, **kwargs)

    def param(self, role: str, value: Any, *, dtype: str = "float32") -> relax.Var:
        """Adds a parameter named "layer/role" to the module.

        Args:
            role: What the parameter is to the layer: "kernel", "bias", ...
            value: A NumPy array, a Keras variable or a Keras tensor of any type; it is stored as
                `dtype`.
            dtype: The parameter's element type.

        Returns:
            The parameter's variable. A later call of a shared layer gets the same variable.

        Raises:
            ValueError: The name already has a different value.
        """
        name = f"{self.call.name}/{role}"
        array = np.ascontiguousarray(to_numpy(value).astype(dtype))
        if name in self.params:
            if not np.array_equal(self.params[name], array):
                raise ValueError(
                    f"The parameter {name!r} received two different values; expected the same "
                    "value at every call of the layer. Give each value its own role."
                )
            return self.param_vars[name]
        var = relax.Var(name, relax.TensorType(array.shape, dtype))
        self.params[name], self.param_vars[name] = array, var
        self.layers_of_param[name] = (self.call.name, *self._absorbed.layers_after)
        return var


def safe_hint(name: str) -> str:
    """Returns a variable name for a layer; avoids "lv1" and "gv1", which FuseOps gives its own."""
    return f"{name}_layer" if re.fullmatch(r"[lg]v\d*", name) else name


def shape(var: Any) -> tuple[int, ...]:
    """Returns the static shape of a Relax variable."""
    return tuple(int(extent) for extent in var.ty.shape)


def computed_dtype(keras_dtype: str) -> str:
    """Returns the type in which a Keras tensor is computed here: float32 for any floating point."""
    return "float32" if "float" in keras_dtype else keras_dtype


def dtype(var: Any) -> str:
    """Returns the element type of a Relax variable as a NumPy type name."""
    return str(var.ty.dtype)


def as_float(emitter: Emitter, var: Any) -> Any:
    """Returns integers as float32, in which Keras computes whatever may not be whole."""
    return var if "float" in dtype(var) else emitter.emit(relax.op.astype(var, "float32"))


def scalar(value: float, like: Any) -> Any:
    """Creates a constant of the same element type as the variable `like`."""
    return relax.const(value, dtype(like))
