"""Weights stored in fewer bits than is computed with, to make libraries of large models smaller.

Done to scheduled functions, after tuning: programs, their structure and every price stay those of
float32, and each load of a weight becomes a load and a conversion. What that costs shows where
whole models are timed. Kernels for Winograd's algorithm are stored as they are transformed.
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

_COMPUTED = "float32"
# Smaller ones are not worth a conversion, vectors (biases) never are.
_SMALLEST = 1024
# One of these converts float16 in one instruction; without, there is no function to call for it.
_FLOAT16_FEATURES = ("f16c", "avx512f", "neon")


def check_weight_storage(target: tvm.target.Target, dtype: str) -> None:
    """Makes sure that code for a target can read weights of a type.

    Args:
        target: What is compiled for.
        dtype: One of config.WEIGHT_TYPES.

    Raises:
        ConfigError: It cannot; says what it lacks.
    """
    if dtype == _COMPUTED:
        return
    if tvm_internals.is_gpu(target):
        raise ConfigError(f"config.weights is {dtype!r}; for a GPU it has to be 'float32'.")
    has = tvm.get_global_func("target.target_has_feature")
    if dtype == "float16" and not any(has(name, target) for name in _FLOAT16_FEATURES):
        cpu = target.attrs.get("mcpu", "the processor")
        raise ConfigError(
            f"config.weights is 'float16', which {cpu} cannot convert: it has none of "
            f"{', '.join(_FLOAT16_FEATURES)}; expected 'float32' or 'bfloat16' for it."
        )


def store_weights(mod: tvm.IRModule, dtype: str) -> tvm.IRModule:
    """Stores the weights in a scheduled module as another type.

    Args:
        mod: From executable.apply_programs: weights are constants.
        dtype: One of config.WEIGHT_TYPES.

    Returns:
        The module, ready for `relax.build`; itself for float32.
    """
    if dtype == _COMPUTED:
        return mod
    assert dtype in WEIGHT_TYPES
    storing = _Storing(mod, dtype)
    main = storing.visit_expr(mod["main"])
    storing.builder_.update_func(mod.get_global_var("main"), main)
    return relax.transform.DeadCodeElimination()(storing.builder_.get())


@relax.expr_functor.mutator
class _Storing(relax.PyExprMutator):
    """Gives calls other constants, and functions that read them."""

    def __init__(self, mod: tvm.IRModule, dtype: str) -> None:
        super().__init__(mod)
        self._mod = mod
        self._dtype = dtype
        self._functions: dict[tuple[str, tuple[int, ...]], Any] = {}

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        """Overrides the mutator's method."""
        call = self.visit_expr_post_order(call)
        if not call.op.same_as(tvm.ir.Op.get("relax.call_tir")):
            return call
        callee, arguments = call.args[0], list(call.args[1])
        stored = []
        for index, argument in enumerate(arguments):
            if not isinstance(argument, tvm.ir.GenericConst):
                continue
            values = argument.value.numpy()
            if _worth_it(values):
                stored.append(index)
                arguments[index] = relax.const(
                    tvm.runtime.tensor(_converted(values, self._dtype)), self._dtype
                )
        if not stored:
            return call
        function = self._reading(callee, tuple(stored))
        return relax.call_tir(function, arguments, list(call.ty_args))

    def _reading(self, callee: Any, stored: tuple[int, ...]) -> Any:
        """The variant of a function that reads some of its arguments as stored."""
        key = (callee.name_hint, stored)
        if key not in self._functions:
            function = self._mod[callee]
            for index in stored:
                function = tvm_internals.convert_parameter(function, index, self._dtype)
            name = f"{callee.name_hint}_{self._dtype}"
            self._functions[key] = self.builder_.add_func(function, name)
        return self._functions[key]


def _worth_it(values: npt.NDArray[Any]) -> bool:
    return values.dtype == _COMPUTED and values.ndim >= 2 and math.prod(values.shape) >= _SMALLEST


def _converted(values: npt.NDArray[Any], dtype: str) -> npt.NDArray[Any]:
    if dtype == "bfloat16":
        import ml_dtypes

        return values.astype(ml_dtypes.bfloat16)
    largest = float(np.finfo(np.float16).max)
    return np.clip(values, -largest, largest).astype(dtype)
