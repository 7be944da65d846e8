"""Schedules Winograd convolutions and suggests the programs that their search starts with.

A schedule has one loop nest over blocks of output tiles. Inside it, these steps follow each other
while the block is in cache:

1. padding,
2. the transform of the data,
3. the products,
4. the transform of the output, with the whole epilogue.

Every choice is a `sample_perfect_tile` decision. So MetaSchedule can mutate it, and transfer can
refit it, as in any other program.
"""

from __future__ import annotations

import random
from typing import Any

from tvm.s_tir import Schedule

from cprune_tf.compiler import tvm_internals
from cprune_tf.compiler.lowerings.register_tiles import VectorUnit, divisors, register_tiles
from cprune_tf.compiler.lowerings.winograd import convolution as winograd

_MAX_INNER = 64
# In bytes: a block's packed data and products should leave room in a second-level cache.
_BLOCK_BYTES = 256 * 1024

Decisions = tuple[tuple[int, ...], ...]


def schedule_winograd(sch: Schedule, num_threads: int) -> Schedule:
    """Schedules a Winograd workload; samples its tile sizes.

    Args:
        sch: A schedule of the workload, which is changed in place.
        num_threads: The number of threads; with more than one, blocks of tiles run in parallel.

    Returns:
        The same schedule.
    """
    tile = winograd.tile_of(sch.mod)
    names = tvm_internals.block_names(sch)
    output = sch.get_sblock(names[-1])
    for name in names[names.index(winograd.UNPACK_ROWS) + 1 : -1]:
        sch.compute_inline(sch.get_sblock(name))
    outer, vector_loop = _tile_output(sch, output, tile)
    unpack = sch.get_sblock(winograd.UNPACK_ROWS)
    sch.compute_at(unpack, vector_loop, preserve_unit_loops=True)
    _in_registers(sch, unpack)
    for name in (winograd.GEMM, winograd.PACK):
        sch.compute_at(sch.get_sblock(name), outer[-1], preserve_unit_loops=True)
    _tile_transform(sch)
    if winograd.PAD in names:
        pad = sch.get_sblock(winograd.PAD)
        sch.compute_at(pad, outer[-1], preserve_unit_loops=True)
        sch.vectorize(_split(sch, sch.get_loops(pad)[-1])[1])
    gemm, channel = _tile_gemm(sch)
    if num_threads > 1:
        sch.parallel(sch.fuse(*outer))
    # This comes last: once a reduction is separated from its initialisation, TVM cannot prove any
    # more that a loop around it may run in parallel.
    sch.decompose_reduction(gemm, channel)
    return sch


