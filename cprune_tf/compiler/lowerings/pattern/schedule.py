"""Schedules convolutions with patterns and suggests the programs that their search starts with.

A program has three steps: the data are laid out as planes, tiles of positions are summed up for one
block of filters after the other, and the sums are written in the order of the data, with the whole
epilogue. A tile's sums stay in registers. Each input vector is loaded once for all filters of a
block (load redundancy elimination, PatDNN section 5.4).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tvm.s_tir import Schedule

from cprune_tf.compiler import tvm_internals
from cprune_tf.compiler.lowerings.pattern.convolution import (
    OUTPUT,
    PITCH_ATTRIBUTE,
    PLANES,
    SUMS,
)
from cprune_tf.compiler.lowerings.register_tiles import VectorUnit, divisors

_MAX_VECTORS = 24
_MAX_CHANNELS = 16
# In bytes: the places that a tile reads of all planes should stay in a first-level cache.
_CACHE_BYTES = 32 * 1024

Decisions = tuple[tuple[int, ...], ...]


def schedule_pattern(sch: Schedule, unit: VectorUnit, num_threads: int) -> Schedule:
    """Schedules a workload of the pattern lowering; samples its tile sizes.

    Args:
        sch: A schedule of the workload, which is changed in place.
        unit: The target's vector registers.
        num_threads: The number of threads.

    Returns:
        The same schedule.
    """
    names = tvm_internals.block_names(sch)
    for name in names[names.index(OUTPUT) : -1]:
        sch.compute_inline(sch.get_sblock(name))
    sums = sch.get_sblock(SUMS)
    outer, kernel = _tile_sums(sch, sums, unit)
    planes = _lay_out_planes(sch)
    batch, row, *_ = sch.get_loops(sch.get_sblock(names[-1]))
    if num_threads > 1:
        for loops in (outer, planes, (batch, row)):
            sch.parallel(sch.fuse(*loops))
    # This comes last: once a reduction is separated from its initialisation, TVM cannot prove any
    # more that a loop around it may run in parallel.
    sch.decompose_reduction(sums, kernel)
    return sch


def seed_decisions(
    positions: int, block_size: int, inputs: int, unit: VectorUnit
) -> Iterator[Decisions]:
    """Suggests decisions of `schedule_pattern` that are worth measuring first.

    Args:
        positions: The number of positions that are computed.
        block_size: Filters in a block.
        inputs: The number of input channels.
        unit: The target's vector registers.

    Yields:
        Decisions in the order of the samples, best guesses first.
    """
    vectors = positions // unit.lanes
    fits = [
        tile
        for tile in divisors(vectors)
        if tile <= _MAX_VECTORS and _registers(tile, block_size) <= unit.registers
    ]
    channels = max(d for d in divisors(inputs) if d <= _MAX_CHANNELS)
    near = max(1, _CACHE_BYTES // (4 * inputs * unit.lanes))
    for tile in reversed(fits[-3:]):
        repeats = vectors // tile
        cached = max(d for d in divisors(repeats) if d == 1 or d * tile <= near)
        for inner in dict.fromkeys((cached, repeats, 1)):
            yield (
                (repeats // inner, inner, tile),
                (inputs // channels, channels),
            )


def _registers(tile: int, block_size: int) -> int:
    """The registers of a tile: its sums, one weight, and the inputs that several filters share."""
    shared = tile if block_size > 1 else 1
    return tile * block_size + shared + 1


def _tile_sums(sch: Schedule, sums: Any, unit: VectorUnit) -> tuple[tuple[Any, ...], Any]:
    """Sums up a tile of positions in registers, for all filters of a block at once.

    Returns:
        The loops around the tiles, and the loop over a block's kernels.
    """
    batch, block, filters, position, kernel, entry = sch.get_loops(sums)
    vectors, lanes = sch.split(position, [None, unit.lanes])
    factors = sch.sample_perfect_tile(vectors, n=3, max_innermost_factor=_MAX_VECTORS)
    outer, middle, inner = sch.split(vectors, list(factors))
    sch.reorder(batch, outer, block, middle, kernel, entry, filters, inner, lanes)
    result = sch.cache_write(sums, 0, "local")
    sch.reverse_compute_at(result, middle, preserve_unit_loops=True)
    *_, own_filters, own_positions = sch.get_loops(result)
    own_vectors, own_lanes = sch.split(own_positions, [None, unit.lanes])
    for loop in (entry, filters, inner, own_filters, own_vectors):
        sch.unroll(loop)
    for loop in (lanes, own_lanes):
        sch.vectorize(loop)
    return (batch, outer, block), kernel


def _lay_out_planes(sch: Schedule) -> tuple[Any, ...]:
    """Copies a few channels of one row after the other; returns the loops around them."""
    planes = sch.get_sblock(PLANES)
    pitch = int(sch.get(planes).annotations[PITCH_ATTRIBUTE])
    batch, channel, position = sch.get_loops(planes)
    row, column = sch.split(position, [None, pitch])
    factors = sch.sample_perfect_tile(channel, n=2, max_innermost_factor=_MAX_CHANNELS)
    outer, inner = sch.split(channel, list(factors))
    sch.reorder(batch, outer, row, inner, column)
    sch.unroll(inner)
    return batch, outer
