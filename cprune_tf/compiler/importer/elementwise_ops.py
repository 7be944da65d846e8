"""Converters of element-wise `keras.ops` that are one Relax operator or a short formula of some."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tvm import relax

from cprune_tf.compiler.importer.emitter import Emitter, dtype, scalar
from cprune_tf.compiler.importer.raw_ops import cast, operand
from cprune_tf.compiler.importer.registry import UnsupportedOperationError, register_converter

_op = relax.op


def _log1p(x: Any) -> Any:
    """log(1 + x); the quotient makes up for the digits of a small x that 1 + x loses."""
    one = scalar(1.0, x)
    total = _op.add(x, one)
    lost = _op.equal(total, one)
    ratio = _op.divide(x, _op.where(lost, one, _op.subtract(total, one)))
    return _op.where(lost, x, _op.multiply(_op.log(total), ratio))


def _expm1(x: Any) -> Any:
    """exp(x) - 1; the quotient makes up for the digits that exp(x) of a small x loses."""
    one = scalar(1.0, x)
    power = _op.exp(x)
    difference = _op.subtract(power, one)
    small = _op.less(_op.abs(x), scalar(0.5, x))
    lost = _op.equal(power, one)
    ratio = _op.divide(x, _op.where(lost, one, _op.log(power)))
    corrected = _op.where(lost, x, _op.multiply(difference, ratio))
    return _op.where(small, corrected, difference)


def _cbrt(x: Any) -> Any:
    """The third root, with the sign of x."""
    return _op.multiply(_op.sign(x), _op.power(_op.abs(x), scalar(1.0 / 3.0, x)))


def _sinc(x: Any) -> Any:
    """sin(pi x) / (pi x), and 1 at 0."""
    angle = _op.multiply(x, scalar(math.pi, x))
    at_zero = _op.equal(x, scalar(0.0, x))
    one = scalar(1.0, x)
    return _op.where(at_zero, one, _op.divide(_op.sin(angle), _op.where(at_zero, one, angle)))


def _times(factor: float, function: Callable[[Any], Any] = lambda x: x) -> Callable[[Any], Any]:
    return lambda x: _op.multiply(function(x), scalar(factor, x))


# Functions of floating-point values; integers become such values first, as in Keras.
_FLOAT_UNARY: dict[str, Callable[[Any], Any]] = {
    "Arccos": _op.acos,
    "Arccosh": _op.acosh,
    "Arcsin": _op.asin,
    "Arcsinh": _op.asinh,
    "Arctanh": _op.atanh,
    "Cbrt": _cbrt,
    "Cosh": _op.cosh,
    "Deg2rad": _times(math.pi / 180.0),
    "Erfc": lambda x: _op.subtract(scalar(1.0, x), _op.erf(x)),
    "Exp2": lambda x: _op.exp(_op.multiply(x, scalar(math.log(2.0), x))),
    "Expm1": _expm1,
    "Fabs": _op.abs,
    "Log10": _times(1.0 / math.log(10.0), _op.log),
    "Log1p": _log1p,
    "Log2": _times(1.0 / math.log(2.0), _op.log),
    "Rad2deg": _times(180.0 / math.pi),
    "Sinc": _sinc,
    "Sinh": _op.sinh,
    "Tan": _op.tan,
    "Trunc": _op.trunc,
}
_TESTS = {"Isfinite": _op.isfinite, "Isinf": _op.isinf, "Isnan": _op.isnan}
_LIKE = {"OnesLike": _op.ones_like, "ZerosLike": _op.zeros_like}


def _divide_no_nan(x: Any, y: Any) -> Any:
    """X / y, and 0 where y is 0."""
    at_zero = _op.equal(y, scalar(0.0, y))
    quotient = _op.divide(x, _op.where(at_zero, scalar(1.0, y), y))
    return _op.where(at_zero, scalar(0.0, x), quotient)


def _ignoring_nan(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """A maximum or minimum that is NaN only where both operands are."""

    def chosen(x: Any, y: Any) -> Any:
        return _op.where(_op.isnan(x), y, _op.where(_op.isnan(y), x, function(x, y)))

    return chosen


def _hypot(x: Any, y: Any) -> Any:
    return _op.sqrt(_op.add(_op.multiply(x, x), _op.multiply(y, y)))


def _fmod(x: Any, y: Any) -> Any:
    """The remainder with the sign of x."""
    return _op.subtract(x, _op.multiply(_op.trunc(_op.divide(x, y)), y))


_BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "Arctan2": _op.atan2,
    "DivideNoNan": _divide_no_nan,
    "Fmax": _ignoring_nan(_op.maximum),
    "Fmin": _ignoring_nan(_op.minimum),
    "Fmod": _fmod,
    "Hypot": _hypot,
    "Logaddexp": _op.log_add_exp,
}


def _keys(*tables: dict[str, Any]) -> list[str]:
    return [f"ops.{name}" for table in tables for name in table]


@register_converter(*_keys(_FLOAT_UNARY))
def convert_float_unary(emitter: Emitter, operation: Any, x: Any) -> Any:
    """Converts a function of each value."""
    x = cast(emitter, x, emitter.output_dtype)
    return emitter.emit(_FLOAT_UNARY[type(operation).__name__](x))


@register_converter(*_keys(_TESTS))
def convert_test(emitter: Emitter, operation: Any, x: Any) -> Any:
    """Converts a test of each value; integers are always finite."""
    x = x if "float" in dtype(x) else cast(emitter, x, "float32")
    return emitter.emit(_TESTS[type(operation).__name__](x))


@register_converter(*_keys(_LIKE))
def convert_like(emitter: Emitter, operation: Any, x: Any) -> Any:
    """Converts a tensor of ones or zeros of the shape of another."""
    return cast(emitter, emitter.emit(_LIKE[type(operation).__name__](x)), emitter.output_dtype)


@register_converter(*_keys(_BINARY))
def convert_binary(emitter: Emitter, operation: Any, x1: Any, x2: Any) -> Any:
    """Converts a function of two operands, which are broadcast and cast to the result's type."""
    left = operand(emitter, x1, emitter.output_dtype, "x1")
    right = operand(emitter, x2, emitter.output_dtype, "x2")
    return emitter.emit(_BINARY[type(operation).__name__](left, right))


