"""Where the inputs of a convolution lie once they are laid out as planes.

Each input channel becomes one plane: its rows with their padding, one after the other. An output
position q = y * pitch + x then reads, for the entry (ky, kx) of a kernel, the place q + offset, and
the offset is the same at all positions. So whole vectors of positions are computed at once, beyond
the end of a row as well; what is computed there is dropped. With a stride, a plane has one part (a
phase) for each remainder of row and column, so that neighbouring outputs read neighbouring places.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import relax

from cprune_tf.compiler.lowerings.convolutions import is_plain, shape_of

# Positions are computed in multiples of the widest vectors.
_WIDEST_LANES = 16
# A tile of registers has as many vectors of positions as the accumulators allow. If the number of
# vectors has no divisor in this range, positions are added.
_ACCUMULATORS = 24


@dataclasses.dataclass(frozen=True)
class Geometry:
    """The sizes of a convolution that decide where its inputs lie.

    Attributes:
        data: The shape of the data, NHWC.
        kernel: The shape of the weights, HWIO.
        output: The shape of the output, NHWC.
        strides: The strides of rows and columns.
        dilation: The dilation of rows and columns.
        before: The padding before the first row and column.
        after: The padding behind the last row and column.
    """

    data: tuple[int, ...]
    kernel: tuple[int, ...]
    output: tuple[int, ...]
    strides: tuple[int, int]
    dilation: tuple[int, int]
    before: tuple[int, int]
    after: tuple[int, int]

    @property
    def pitch(self) -> int:
        """The places from one row of a plane to the next."""
        width = self.output[2] + self._reach(1)
        if self.strides[1] > 1:
            return width
        # The padding behind a row serves as the padding before the next one.
        return max(width - min(self.before[1], self.after[1]), 1)

    @property
    def phase_rows(self) -> int:
        """The rows of one phase, with those that only positions beyond the end read."""
        last = self.num_positions - 1 + self._reach(0) * self.pitch + self._reach(1)
        return last // self.pitch + 1

    @property
    def phase_size(self) -> int:
        """The places of one phase."""
        return self.phase_rows * self.pitch

    @property
    def plane_size(self) -> int:
        """The places of a plane."""
        return math.prod(self.strides) * self.phase_size

    @property
    def num_positions(self) -> int:
        """The positions that are computed: whole vectors, and whole tiles of them."""
        return self._padded_vectors * _WIDEST_LANES

    @property
    def _padded_vectors(self) -> int:
        needed = math.ceil(self.output[1] * self.pitch / _WIDEST_LANES)
        if needed <= _ACCUMULATORS // 4:
            return needed
        return min(math.ceil(needed / tile) * tile for tile in range(4, _ACCUMULATORS // 4 + 1))

    def offsets(self, entries: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
        """The offsets of entries of a kernel.

        Args:
            entries: Positions in a flat kernel, of any shape.

        Returns:
            The offsets, in the same shape.
        """
        row, column = np.divmod(entries.astype(np.int64), self.kernel[1])
        row, column = row * self.dilation[0], column * self.dilation[1]
        phase = row % self.strides[0] * self.strides[1] + column % self.strides[1]
        inside = row // self.strides[0] * self.pitch + column // self.strides[1]
        return (phase * self.phase_size + inside).astype(np.int32)

    def source(self, place: Any) -> tuple[Any, Any]:
        """The row and column of the data at a place of a plane; outside the data in the padding.

        Args:
            place: The place, a number or an expression.
        """
        phase_row, column = place // self.pitch, place % self.pitch
        phase, row = phase_row // self.phase_rows, phase_row % self.phase_rows
        down, across = self.strides
        return (
            row * down + phase // across - self.before[0],
            column * across + phase % across - self.before[1],
        )

    def _reach(self, axis: int) -> int:
        """How many rows or columns further the last entry of a kernel reads within a phase."""
        return (self.kernel[axis] - 1) * self.dilation[axis] // self.strides[axis]


def geometry_of(call: relax.Call) -> Geometry | None:
    """The geometry of a `relax.nn.conv2d`.

    Args:
        call: The call of the convolution.

    Returns:
        The geometry; None for grouped convolutions, other layouts and other types than float32.
    """
    attrs, (data, kernel) = call.attrs, call.args
    if not is_plain(call):
        return None
    top, left, bottom, right = (int(size) for size in attrs.padding)
    return Geometry(
        shape_of(data),
        shape_of(kernel),
        shape_of(call),
        _pair(attrs.strides),
        _pair(attrs.dilation),
        (top, left),
        (bottom, right),
    )


def _pair(sizes: Any) -> tuple[int, int]:
    first, second = (int(size) for size in sizes)
    return first, second
