"""Stores weights in a smaller type than they are computed in, to make large libraries smaller.

This changes scheduled functions, after tuning: each load of a weight becomes a load and a
conversion. Programs, their structure and all prices stay those of float32. The cost of the
conversions shows when whole models are timed. Kernels for Winograd's algorithm are stored in their
transformed form.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax

from cprune_tf.compiler import tvm_internals
from cprune_tf.config import WEIGHT_TYPES, ConfigError

_COMPUTE_TYPE = "float32"
# Weights with fewer values are not worth a conversion. Vectors (biases) never are.
_MIN_VALUES = 1024
# Processor features that convert float16 in one instruction. Without one of them, the
# code would call a conversion function that nothing provides.
_FLOAT16_FEATURES = ("f16c", "avx512f", "neon")


def check_weight_storage(target: tvm.target.Target, dtype: str) -> None:
    """Checks that code for a target can read weights of a type.

    Args:
        target: The target that is compiled for.
        dtype: The type of the stored weights, one of config.WEIGHT_TYPES.

    Raises:
        ConfigError: If the target cannot read them; the message says what it lacks.
    """
    if dtype == _COMPUTE_TYPE:
        return
    if tvm_internals.is_gpu(target):
        raise ConfigError(f"config.weights is {dtype!r}; expected 'float32' for a GPU.")
    has_feature = tvm.get_global_func("target.target_has_feature")
    if dtype == "float16" and not any(has_feature(name, target) for name in _FLOAT16_FEATURES):
        cpu = target.attrs.get("mcpu", "the processor")
        raise ConfigError(
            f"config.weights is 'float16', which {cpu} cannot convert: it has none of "
            f"{', '.join(_FLOAT16_FEATURES)}; expected 'float32' or 'bfloat16' for it."
        )


def store_weights(mod: tvm.IRModule, dtype: str) -> tvm.IRModule:
    """Stores the weights in a scheduled module as another type.

    Args:
        mod: A module from executable.apply_programs, in which weights are constants.
        dtype: The type to store weights in, one of config.WEIGHT_TYPES.

    Returns:
        The changed module, ready for `relax.build`; `mod` itself for float32.
    """
    if dtype == _COMPUTE_TYPE:
        return mod
    assert dtype in WEIGHT_TYPES
    converter = _WeightConverter(mod, dtype)
    main = converter.visit_expr(mod["main"])
    converter.builder_.update_func(mod.get_global_var("main"), main)
    return relax.transform.DeadCodeElimination()(converter.builder_.get())


@relax.expr_functor.mutator
class _WeightConverter(relax.PyExprMutator):
    """Converts the constants that calls read, and makes the called functions read the new type."""

    def __init__(self, mod: tvm.IRModule, dtype: str) -> None:
        super().__init__(mod)
        self._mod = mod
        self._dtype = dtype
        self._functions: dict[tuple[str, tuple[int, ...]], Any] = {}

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        """Converts the weights that one call reads; overrides the mutator's method."""
        call = self.visit_expr_post_order(call)
        if not call.op.same_as(tvm.ir.Op.get("relax.call_tir")):
            return call
        callee, arguments = call.args[0], list(call.args[1])
        converted_indices = []
        for index, argument in enumerate(arguments):
            if not isinstance(argument, tvm.ir.GenericConst):
                continue
            values = argument.value.numpy()
            if _is_worth_converting(values):
                converted_indices.append(index)
                arguments[index] = relax.const(
                    tvm.runtime.tensor(_converted(values, self._dtype)), self._dtype
                )
        if not converted_indices:
            return call
        function = self._function_reading(callee, tuple(converted_indices))
        return relax.call_tir(function, arguments, list(call.ty_args))

    def _function_reading(self, callee: Any, converted_indices: tuple[int, ...]) -> Any:
        """The variant of a function that reads some of its arguments in the storage type."""
        key = (callee.name_hint, converted_indices)
        if key not in self._functions:
            function = self._mod[callee]
            for index in converted_indices:
                function = tvm_internals.convert_parameter(function, index, self._dtype)
            name = f"{callee.name_hint}_{self._dtype}"
            self._functions[key] = self.builder_.add_func(function, name)
        return self._functions[key]


def _is_worth_converting(values: npt.NDArray[Any]) -> bool:
    is_large_matrix = values.ndim >= 2 and math.prod(values.shape) >= _MIN_VALUES
    return values.dtype == _COMPUTE_TYPE and is_large_matrix


def _converted(values: npt.NDArray[Any], dtype: str) -> npt.NDArray[Any]:
    if dtype == "bfloat16":
        import ml_dtypes

        return values.astype(ml_dtypes.bfloat16)
    largest = float(np.finfo(np.float16).max)
    return np.clip(values, -largest, largest).astype(dtype)
