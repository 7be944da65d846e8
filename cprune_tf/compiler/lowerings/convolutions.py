"""What the lowerings of convolutions ask of a call."""

from __future__ import annotations

from typing import Any

import tvm
from tvm import relax

from cprune_tf.compiler import tvm_internals
from cprune_tf.compiler.lowerings.base import OperatorCall

# The type of shapes and indices in Relax.
INDEX = "int64"


def is_conv2d_on_cpu(operator: OperatorCall, target: tvm.target.Target) -> bool:
    """Whether a call is a 2-D convolution that a CPU computes.

    Args:
        operator: The call of an operator.
        target: The target that is compiled for.
    """
    return not tvm_internals.is_gpu(target) and operator.operator == "relax.nn.conv2d"


def is_plain(call: relax.Call) -> bool:
    """Whether a `relax.nn.conv2d` is float32, NHWC with an HWIO kernel, and not grouped.

    Args:
        call: The call of the convolution.
    """
    attrs, (data, kernel) = call.attrs, call.args
    return (
        (attrs.data_layout, attrs.kernel_layout, attrs.groups) == ("NHWC", "HWIO", 1)
        and kernel.ty.dtype == "float32"
        and data.ty.dtype == "float32"
    )


def shape_of(value: Any) -> tuple[int, ...]:
    """The shape of a tensor in Relax.

    Args:
        value: An expression whose shape is known.
    """
    return tuple(int(size) for size in value.ty.shape)
