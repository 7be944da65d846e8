"""Activation functions as Relax operators.

Every function takes the emitter, the input and the parameters of the Keras function of the same
name, and returns the variable of the result. Its docstring says what it computes.
"""

from __future__ import annotations

from typing import Any

from tvm import relax

from cprune_tf.compiler.importer.emitter import Emitter, scalar, shape

_op = relax.op


def relu(
    emitter: Emitter,
    x: Any,
    *,
    negative_slope: float = 0.0,
    max_value: float | None = None,
    threshold: float = 0.0,
) -> Any:
    """Keras's general ReLU. Plain and limited ReLUs are a single operator.

    Args:
        emitter: Receives the operators.
        x: The input.
        negative_slope: The slope below the threshold: negative_slope * (x - threshold).
        max_value: The upper limit of the result, or None if there is none.
        threshold: The value above which the input is passed on unchanged.
    """
    if threshold == 0.0 and negative_slope == 0.0:
        if max_value is None:
            return emitter.emit(_op.nn.relu(x))
        return emitter.emit(_op.clip(x, 0.0, float(max_value)))
    if threshold == 0.0:
        y = leaky_relu(emitter, x, negative_slope=negative_slope)
    else:
        limit = scalar(float(threshold), x)
        below = _op.multiply(_op.subtract(x, limit), scalar(float(negative_slope), x))
        y = emitter.emit(_op.where(_op.greater(x, limit), x, below))
    if max_value is not None:
        y = emitter.emit(_op.minimum(y, scalar(float(max_value), x)))
    return y


def relu6(emitter: Emitter, x: Any) -> Any:
    """min(max(x, 0), 6)."""
    return emitter.emit(_op.clip(x, 0.0, 6.0))


def leaky_relu(emitter: Emitter, x: Any, *, negative_slope: float = 0.2) -> Any:
    """The input if it is positive, else negative_slope * x."""
    return emitter.emit(_op.nn.leakyrelu(x, float(negative_slope)))


def softmax(emitter: Emitter, x: Any, *, axis: int = -1) -> Any:
    """The softmax over one axis."""
    return emitter.emit(_op.nn.softmax(x, axis=axis % len(shape(x))))


def log_softmax(emitter: Emitter, x: Any, *, axis: int = -1) -> Any:
    """The logarithm of the softmax over one axis."""
    return emitter.emit(_op.nn.log_softmax(x, axis=axis % len(shape(x))))


def linear(emitter: Emitter, x: Any) -> Any:
    """The input, unchanged."""
    return x


def sigmoid(emitter: Emitter, x: Any) -> Any:
    """1 / (1 + exp(-x))."""
    return emitter.emit(_op.sigmoid(x))


def tanh(emitter: Emitter, x: Any) -> Any:
    """The hyperbolic tangent."""
    return emitter.emit(_op.tanh(x))


def exponential(emitter: Emitter, x: Any) -> Any:
    """exp(x)."""
    return emitter.emit(_op.exp(x))


def silu(emitter: Emitter, x: Any) -> Any:
    """The input times sigmoid(x), also known as swish."""
    return emitter.emit(_op.nn.silu(x))


def gelu(emitter: Emitter, x: Any, *, approximate: bool = False) -> Any:
    """The input times Phi(x), either exact or approximated through tanh."""
    return emitter.emit(_op.nn.gelu_tanh(x) if approximate else _op.nn.gelu(x))


def elu(emitter: Emitter, x: Any, *, alpha: float = 1.0) -> Any:
    """The input if it is positive, else alpha * (exp(x) - 1)."""
    zero = scalar(0.0, x)
    # The exponential is computed for positive inputs too, where the minimum prevents an overflow.
    below = _op.subtract(_op.exp(_op.minimum(x, zero)), scalar(1.0, x))
    below = _op.multiply(below, scalar(float(alpha), x))
    return emitter.emit(_op.where(_op.greater(x, zero), x, below))


def selu(emitter: Emitter, x: Any) -> Any:
    """The scaled ELU with the self-normalising constants."""
    y = elu(emitter, x, alpha=1.6732632423543772)
    return emitter.emit(_op.multiply(y, scalar(1.0507009873554805, x)))


def celu(emitter: Emitter, x: Any, *, alpha: float = 1.0) -> Any:
    """The input if it is positive, else alpha * (exp(x / alpha) - 1)."""
    zero, scale = scalar(0.0, x), scalar(float(alpha), x)
    below = _op.subtract(_op.exp(_op.divide(_op.minimum(x, zero), scale)), scalar(1.0, x))
    return emitter.emit(_op.add(_op.maximum(x, zero), _op.multiply(below, scale)))


