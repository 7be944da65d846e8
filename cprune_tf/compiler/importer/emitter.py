"""What a converter works with: emits Relax calls, names parameters, remembers whose they are."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from tvm import relax

from cprune_tf.compiler.importer.registry import UnsupportedOperationError, find_converter
from cprune_tf.graph.flat import Call


@dataclasses.dataclass(frozen=True)
class Absorbed:
    """Calls that another call's conversion takes in.

    Attributes:
        batch_norm: The batch normalisation to fold into this call's kernel and bias.
        padding: The zero padding ((top, bottom), (left, right)) done before it; empty: none.
        before: The names of the absorbed layers that are computed before the absorbing one.
        after: The names of those computed after it; their weights go into its own.
    """

    batch_norm: Any = None
    padding: tuple[tuple[int, int], ...] = ()
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


class Emitter:
    """Builds one Relax function call by call.

    Converters use `emit`, `param` and `shape`; the rest belongs to `import_model`.
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
        """While active, everything emitted belongs to `call` and the layers absorbed into it."""
        self._call, self._absorbed = call, absorbed
        try:
            yield
        finally:
            self._call, self._absorbed = None, Absorbed()

    @property
    def call(self) -> Call:
        """The call under conversion."""
        if self._call is None:
            raise RuntimeError("Emitter used outside of a conversion.")
        return self._call

    @property
    def absorbed(self) -> Absorbed:
        """What the call under conversion has to take in."""
        return self._absorbed

    @property
    def output_dtype(self) -> str:
        """The type of the first output of the call under conversion."""
        return computed_dtype(str(self.call.outputs[0].dtype))

    @property
    def layers(self) -> tuple[str, ...]:
        """The Keras layers whose work the call under conversion does, in the model's order."""
        return (*self._absorbed.before, self.call.name, *self._absorbed.after)

    def emit(self, expr: Any) -> relax.Var:
        """Binds a Relax expression to a variable named after the layer under conversion.

        Args:
            expr: A call or another expression; nested calls become bindings of their own.
        """
        if isinstance(expr, relax.Call):
            args = [self._operand(arg) for arg in expr.args]
            expr = relax.Call(expr.op, args, expr.attrs, expr.ty_args)
        var = self._builder.emit(expr, name_hint=safe_hint(self.call.name))
        self.layers_of_var[var.name] = self.layers
        return var

    def _operand(self, expr: Any) -> Any:
        """Nested calls bound here and not by the builder, which would not say whose they are."""
        if isinstance(expr, relax.Tuple):
            return relax.Tuple([self._operand(field) for field in expr.fields])
        return self.emit(expr) if isinstance(expr, relax.Call | relax.TupleGetItem) else expr

    def convert(self, operation: Any, *args: Any, **kwargs: Any) -> Any:
        """Converts a layer that the one under conversion wraps, as part of it.

        Args:
            operation: The wrapped layer.
            *args: Its arguments, Relax variables in place of tensors.
            **kwargs: Its keyword arguments, likewise.

        Raises:
            UnsupportedOperationError: It has no converter.
        """
        converter = find_converter(operation)
        if converter is None:
            name = type(operation).__name__
            raise UnsupportedOperationError(f"no converter is registered for the inner {name}")
        return converter(self, operation, *args, **kwargs)

    def param(self, role: str, value: Any, *, dtype: str = "float32") -> relax.Var:
        """A parameter of the module, named "layer/role".

        Args:
            role: "kernel", "bias", ...
            value: A NumPy array, a Keras variable or a Keras tensor. Any dtype; stored as `dtype`.
            dtype: The parameter's type.

        Returns:
            The variable; the same one when a shared layer asks again.

        Raises:
            ValueError: A second, different value for the same name.
        """
        name = f"{self.call.name}/{role}"
        array = np.ascontiguousarray(to_numpy(value).astype(dtype))
        if name in self.params:
            if not np.array_equal(self.params[name], array):
                raise ValueError(f"Two different values for the parameter {name!r}.")
            return self.param_vars[name]
        var = relax.Var(name, relax.TensorType(array.shape, dtype))
        self.params[name], self.param_vars[name] = array, var
        self.layers_of_param[name] = (self.call.name, *self._absorbed.after)
        return var


def safe_hint(name: str) -> str:
    """A layer's name as a variable's; "lv1" and "gv1" are what FuseOps names its own."""
    return f"{name}_layer" if re.fullmatch(r"[lg]v\d*", name) else name


def shape(var: Any) -> tuple[int, ...]:
    """The static shape of a Relax variable."""
    return tuple(int(extent) for extent in var.ty.shape)


def computed_dtype(keras_dtype: str) -> str:
    """The type in which a Keras tensor is computed here: all floating point is float32."""
    return "float32" if "float" in keras_dtype else keras_dtype


def dtype(var: Any) -> str:
    """The element type of a Relax variable as a NumPy type name."""
    return str(var.ty.dtype)


def to_numpy(value: Any) -> np.ndarray:
    """A Keras variable or tensor, or anything array-like, as a NumPy array."""
    # A variable's own method avoids a deprecated NumPy protocol in Keras's conversion.
    return np.asarray(value.numpy() if hasattr(value, "numpy") else value)


def scalar(value: float, like: Any) -> Any:
    """A constant of the same type as the variable `like`."""
    return relax.const(value, dtype(like))