def seed_decisions(
    shape: tuple[int, ...],
    inputs: int,
    tile: int,
    padded: bool,
    unit: VectorUnit,
    num_threads: int,
) -> list[Decisions]:
    """Suggests decisions of `schedule_winograd` that are worth measuring first.

    Args:
        shape: The shape of the output, NHWC.
        inputs: The number of input channels.
        tile: The m of F(m x m, 3 x 3).
        padded: Whether the workload has a padding block.
        unit: The target's vector registers.
        num_threads: The number of threads; there should be at least one row of blocks for each.

    Returns:
        Decisions in the order of the samples, best guesses first.
    """
    _, height, width, filters = shape
    down, across, lanes = -(-height // tile), -(-width // tile), unit.lanes
    guesses: list[tuple[float, Decisions]] = []
    for rows in divisors(down):
        bytes_of_block = 4 * rows * across * (tile + 2) ** 2 * (inputs + filters)
        if rows > 1 and bytes_of_block > _BLOCK_BYTES:
            break
        if rows > 1 and down // rows < num_threads:
            break
        for fit in register_tiles((rows, across), filters, unit):
            pack = _largest_divisor(inputs, lanes)
            decisions = [
                (down // rows, rows),
                (1, across),
                _split_in_two(filters, _largest_divisor(filters, lanes)),
                _split_in_two(inputs, pack),
                *([_split_in_two(inputs, pack)] if padded else []),
                (rows // fit.rows[0], fit.rows[0]),
                (across // fit.rows[1], fit.rows[1]),
                _split_in_two(filters, fit.channels),
            ]
            guesses.append((fit.efficiency, tuple(decisions)))
    # Equally good guesses are put in random order, so that the first few differ in every decision.
    random.Random(0).shuffle(guesses)
    guesses.sort(key=lambda pair: -round(pair[0], 1))
    return [decisions for _, decisions in guesses]


def _tile_output(sch: Schedule, output: Any, tile: int) -> tuple[list[Any], Any]:
    """Splits the output into blocks of tiles.

    Returns:
        The loops over blocks, and the loop in whose body one vector of one tile is computed.
    """
    batch, height, width, filters = sch.get_loops(output)
    tiles_down, down = sch.split(height, [None, tile])
    tiles_across, across = sch.split(width, [None, tile])
    blocks_down, inner_down = _split(sch, tiles_down)
    blocks_across, inner_across = _split(sch, tiles_across)
    vectors, lanes = _split(sch, filters)
    outer = [batch, blocks_down, blocks_across]
    sch.reorder(*outer, inner_down, inner_across, vectors, down, across, lanes)
    sch.vectorize(lanes)
    sch.unroll(down)
    sch.unroll(across)
    return outer, vectors


def _tile_transform(sch: Schedule) -> None:
    """Transforms one vector of channels of one tile at a time, with its rows in registers."""
    pack = sch.get_sblock(winograd.PACK)
    *_, down, across, channels = sch.get_loops(pack)
    vectors, lanes = _split(sch, channels)
    sch.reorder(vectors, down, across, lanes)
    sch.vectorize(lanes)
    sch.unroll(down)
    sch.unroll(across)
    rows = sch.get_sblock(winograd.PACK_ROWS)
    sch.compute_at(rows, vectors, preserve_unit_loops=True)
    _in_registers(sch, rows)


def _tile_gemm(sch: Schedule) -> tuple[Any, Any]:
    """Computes the products of each (e, v) plane in register tiles; the kernel stays in cache.

    Returns:
        The block of the products, and its reduction loop.
    """
    gemm = sch.get_sblock(winograd.GEMM)
    batch, down, across, e, v, filters, channel = sch.get_loops(gemm)[-7:]
    down_outer, down_inner = _split(sch, down)
    across_outer, across_inner = _split(sch, across)
    filters_outer, filters_inner = _split(sch, filters)
    sch.reorder(
        *(e, v, batch, filters_outer, down_outer, across_outer, channel),
        *(down_inner, across_inner, filters_inner),
    )
    sums = sch.cache_write(gemm, 0, "local")
    sch.reverse_compute_at(sums, across_outer, preserve_unit_loops=True)
    *others, lanes = sch.get_loops(sums)[-6:]
    sch.vectorize(lanes)
    for loop in (down_inner, across_inner, *others):
        sch.unroll(loop)
    sch.vectorize(filters_inner)
    return gemm, channel


def _in_registers(sch: Schedule, block: Any) -> None:
    """Unrolls a small block and keeps its result in registers, not in memory."""
    sch.set_scope(block, 0, "local")
    *_, down, across, lanes = sch.get_loops(block)
    sch.vectorize(lanes)
    sch.unroll(down)
    sch.unroll(across)


def _split(sch: Schedule, loop: Any) -> list[Any]:
    factors = sch.sample_perfect_tile(loop, n=2, max_innermost_factor=_MAX_INNER)
    return list(sch.split(loop, factors))


def _split_in_two(extent: int, inner: int) -> tuple[int, int]:
    return extent // inner, inner


def _largest_divisor(extent: int, limit: int) -> int:
    return max(d for d in divisors(extent) if d <= limit)
