"""First programs of a task, from what is known of cores: sums that stay in vector registers.

MetaSchedule's rules span the right space, but a random tiling in it is ten times slower than a good
one. What makes the difference is the innermost tile: whole vectors of output channels, as many
positions as the registers hold, the whole reduction just outside. Those tilings are few. They are
measured first, with the remaining choices (loop order, where the padding and the epilogue go, how
far to unroll) drawn at random; the search goes on from the best.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from typing import Any

import tvm
from tvm.s_tir import Schedule
from tvm.s_tir import meta_schedule as ms
from tvm.s_tir.schedule import Trace

from cprune_tf.compiler import tvm_internals
from cprune_tf.compiler.lowerings.register_tiles import (
    RegisterTile,
    VectorUnit,
    register_tiles,
    vector_unit,
)
from cprune_tf.compiler.lowerings.winograd import convolution as winograd
from cprune_tf.compiler.lowerings.winograd import schedule as winograd_space
from cprune_tf.compiler.transfer import Decide, TransferredProgram, replay, tile_decisions
from cprune_tf.compiler.tuning.search_space import tune_context

# Of the promising register tiles, this many are tried; more would leave one variant each.
_MAX_TILES = 4
_ATTEMPTS_PER_PROGRAM = 6
# Innermost first: outermost factor, two levels of blocking, register tile ("SSRSRS").
_SPATIAL_LEVELS, _REDUCTION_LEVELS = 4, 2
_NUM_UNROLL_CHOICES = 4


def seed_schedules(
    mod: tvm.IRModule, target: tvm.target.Target, limit: int, seed: int
) -> list[Schedule]:
    """Schedules of a workload that are worth measuring before any search.

    Args:
        mod: The workload, normalised.
        target: What is compiled for.
        limit: At most this many.
        seed: Of the choices that are drawn.

    Returns:
        Distinct schedules after postprocessing, best guesses first; empty for workloads of a kind
        that nothing is known about, and for GPUs.
    """
    if tvm_internals.is_gpu(target):
        return []
    context = tune_context(mod, target)
    sketches = [schedule.trace for schedule in context.generate_design_space()]
    postprocs = list(context.space_generator.postprocs)
    found: dict[Any, TransferredProgram] = {}
    for index, decide in _guesses(mod, target, sketches, limit, seed):
        if len(found) == limit:
            break
        program = replay(sketches[index], mod, decide, postprocs)
        if program is not None:
            found.setdefault((index, program.signature), program)
    return [program.schedule for program in found.values()]


def _guesses(
    mod: tvm.IRModule, target: tvm.target.Target, sketches: Sequence[Trace], limit: int, seed: int
) -> Iterator[tuple[int, Decide]]:
    """Which sketch to replay with which decisions, best guesses first."""
    tile = winograd.tile_of(mod)
    if tile is not None:
        for fixed in _winograd_decisions(mod, tile, target):
            yield 0, _by_kind(fixed)
        return
    choices = _Choices(sketches, vector_unit(target), random.Random(seed))
    for number in range(limit * _ATTEMPTS_PER_PROGRAM if choices.tiles else 0):
        index, decisions, unroll, location = choices.draw(number)
        yield index, _by_kind(decisions, unroll, location)


class _Choices:
    """Draws the decisions of multi-level tiled sketches."""

    def __init__(self, sketches: Sequence[Trace], unit: VectorUnit, rng: random.Random) -> None:
        self._rng = rng
        # Sketches without a cached output come first; with it, the epilogue joins each tile.
        tiled = [i for i, sketch in enumerate(sketches) if _is_multi_level_tiled(sketch)]
        self._sketches = tiled[1:] or tiled
        self.tiles: tuple[RegisterTile, ...] = ()
        if not tiled:
            return
        extents = [math.prod(factors) for factors in tile_decisions(sketches[tiled[0]])]
        levels = [len(factors) for factors in tile_decisions(sketches[tiled[0]])]
        self._spatial = [e for e, n in zip(extents, levels, strict=True) if n == _SPATIAL_LEVELS]
        self._reduction = [
            e for e, n in zip(extents, levels, strict=True) if n == _REDUCTION_LEVELS
        ]
        *positions, channels = self._spatial
        self.tiles = register_tiles(positions, channels, unit)[:_MAX_TILES]

    def draw(self, number: int) -> tuple[int, list[tuple[int, ...]], int, int]:
        """Sketch, tile factors, choice of unrolling, location of the padding."""
        tile = self.tiles[number % len(self.tiles)]
        inner = (*tile.rows, tile.channels)
        channels_outside = self._rng.random() < 0.5
        decisions: list[tuple[int, ...]] = []
        for axis, (extent, kept) in enumerate(zip(self._spatial, inner, strict=True)):
            is_channels = axis == len(inner) - 1
            outer = (extent // kept, 1) if is_channels == channels_outside else (1, extent // kept)
            decisions.append((*outer, 1, kept))
        whole_window = self._rng.random() < 0.5
        for axis, extent in enumerate(self._reduction):
            keep = whole_window or axis == len(self._reduction) - 1
            decisions.append((1, extent) if keep else (extent, 1))
        return (
            self._rng.choice(self._sketches),
            decisions,
            self._rng.randrange(1, _NUM_UNROLL_CHOICES),
            self._rng.choice((-1, 2, len(self._spatial))),
        )


def _winograd_decisions(
    mod: tvm.IRModule, tile: int, target: tvm.target.Target
) -> list[winograd_space.Decisions]:
    arguments = [
        tuple(int(size) for size in info.shape)
        for info in ms.arg_info.ArgInfo.from_prim_func(mod["main"])
    ]
    names = tvm_internals.block_names(Schedule(mod))
    (kernel,) = [shape for shape in arguments if shape[:2] == (tile + 2, tile + 2)]
    inputs = kernel[2]
    return winograd_space.seed_decisions(
        arguments[-1],
        inputs,
        tile,
        winograd.PAD in names,
        vector_unit(target),
        tvm_internals.num_cores(target),
    )


def _by_kind(decisions: Sequence[tuple[int, ...]], unroll: int = 0, location: int = -1) -> Decide:
    """Answers a trace's samples: tiles in order, everything else with one choice."""
    tiles = iter(decisions)

    def decide(kind: str, _extent: int) -> Any:
        if kind == "SamplePerfectTile":
            return next(tiles)
        return unroll if kind == "SampleCategorical" else location

    return decide


def _is_multi_level_tiled(trace: Trace) -> bool:
    """Whether a sketch tiles one block as SSRSRS and samples nothing else that has factors."""
    levels = [len(factors) for factors in tile_decisions(trace)]
    spatial = levels.count(_SPATIAL_LEVELS)
    reduction = levels.count(_REDUCTION_LEVELS)
    tilings = [str(inst.attrs[0]) for inst in trace.insts if inst.kind.name == "Annotate"].count(
        "meta_schedule.tiling_structure"
    )
    return tilings == 1 and spatial >= 2 and reduction >= 1 and spatial + reduction == len(levels)
