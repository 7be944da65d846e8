"""Finds the output tiles that fit a core's vector registers and keep its multipliers busy."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence

import tvm

_MAX_VECTORS = 8
# Fused multiply-adds per cycle (and loads per cycle), and the cycles until a sum can be added to
# again. All cores of interest are alike in these, and tiles are only compared with each other.
_OPERATIONS_PER_CYCLE = 2
_LATENCY_CYCLES = 4
# Tiles below this fraction of the best tile's efficiency are left out.
_WORTHWHILE = 0.6


@dataclasses.dataclass(frozen=True)
class VectorUnit:
    """A core's vector registers for float32.

    Attributes:
        lanes: The number of float32 values in a register.
        registers: The number of vector registers.
    """

    lanes: int
    registers: int

    def efficiency(self, rows: int, vectors: int) -> float:
        """The fraction of the peak that an outer-product kernel can reach.

        Args:
            rows: The number of output positions in the tile; each needs one broadcast of the input.
            vectors: The number of vectors of output channels in the tile.

        Returns:
            A fraction, 0..1; 0 if the sums do not fit into the registers.
        """
        sums = rows * vectors
        if sums + 2 > self.registers:
            return 0.0
        cycles = max(
            sums / _OPERATIONS_PER_CYCLE, (rows + vectors) / _OPERATIONS_PER_CYCLE, _LATENCY_CYCLES
        )
        return sums / cycles / _OPERATIONS_PER_CYCLE


_UNITS = {
    "avx512f": VectorUnit(16, 32),
    "avx2": VectorUnit(8, 16),
    "neon": VectorUnit(4, 32),
}


@dataclasses.dataclass(frozen=True)
class RegisterTile:
    """An output tile that stays in registers.

    Attributes:
        rows: The number of positions along each of the workload's spatial axes.
        channels: The number of output channels.
        efficiency: The fraction of the peak that the tile can reach, 0..1.
    """

    rows: tuple[int, ...]
    channels: int
    efficiency: float

    @property
    def num_rows(self) -> int:
        """The number of output positions in the tile."""
        return math.prod(self.rows)


def vector_unit(target: tvm.target.Target) -> VectorUnit:
    """The vector registers of a target.

    Args:
        target: A target of kind llvm.
    """
    has_feature = tvm.get_global_func("target.target_has_feature")
    for feature, unit in _UNITS.items():
        if has_feature(feature, target):
            return unit
    return VectorUnit(4, 16)


def divisors(number: int) -> list[int]:
    """All divisors of a number, ascending."""
    return [d for d in range(1, number + 1) if number % d == 0]


def register_tiles(
    spatial: Sequence[int], channels: int, unit: VectorUnit
) -> tuple[RegisterTile, ...]:
    """Finds register tiles of a convolution's or matrix product's output.

    Args:
        spatial: The extents of the output's axes before the channels.
        channels: The extent of the output's last axis.
        unit: The vector registers.

    Returns:
        Tiles that divide the extents, the most promising first; empty if no tile fits.
    """
    tiles = []
    for width in _channel_tiles(channels, unit):
        vectors = math.ceil(width / unit.lanes)
        waste = width / (vectors * unit.lanes)
        for rows in _row_tiles(spatial, unit.registers):
            efficiency = unit.efficiency(math.prod(rows), vectors) * waste
            if efficiency > 0:
                tiles.append(RegisterTile(rows, width, efficiency))
    # Among equally efficient tiles the larger one loads less. Then broad is better than high.
    tiles.sort(key=lambda t: (-t.efficiency, -t.num_rows * t.channels, t.rows))
    best = tiles[0].efficiency if tiles else 0.0
    return tuple(tile for tile in tiles if tile.efficiency >= _WORTHWHILE * best)


def _channel_tiles(channels: int, unit: VectorUnit) -> list[int]:
    """The possible numbers of channels in a tile.

    These are whole vectors, in powers of two because LLVM splits other numbers badly. If no such
    number divides the channels, it is their largest divisor that fits into one vector.
    """
    widths = [unit.lanes << shift for shift in range(_MAX_VECTORS.bit_length())]
    dividing_widths = [width for width in widths if channels % width == 0]
    if dividing_widths:
        return dividing_widths
    small_widths = [divisor for divisor in divisors(channels) if divisor <= unit.lanes]
    return small_widths[-1:]


def _row_tiles(spatial: Sequence[int], limit: int) -> Iterable[tuple[int, ...]]:
    """The possible numbers of positions in a tile along each spatial axis, at most `limit` in all.

    Only the last two axes are tiled; all other axes get one position.
    """
    if not spatial:
        return [()]
    *outer, last = spatial
    ones = (1,) * (len(outer) - 1)
    tiles = []
    for columns in (divisor for divisor in divisors(last) if divisor <= limit):
        tiles.append((*((1,) * len(outer)), columns))
        if outer:
            heights = [
                divisor
                for divisor in divisors(outer[-1])
                if divisor > 1 and divisor * columns <= limit
            ]
            tiles += [(*ones, height, columns) for height in heights]
    return tiles
