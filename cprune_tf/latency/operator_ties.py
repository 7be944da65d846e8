"""Ties the operators that LiteRT's profiler names to the Keras layers that they compute.

The profiler identifies an operator of LiteRT's interpreter by its number in the file. It identifies
an operator of XNNPACK only by its kind. XNNPACK keeps the file's order, but it fuses or drops some
operators and adds others. So this module lays the two sequences side by side. Both must have the
same number of convolutions and matrix products, which divide each sequence into gaps. In a gap,
operators of a kind that occurs equally often in both sequences are tied in order. Nothing is
guessed: an operator that cannot be tied with certainty gets no layers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from cprune_tf.devices.base import OperatorTime
from cprune_tf.errors import UserError
from cprune_tf.litert.tracing import TracedFile

_PRODUCT = "product"
_ACTIVATION = "clamp"
# Maps each kind to a pattern of how XNNPACK's operator names begin, and to the codes of the file's
# operators that run under these names. One code can run under several names: XNNPACK may call a 1x1
# convolution "Fully Connected".
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
    """Raised if LiteRT's operators cannot be matched to those of the file; says why."""


def tie_operators(
    times: Sequence[OperatorTime], file: TracedFile
) -> tuple[tuple[OperatorTime, tuple[str, ...]], ...]:
    """Finds the Keras layers of profiled operators.

    Args:
        times: Profiled times of the file's operators, from `Device.profile_litert`.
        file: The file, with the Keras layers behind each of its operators.

    Returns:
        Each operator with its layers, in the order of `times`. The layers are empty if they are
        not certain.

    Raises:
        UntiedOperatorsError: If XNNPACK runs the model in several parts, or runs another number of
            convolutions and matrix products than the file holds.
    """
    interpreted = [number for number, time in enumerate(times) if not time.delegated]
    delegated = [number for number, time in enumerate(times) if time.delegated]
    if any(times[number].index == 0 for number in delegated[1:]):
        raise UntiedOperatorsError(
            "LiteRT's delegate runs the model in several parts, and the order of the parts is "
            "unknown; expected one part."
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
            # The file has no separate activation in this gap. So a clamp is the fused activation
            # of the operator before it, which XNNPACK runs on its own.
            for number, kind in light:
                if kind == _ACTIVATION and number - 1 in operator_of:
                    operator_of[number] = operator_of[number - 1]
    return tuple((time, _layers(file, operator_of.get(n))) for n, time in enumerate(times))


def _kind_of_name(name: str) -> str | None:
    return next((kind for kind, pattern in _PATTERNS.items() if pattern.match(name)), None)


def _require_same_products(names: Sequence[str], rest: Sequence[int], file: TracedFile) -> None:
    product_names = [name for name in names if _kind_of_name(name) == _PRODUCT]
    codes = [file.operators[number].code for number in rest]
    product_codes = [code for code in codes if _KIND_OF_CODE.get(code) == _PRODUCT]
    if len(product_names) != len(product_codes):
        raise UntiedOperatorsError(
            f"LiteRT ran {len(product_names)} convolutions and matrix products, but the file has "
            f"{len(product_codes)}, so they cannot be matched."
        )
    for name, code in zip(product_names, product_codes, strict=True):
        # A depthwise convolution never runs as a fully connected operator, nor the reverse.
        if ("DWConv" in name and code == "FULLY_CONNECTED") or (
            "Fully Connected" in name and code == "DEPTHWISE_CONV_2D"
        ):
            raise UntiedOperatorsError(
                f"LiteRT ran {name!r} in the place of the file's {code}, so the operators cannot "
                "be matched."
            )


def _gaps(
    numbers: Sequence[int], kinds: Sequence[str | None]
) -> list[tuple[int | None, list[tuple[int, str | None]]]]:
    """Divides a sequence of operators at its convolutions and matrix products.

    Args:
        numbers: The operators' numbers.
        kinds: The operators' kinds; None for a kind that is not listed above.

    Returns:
        (product, operators that follow it up to the next product) for each product. The first
        entry has None for the product and holds the operators before the first product.
    """
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
    """Ties the operators of one gap whose kind occurs equally often in both sequences.

    Args:
        light: (number, kind) of the profiled operators between two products.
        file_light: (number, kind) of the file's operators between the same products.

    Returns:
        Numbers of profiled operators to numbers of the file's operators.
    """
    pairs: dict[int, int] = {}
    for kind in {kind for _, kind in light if kind is not None}:
        profiled_numbers = [number for number, other in light if other == kind]
        file_numbers = [number for number, other in file_light if other == kind]
        if len(profiled_numbers) == len(file_numbers):
            pairs |= dict(zip(profiled_numbers, file_numbers, strict=True))
    return pairs


def _layers(file: TracedFile, operator: int | None) -> tuple[str, ...]:
    if operator is None:
        return ()
    return tuple(dict.fromkeys(call.name for call in file.calls[operator]))
