"""A convolution with patterns as tensor expressions.

The kernels that were kept are data, not code: each has the number of its input channel and of its
pattern, and each pattern has the offsets of its entries. So one piece of code serves all weights,
and convolutions of equal sizes are one workload, whichever of their kernels stay.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import tvm
from tvm import te

from cprune_tf.compiler.lowerings.convolutions import INDEX
from cprune_tf.compiler.lowerings.pattern.geometry import Geometry
from cprune_tf.sparse.storage import FkwKernel

PLANES = "pattern_planes"
SUMS = "pattern_sums"
PITCH_ATTRIBUTE = "pattern_pitch"
OUTPUT = "pattern_output"


def padded(
    kernel: FkwKernel,
) -> tuple[
    npt.NDArray[np.float32], npt.NDArray[np.uint16], npt.NDArray[np.uint8], npt.NDArray[np.int32]
]:
    """Gives all blocks equally many kernels; those added have weights of 0.

    Args:
        kernel: The weights.

    Returns:
        weights, float32 [num_blocks, kernels, entries, block_size]; the input channel of each
        kernel, uint16 [num_blocks, kernels]; its pattern, uint8 [num_blocks, kernels]; the place
        of each filter among all places of all blocks, int32 [outputs].
    """
    blocks, count = kernel.num_blocks, int(kernel.sizes.max())
    weights = np.zeros((blocks, count, *kernel.weight.shape[1:]), np.float32)
    channels = np.zeros((blocks, count), np.uint16)
    patterns = np.zeros((blocks, count), np.uint8)
    own = np.arange(count) < kernel.sizes[:, np.newaxis]
    weights[own], channels[own], patterns[own] = kernel.weight, kernel.index, kernel.pattern
    places = np.argsort(kernel.reorder.ravel(), kind="stable")[: kernel.shape[3]]
    return weights, channels, patterns, places.astype(np.int32)


def convolve(
    data: te.Tensor,
    weights: te.Tensor,
    channels: te.Tensor,
    patterns: te.Tensor,
    offsets: te.Tensor,
    places: te.Tensor | None,
    geometry: Geometry,
) -> te.Tensor:
    """Computes the convolution.

    Args:
        data: The data, NHWC.
        weights: See `padded`.
        channels: See `padded`.
        patterns: See `padded`.
        offsets: The offset of each entry of each pattern, int32 [patterns, entries].
        places: See `padded`; None if every filter stands at its own place.
        geometry: The convolution's sizes.

    Returns:
        The output, NHWC.
    """
    batch, height, width, inputs = geometry.data
    blocks, kernels, entries, size = (int(extent) for extent in weights.shape)

    def place(n: tvm.tirx.Var, c: tvm.tirx.Var, i: tvm.tirx.Var) -> tvm.tirx.PrimExpr:
        row, column = geometry.source(i)
        inside = tvm.tirx.all(row >= 0, row < height, column >= 0, column < width)
        zero = tvm.tirx.const(0.0, "float32")
        return tvm.tirx.if_then_else(inside, data[n, row, column, c], zero)

    planes = te.compute(
        (batch, inputs, geometry.plane_size),
        place,
        name=PLANES,
        attrs={PITCH_ATTRIBUTE: geometry.pitch},
    )
    kernel = te.reduce_axis((0, kernels), name="kernel")
    entry = te.reduce_axis((0, entries), name="entry")
    sums = te.compute(
        (batch, blocks, size, geometry.num_positions),
        lambda n, b, f, q: te.sum(
            weights[b, kernel, entry, f]
            * planes[
                n,
                channels[b, kernel].astype(INDEX),
                q + offsets[patterns[b, kernel].astype(INDEX), entry].astype(INDEX),
            ],
            axis=[kernel, entry],
        ),
        name=SUMS,
    )

    def output(
        n: tvm.tirx.Var, y: tvm.tirx.Var, x: tvm.tirx.Var, o: tvm.tirx.Var
    ) -> tvm.tirx.PrimExpr:
        where = o if places is None else places[o].astype(INDEX)
        return sums[n, where // size, where % size, y * geometry.pitch + x]

    return te.compute(geometry.output, output, name=OUTPUT)
