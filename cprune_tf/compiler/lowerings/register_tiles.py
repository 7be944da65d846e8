"""Which output tiles a core's vector registers can hold while its multipliers stay busy."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence

import tvm

_MAX_VECTORS = 8
# Fused multiply-adds and loads a cycle, and the cycles until a sum can be added to again: alike
# in all cores of interest, and only tiles are compared with each other.
_OPERATIONS_PER_CYCLE = 2
_LATENCY_CYCLES = 4
_WORTHWHILE = 0.6


@dataclasses.dataclass(frozen=True)
class VectorUnit:
    """A core's vector registers for float32.

    Attributes:
        lanes: Values in a register.
        registers: How many there are.
    """

    lanes: int
    registers: int

    def efficiency(self, rows: int, vectors: int) -> float:
        """The fraction of the peak that an outer-product kernel can reach.

        Args:
            rows: Output positions in the tile: one broadcast of the input for each.
            vectors: Vectors of output channels in the tile.

        Returns:
            0..1; 0 where the sums do not fit the registers.
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
        rows: Positions along each spatial axis, as many as the workload has.
        channels: Output channels.
        efficiency: See VectorUnit.
    """

    rows: tuple[int, ...]
    channels: int
    efficiency: float

    @property
    def num_rows(self) -> int:
        """Output positions."""
        return math.prod(self.rows)


def vector_unit(target: tvm.target.Target) -> VectorUnit:
    """The vector registers of a target.

    Args:
        target: Of kind llvm.
    """
    has = tvm.get_global_func("target.target_has_feature")
    for feature, unit in _UNITS.items():
        if has(feature, target):
            return unit
    return VectorUnit(4, 16)


def divisors(number: int) -> list[int]:
    """All divisors, ascending."""
    return [d for d in range(1, number + 1) if number % d == 0]


def register_tiles(
    spatial: Sequence[int], channels: int, unit: VectorUnit
) -> tuple[RegisterTile, ...]:
    """Tiles of a convolution's or product's output, the most promising first.

    Args:
        spatial: Extents of the output's axes before its channels.
        channels: Extent of its last axis.
        unit: The vector registers.

    Returns:
        Tiles that divide the extents; empty where nothing promises to be fast.
    """
    tiles = []
    for width in _channel_tiles(channels, unit):
        vectors = math.ceil(width / unit.lanes)
        waste = width / (vectors * unit.lanes)
        for rows in _row_tiles(spatial, unit.registers):
            efficiency = unit.efficiency(math.prod(rows), vectors) * waste
            if efficiency > 0:
                tiles.append(RegisterTile(rows, width, efficiency))
    # Among equals: the larger tile loads less; then the one that is broad rather than high.
    tiles.sort(key=lambda t: (-t.efficiency, -t.num_rows * t.channels, t.rows))
    best = tiles[0].efficiency if tiles else 0.0
    return tuple(tile for tile in tiles if tile.efficiency >= _WORTHWHILE * best)


def _channel_tiles(channels: int, unit: VectorUnit) -> list[int]:
    """Whole vectors, powers of two of them (LLVM splits odd ones badly), or all channels."""
    whole = [unit.lanes << shift for shift in range(_MAX_VECTORS.bit_length())]
    fitting = [width for width in whole if channels % width == 0]
    if fitting:
        return fitting
    small = [d for d in divisors(channels) if d <= unit.lanes]
    return small[-1:]


def _row_tiles(spatial: Sequence[int], limit: int) -> Iterable[tuple[int, ...]]:
    """Positions along the last one or two spatial axes; the last is cut before it is crossed."""
    if not spatial:
        return [()]
    *outer, last = spatial
    ones = (1,) * (len(outer) - 1)
    found = []
    for columns in (d for d in divisors(last) if d <= limit):
        found.append((*((1,) * len(outer)), columns))
        if outer:
            heights = [d for d in divisors(outer[-1]) if d > 1 and d * columns <= limit]
            found += [(*ones, height, columns) for height in heights]
    return found