def softplus(emitter: Emitter, x: Any) -> Any:
    """log(exp(x) + 1), without overflow."""
    negated = _op.negative(_op.abs(x))
    tail = _op.log(_op.add(_op.exp(negated), scalar(1.0, x)))
    return emitter.emit(_op.add(_op.maximum(x, scalar(0.0, x)), tail))


def softsign(emitter: Emitter, x: Any) -> Any:
    """The input divided by 1 + |x|."""
    return emitter.emit(_op.divide(x, _op.add(_op.abs(x), scalar(1.0, x))))


def log_sigmoid(emitter: Emitter, x: Any) -> Any:
    """log(sigmoid(x))."""
    negated = emitter.emit(_op.negative(x))
    return emitter.emit(_op.negative(softplus(emitter, negated)))


def mish(emitter: Emitter, x: Any) -> Any:
    """The input times tanh(softplus(x))."""
    return emitter.emit(_op.multiply(x, _op.tanh(softplus(emitter, x))))


def hard_sigmoid(emitter: Emitter, x: Any) -> Any:
    """relu6(x + 3) / 6."""
    y = _op.clip(_op.add(x, scalar(3.0, x)), 0.0, 6.0)
    return emitter.emit(_op.multiply(y, scalar(1.0 / 6.0, x)))


def hard_silu(emitter: Emitter, x: Any) -> Any:
    """The input times hard_sigmoid(x), also known as hard swish."""
    return emitter.emit(_op.multiply(x, hard_sigmoid(emitter, x)))


def hard_tanh(emitter: Emitter, x: Any) -> Any:
    """min(max(x, -1), 1)."""
    return emitter.emit(_op.clip(x, -1.0, 1.0))


def tanh_shrink(emitter: Emitter, x: Any) -> Any:
    """The input minus tanh(x)."""
    return emitter.emit(_op.subtract(x, _op.tanh(x)))


def hard_shrink(emitter: Emitter, x: Any, *, threshold: float = 0.5) -> Any:
    """The input if |x| is above the threshold, else 0."""
    keep = _op.greater(_op.abs(x), scalar(float(threshold), x))
    return emitter.emit(_op.where(keep, x, scalar(0.0, x)))


def soft_shrink(emitter: Emitter, x: Any, *, threshold: float = 0.5) -> Any:
    """The input moved towards 0 by the threshold, and 0 if |x| is below the threshold."""
    inside = _op.clip(x, -float(threshold), float(threshold))
    return emitter.emit(_op.subtract(x, inside))


def threshold(emitter: Emitter, x: Any, *, threshold: float, default_value: float) -> Any:
    """The input if it is above the threshold, else the default value."""
    keep = _op.greater(x, scalar(float(threshold), x))
    return emitter.emit(_op.where(keep, x, scalar(float(default_value), x)))


def squareplus(emitter: Emitter, x: Any, *, b: float = 4) -> Any:
    """(x + sqrt(x^2 + b)) / 2."""
    root = _op.sqrt(_op.add(_op.multiply(x, x), scalar(float(b), x)))
    return emitter.emit(_op.multiply(_op.add(x, root), scalar(0.5, x)))


def sparse_plus(emitter: Emitter, x: Any) -> Any:
    """0 if x is below -1, x if it is above 1, and (x + 1)^2 / 4 in between."""
    one = scalar(1.0, x)
    inside = emitter.emit(_op.add(_op.clip(x, -1.0, 1.0), one))
    square = _op.multiply(_op.multiply(inside, inside), scalar(0.25, x))
    return emitter.emit(_op.where(_op.less(x, one), square, x))


def sparse_sigmoid(emitter: Emitter, x: Any) -> Any:
    """(x + 1) / 2, limited to the range 0..1."""
    y = _op.multiply(_op.add(x, scalar(1.0, x)), scalar(0.5, x))
    return emitter.emit(_op.clip(y, 0.0, 1.0))


def glu(emitter: Emitter, x: Any, *, axis: int = -1) -> Any:
    """The first half of an axis times the sigmoid of its second half."""
    halves = emitter.emit(_op.split(x, 2, axis=axis % len(shape(x))))
    first = emitter.emit(relax.TupleGetItem(halves, 0))
    second = emitter.emit(relax.TupleGetItem(halves, 1))
    return emitter.emit(_op.multiply(first, _op.sigmoid(second)))
