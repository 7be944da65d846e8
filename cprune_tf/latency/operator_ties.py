"""Ties the operators that LiteRT's profiler names to the Keras layers that they compute.

The profiler names an operator of LiteRT's interpreter by its number in the file. It names an
operator of XNNPACK by its kind only, in the file's order; some of the file's operators are fused or
dropped, and others are added. So the two sequences are laid side by side: convolutions and matrix
products must be equally many in both, and divide them into gaps. In a gap, kinds that occur equally
often are tied in order. An operator that is not tied with certainty gets no layers; nothing is
guessed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from cprune_tf.compiler.importer.tflite_file import TracedFile
from cprune_tf.devices.base import OperatorTime
from cprune_tf.errors import UserError

_PRODUCT = "product"
_ACTIVATION = "clamp"
# By kind: how the names of XNNPACK's operators begin, and the file's operators that they come from.
# A file's operator can run under several names: a 1x1 convolution as a "Fully Connected".
_KINDS: dict[str, tuple[str, tuple[str, ...]]] = {
    _PRODUCT: (
        "(Dynamic )?Fully Connected|Convolution|Deconvolution|Batch Matrix Multiply",
        (
            "BATCH_MATMUL",
            "CONV_2D",
            "DEPTHWISE_CONV_2D",
            "FULLY_CONNECTED",
            "TRANSPOSE_CONV",
        ),
    ),
    _ACTIVATION: ("Clamp", ("RELU", "RELU6", "RELU_N1_TO_1", "RELU_0_TO_1")),
    "binary": (
        "Binary Elementwise|Add|Subtract|Multiply|Divide|Maximum|Minimum|Squared Difference|PReLU",
        (
            "ADD",
            "DIV",
            "MAXIMUM",
            "MINIMUM",
            "MUL",
            "PRELU",
            "SQUARED_DIFFERENCE",
            "SUB",
        ),
    ),
    "unary": (
        "Unary Elementwise|HardSwish|Sigmoid|TanH|ELU|GELU|LeakyReLU|Exp|Abs|Square|Square Root"
        "|Reciprocal Square Root|Negate",
        (
            "ABS",
            "ELU",
            "EXP",
            "GELU",
            "HARD_SWISH",
            "LEAKY_RELU",
            "LOGISTIC",
            "NEG",
            "RSQRT",
            "SQRT",
            "SQUARE",
            "TANH",
        ),
    ),
    "average pooling": ("Average Pooling", ("AVERAGE_POOL_2D",)),
    "max pooling": ("Max Pooling", ("MAX_POOL_2D",)),
    "mean": ("Mean|Sum", ("MEAN", "SUM")),
    "pad": ("Constant Pad", ("PAD", "PADV2")),
    "resize": ("Resize Bilinear", ("RESIZE_BILINEAR",)),
    "softmax": ("Softmax", ("SOFTMAX",)),
    "transpose": ("Transpose", ("TRANSPOSE",)),
}
_PATTERNS = {kind: re.compile(rf"(?:{names}) \(") for kind, (names, _) in _KINDS.items()}
_KIND_OF_CODE = {code: kind for kind, (_, codes) in _KINDS.items() for code in codes}


class UntiedOperatorsError(UserError, ValueError):
    """LiteRT's operators cannot be told apart by the file's; says why."""


def tie_operators(
    times: Sequence[OperatorTime], file: TracedFile
) -> tuple[tuple[OperatorTime, tuple[str, ...]], ...]:
    """Finds the Keras layers of profiled operators.

    Args:
        times: From `Device.profile_litert` of the file.
        file: The file and what in it came from which layers.

    Returns:
        The operators with their layers, in the same order; no layers where they are not certain.

    Raises:
        UntiedOperatorsError: XNNPACK runs the model in several parts, or not with the same number
            of convolutions and matrix products as the file has.
    """
    interpreted = [number for number, time in enumerate(times) if not time.delegated]
    delegated = [number for number, time in enumerate(times) if time.delegated]
    if any(times[number].index == 0 for number in delegated[1:]):
        raise UntiedOperatorsError(
            "LiteRT's delegate runs the model in several parts, and in what order these are is not "
            "known; expected one part."
        )
    operator_of = {number: times[number].index for number in interpreted}
    rest = [number for number in range(len(file.operators)) if number not in operator_of.values()]
    gaps = zip(
        _gaps(delegated, [_kind_of_name(times[number].name) for number in delegated]),
        _gaps(rest, [_KIND_OF_CODE.get(file.operators[number].code) for number in rest]),
        strict=False,
    )
    _require_same_products([times[number].name for number in delegated], rest, file)
    for (product, light), (file_product, file_light) in gaps:
        if product is not None and file_product is not None:
            operator_of[product] = file_product
        operator_of |= _tie_gap(light, file_light)
        if all(kind != _ACTIVATION for _, kind in file_light):
            # Then a clamp is the activation of the operator before it, run on its own.
            for number, kind in light:
                if kind == _ACTIVATION and number - 1 in operator_of:
                    operator_of[number] = operator_of[number - 1]
    return tuple((time, _layers(file, operator_of.get(n))) for n, time in enumerate(times))


def _kind_of_name(name: str) -> str | None:
    return next((kind for kind, pattern in _PATTERNS.items() if pattern.match(name)), None)


def _require_same_products(names: Sequence[str], rest: Sequence[int], file: TracedFile) -> None:
    ran = [name for name in names if _kind_of_name(name) == _PRODUCT]
    codes = [file.operators[number].code for number in rest]
    products = [code for code in codes if _KIND_OF_CODE.get(code) == _PRODUCT]
    if len(ran) != len(products):
        raise UntiedOperatorsError(
            f"LiteRT ran {len(ran)} convolutions and matrix products; the file has "
            f"{len(products)}, so which is which is not known."
        )
    for name, code in zip(ran, products, strict=True):
        # Neither name can stand for the other's operator.
        if ("DWConv" in name and code == "FULLY_CONNECTED") or (
            "Fully Connected" in name and code == "DEPTHWISE_CONV_2D"
        ):
            raise UntiedOperatorsError(f"LiteRT ran {name!r} where the file has {code}.")


def _gaps(
    numbers: Sequence[int], kinds: Sequence[str | None]
) -> list[tuple[int | None, list[tuple[int, str | None]]]]:
    """Each product with what follows it up to the next; first what precedes all products."""
    gaps: list[tuple[int | None, list[tuple[int, str | None]]]] = [(None, [])]
    for number, kind in zip(numbers, kinds, strict=True):
        if kind == _PRODUCT:
            gaps.append((number, []))
        else:
            gaps[-1][1].append((number, kind))
    return gaps


def _tie_gap(
    light: Sequence[tuple[int, str | None]], file_light: Sequence[tuple[int, str | None]]
) -> dict[int, int]:
    """Ties what lies between two products: kinds that occur equally often in both."""
    tied: dict[int, int] = {}
    for kind in {kind for _, kind in light if kind is not None}:
        ran = [number for number, other in light if other == kind]
        in_file = [number for number, other in file_light if other == kind]
        if len(ran) == len(in_file):
            tied |= dict(zip(ran, in_file, strict=True))
    return tied


def _layers(file: TracedFile, operator: int | None) -> tuple[str, ...]:
    if operator is None:
        return ()
    return tuple(dict.fromkeys(call.name for call in file.calls[operator]))
