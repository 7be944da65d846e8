"""Winograd's minimal filtering of 3x3 convolutions, as tensor expressions.

F(m x m, 3 x 3) computes an m x m tile of outputs from an (m+2) x (m+2) tile of inputs, with (m+2)^2
instead of 9 m^2 multiplications per pair of channels (Lavin and Gray, 2016, "Fast Algorithms for
Convolutional Neural Networks"; the matrices are those of its section 4). A separate function
transforms the kernel. It reads weights only, so it runs when a library is built.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax, te, topi
from tvm.s_tir import Schedule

from cprune_tf.compiler.lowerings.convolutions import is_plain

GEMM = "winograd_gemm"
PACK_ROWS = "winograd_pack_rows"
PACK = "winograd_pack"
UNPACK_ROWS = "winograd_unpack_rows"
PAD = "winograd_pad"
_TILE_ATTRIBUTE = "winograd_tile"
# With fewer channels the transforms cost more than the multiplications that they save.
_MIN_CHANNELS = 8
# The largest fraction of the direct convolution's multiplications that Winograd may need. With
# more, the transforms would cost what the algorithm saves.
_MAX_COST = 0.6

Matrix = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Transforms:
    """The matrices of F(m x m, 3 x 3), as in Lavin and Gray.

    Attributes:
        data: B, [m + 2, m + 2]: a tile d becomes B^T d B.
        kernel: G, [m + 2, 3]: a kernel g becomes G g G^T.
        output: A, [m + 2, m]: a tile of products M becomes A^T M A.
    """

    data: Matrix
    kernel: Matrix
    output: Matrix


TRANSFORMS: Mapping[int, Transforms] = {
    2: Transforms(
        np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]], float).T,
        np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], float),
        np.array([[1, 1, 1, 0], [0, 1, -1, -1]], float).T,
    ),
    4: Transforms(
        np.array(
            [
                [4, 0, -5, 0, 1, 0],
                [0, -4, -4, 1, 1, 0],
                [0, 4, -4, -1, 1, 0],
                [0, -2, -1, 2, 1, 0],
                [0, 2, -1, -2, 1, 0],
                [0, 4, 0, -5, 0, 1],
            ],
            float,
        ).T,
        np.array(
            [
                [1 / 4, 0, 0],
                [-1 / 6, -1 / 6, -1 / 6],
                [-1 / 6, 1 / 6, -1 / 6],
                [1 / 24, 1 / 12, 1 / 6],
                [1 / 24, -1 / 12, 1 / 6],
                [0, 0, 1],
            ],
            float,
        ),
        np.array(
            [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]],
            float,
        ).T,
    ),
}


def output_tile(call: relax.Call) -> int | None:
    """Chooses the m with which a `relax.nn.conv2d` can be computed as F(m x m, 3 x 3).

    Args:
        call: The call of the convolution.

    Returns:
        4 or 2, whichever needs fewer multiplications for the output's size; None if Winograd's
        algorithm does not apply or saves too little.
    """
    attrs, (_, kernel) = call.attrs, call.args
    if not is_plain(call):
        return None
    if {int(size) for size in (*attrs.strides, *attrs.dilation)} != {1}:
        return None
    rows, columns, inputs, filters = (int(size) for size in kernel.ty.shape)
    if (rows, columns) != (3, 3) or min(inputs, filters) < _MIN_CHANNELS:
        return None
    height, width = (int(size) for size in list(call.ty.shape)[1:3])
    costs = {m: -(-height // m) * -(-width // m) * (m + 2) ** 2 for m in TRANSFORMS}
    tile = min(costs, key=lambda m: costs[m])
    return tile if costs[tile] < _MAX_COST * rows * columns * height * width else None


def tile_of(mod: tvm.IRModule) -> int:
    """The m of a Winograd workload.

    Args:
        mod: A workload of this lowering, with one function "main".
    """
    schedule = Schedule(mod)
    products = schedule.get(schedule.get_sblock(GEMM))
    return int(products.annotations[_TILE_ATTRIBUTE])


def transform_kernel(kernel: te.Tensor, tile: int) -> te.Tensor:
    """Computes G g G^T for every pair of channels.

    Args:
        kernel: The kernel, HWIO: [3, 3, in, out].
        tile: The m of F(m x m, 3 x 3).

    Returns:
        The transformed kernel, [m + 2, m + 2, in, out].
    """
    matrix = TRANSFORMS[tile].kernel
    side = tile + 2
    _, _, inputs, filters = kernel.shape
    rows = te.compute(
        (side, 3, inputs, filters),
        lambda e, s, i, o: _row(matrix.T, e, [kernel[r, s, i, o] for r in range(3)]),
        name="winograd_kernel_rows",
    )
    return te.compute(
        (side, side, inputs, filters),
        lambda e, v, i, o: _row(matrix.T, v, [rows[e, s, i, o] for s in range(3)]),
        name="winograd_weight",
    )


def convolve(
    data: te.Tensor, weight: te.Tensor, tile: int, padding: Sequence[tuple[int, int]]
) -> te.Tensor:
    """Computes the convolution of data with a transformed kernel.

    Intermediate tensors keep a tile's values together ([..., e, v, channel]). Otherwise the
    (m + 2)^2 planes would often lie a power of two apart in memory and evict each other from the
    first-level cache.

    Args:
        data: The data, NHWC.
        weight: The kernel from `transform_kernel`.
        tile: The m of F(m x m, 3 x 3).
        padding: The padding (before, after) of height and width.

    Returns:
        The output, NHWC.
    """
    matrices, side = TRANSFORMS[tile], tile + 2
    batch, height, width, inputs = (int(size) for size in data.shape)
    filters = int(weight.shape[3])
    (top, bottom), (left, right) = padding
    height, width = height + top + bottom - 2, width + left + right - 2
    tiles = (batch, -(-height // tile), -(-width // tile))
    # The last tiles may reach beyond the output's edge. They read zeros there, and the values that
    # they compute there are dropped.
    bottom, right = bottom + tiles[1] * tile - height, right + tiles[2] * tile - width
    if top or bottom or left or right:
        data = topi.nn.pad(data, (0, top, left, 0), (0, bottom, right, 0), name=PAD)
    rows = te.compute(
        (*tiles, side, side, inputs),
        lambda n, y, x, e, s, c: _row(
            matrices.data, e, [data[n, y * tile + r, x * tile + s, c] for r in range(side)]
        ),
        name=PACK_ROWS,
    )
    packed = te.compute(
        (*tiles, side, side, inputs),
        lambda n, y, x, e, v, c: _row(
            matrices.data, v, [rows[n, y, x, e, s, c] for s in range(side)]
        ),
        name=PACK,
    )
    channel = te.reduce_axis((0, inputs), name="channel")
    products = te.compute(
        (*tiles, side, side, filters),
        lambda n, y, x, e, v, o: te.sum(
            packed[n, y, x, e, v, channel] * weight[e, v, channel, o], axis=[channel]
        ),
        name=GEMM,
        attrs={_TILE_ATTRIBUTE: tile},
    )
    unpacked = te.compute(
        (*tiles, tile, side, filters),
        lambda n, y, x, i, v, o: _row(
            matrices.output, i, [products[n, y, x, e, v, o] for e in range(side)]
        ),
        name=UNPACK_ROWS,
    )
    return te.compute(
        (batch, height, width, filters),
        lambda n, h, w, o: _row(
            matrices.output,
            w % tile,
            [unpacked[n, h // tile, w // tile, h % tile, v, o] for v in range(side)],
        ),
        name="winograd",
    )


def _row(matrix: Matrix, index: Any, values: Sequence[Any]) -> Any:
    """Computes sum_r matrix[r, index] * values[r].

    It is written as a choice among whole sums. Once the loop over `index` is unrolled, only the
    chosen sum remains, without the terms whose coefficient is zero. A product with zero would not
    be removed.

    Args:
        matrix: The coefficients.
        index: The index of a column of the matrix, an expression.
        values: One expression for each row of the matrix.
    """
    sums = [_combination(matrix[:, i], values) for i in range(matrix.shape[1])]
    selection = sums[-1]
    for i in reversed(range(len(sums) - 1)):
        selection = tvm.tirx.Select(index == i, sums[i], selection)
    return selection


def _combination(coefficients: Matrix, values: Sequence[Any]) -> Any:
    """Computes sum_r coefficients[r] * values[r] without multiplications by 0 and 1."""
    total: Any = None
    for coefficient, value in zip(coefficients, values, strict=True):
        if coefficient == 0:
            continue
        size = abs(coefficient)
        term = value if size == 1 else value * tvm.tirx.const(size, "float32")
        if total is None:
            total = term if coefficient > 0 else tvm.tirx.const(0.0, "float32") - term
        else:
            total = total + term if coefficient > 0 else total - term
    return total