@register_converter("ops.LogicalXor")
def convert_logical_xor(emitter: Emitter, operation: Any, x1: Any, x2: Any) -> Any:
    """Converts the exclusive or; operands are true where they are not zero."""
    left, right = operand(emitter, x1, "bool", "x1"), operand(emitter, x2, "bool", "x2")
    return emitter.emit(_op.logical_xor(left, right))


@register_converter("ops.Round")
def convert_round(emitter: Emitter, operation: Any, x: Any) -> Any:
    """Converts rounding to whole numbers; halves go to the even neighbour."""
    if operation.decimals:
        raise UnsupportedOperationError(f"decimals is {operation.decimals}; expected 0")
    if "float" not in dtype(x):
        return x
    # TVM rounds halves as it likes, so the fraction decides here.
    below = emitter.emit(_op.floor(x))
    fraction = emitter.emit(_op.subtract(x, below))
    half = _op.multiply(below, scalar(0.5, x))
    is_odd = _op.not_equal(half, _op.floor(half))
    at_half = _op.equal(fraction, scalar(0.5, x))
    goes_up = _op.logical_or(
        _op.greater(fraction, scalar(0.5, x)), _op.logical_and(at_half, is_odd)
    )
    return emitter.emit(_op.where(goes_up, _op.add(below, scalar(1.0, x)), below))


@register_converter("ops.NanToNum")
def convert_nan_to_num(emitter: Emitter, operation: Any, x: Any) -> Any:
    """Converts the replacement of NaN and infinite values by numbers."""
    limits = np.finfo(np.float32)
    highest = limits.max if operation.posinf is None else operation.posinf
    lowest = limits.min if operation.neginf is None else operation.neginf
    infinite = emitter.emit(_op.isinf(x))
    is_positive = _op.greater(x, scalar(0.0, x))
    bound = _op.where(is_positive, scalar(float(highest), x), scalar(float(lowest), x))
    finite = emitter.emit(_op.where(infinite, bound, x))
    return emitter.emit(_op.where(_op.isnan(x), scalar(float(operation.nan), x), finite))


@register_converter("ops.FullLike")
def convert_full_like(emitter: Emitter, operation: Any, x: Any, fill_value: Any) -> Any:
    """Converts a tensor of one value of the shape of another."""
    zeros = emitter.emit(_op.zeros_like(x))
    zeros = cast(emitter, zeros, emitter.output_dtype)
    value = operand(emitter, fill_value, emitter.output_dtype, "fill_value")
    return emitter.emit(_op.add(zeros, value))


@register_converter("ops.Select")
def convert_select(
    emitter: Emitter,
    operation: Any,
    condlist: Sequence[Any],
    choicelist: Sequence[Any],
    default: Any = 0,
) -> Any:
    """Converts the choice of the first operand whose condition is true."""
    result = operand(emitter, default, emitter.output_dtype, "default")
    pairs = list(enumerate(zip(condlist, choicelist, strict=True)))
    for number, (condition, choice) in reversed(pairs):
        chosen = operand(emitter, choice, emitter.output_dtype, f"choice{number}")
        result = emitter.emit(
            _op.where(operand(emitter, condition, "bool", f"condition{number}"), chosen, result)
        )
    return result
