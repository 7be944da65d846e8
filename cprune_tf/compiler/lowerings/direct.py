"""The direct lowering: computes an operator as TVM does, and suggests good first programs.

MetaSchedule's rules span the right space, but a random tiling in it is ten times slower than a good
one. The innermost tile makes the difference. In a good tiling it has whole vectors of output
channels and as many positions as the registers hold, and the whole reduction is just outside it.
There are few such tilings. They are the seeds. The remaining choices (loop order, where the padding
and the epilogue are computed, how far to unroll) are drawn at random.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence

import tvm
from tvm import relax
from tvm.s_tir.schedule import Trace

from cprune_tf.compiler.lowerings.base import Lowering, OperatorCall, Seed
from cprune_tf.compiler.lowerings.register_tiles import (
    RegisterTile,
    VectorUnit,
    register_tiles,
    vector_unit,
)
from cprune_tf.compiler.lowerings.registry import DIRECT, register_lowering
from cprune_tf.compiler.tvm_internals import tile_decisions

# How many of the promising register tiles are tried; with more, each would get one variant only.
_MAX_TILES = 4
_ATTEMPTS_PER_PROGRAM = 6
# The levels of tiling of each axis in MetaSchedule's structure "SSRSRS". For a spatial axis these
# are the outermost factor, two levels of blocking, and the register tile.
_SPATIAL_LEVELS, _REDUCTION_LEVELS = 4, 2
_NUM_UNROLL_CHOICES = 4


@register_lowering
class Direct(Lowering):
    """Computes every operator as TVM does."""

    name = DIRECT
    anchor = ""  # the direct lowering of a workload is recognised by the absence of other anchors

    def matches(self, operator: OperatorCall, target: tvm.target.Target) -> bool:
        """See Lowering."""
        del operator, target
        return True

    def legalize(self, builder: relax.BlockBuilder, operator: OperatorCall) -> relax.Expr:
        """See Lowering."""
        return operator.call.op.get_attr("FLegalize")(builder, operator.call)

    def seeds(
        self,
        mod: tvm.IRModule,
        target: tvm.target.Target,
        sketches: Sequence[Trace],
        limit: int,
        seed: int,
    ) -> Iterator[Seed]:
        """See Lowering; combines register tiles with random choices of everything else."""
        del mod
        choices = _Choices(sketches, vector_unit(target), random.Random(seed))
        for number in range(limit * _ATTEMPTS_PER_PROGRAM if choices.tiles else 0):
            yield choices.draw(number)


class _Choices:
    """Draws decisions for multi-level tiled sketches.

    Args:
        sketches: A workload's design space.
        unit: The target's vector registers.
        rng: The source of random choices.
    """

    def __init__(self, sketches: Sequence[Trace], unit: VectorUnit, rng: random.Random) -> None:
        self._rng = rng
        tiled_sketches = [i for i, sketch in enumerate(sketches) if _is_multi_level_tiled(sketch)]
        # The first sketch has no cached output. It is left out if there are others: with a cached
        # output, the epilogue is computed tile by tile.
        self._sketches = tiled_sketches[1:] or tiled_sketches
        self.tiles: tuple[RegisterTile, ...] = ()
        if not tiled_sketches:
            return
        tilings = tile_decisions(sketches[tiled_sketches[0]])
        self._spatial = _extents(tilings, _SPATIAL_LEVELS)
        self._reduction = _extents(tilings, _REDUCTION_LEVELS)
        *positions, channels = self._spatial
        self.tiles = register_tiles(positions, channels, unit)[:_MAX_TILES]

    def draw(self, number: int) -> Seed:
        """Takes one register tile after the other and draws all other decisions.

        Args:
            number: How many seeds were drawn before this one.
        """
        tile = self.tiles[number % len(self.tiles)]
        inner = (*tile.rows, tile.channels)
        channels_outside = self._rng.random() < 0.5
        tiles: list[tuple[int, ...]] = []
        for axis, (extent, factor) in enumerate(zip(self._spatial, inner, strict=True)):
            is_channels = axis == len(inner) - 1
            repeats = extent // factor
            outer = (repeats, 1) if is_channels == channels_outside else (1, repeats)
            tiles.append((*outer, 1, factor))
        whole_window = self._rng.random() < 0.5
        for axis, extent in enumerate(self._reduction):
            is_inside = whole_window or axis == len(self._reduction) - 1
            tiles.append((1, extent) if is_inside else (extent, 1))
        return Seed(
            sketch=self._rng.choice(self._sketches),
            tiles=tuple(tiles),
            unroll=self._rng.randrange(1, _NUM_UNROLL_CHOICES),
            location=self._rng.choice((-1, 2, len(self._spatial))),
        )


def _extents(tilings: Sequence[tuple[int, ...]], num_levels: int) -> list[int]:
    """The extents of the axes that are tiled in some number of levels."""
    return [math.prod(factors) for factors in tilings if len(factors) == num_levels]


def _is_multi_level_tiled(trace: Trace) -> bool:
    """Whether a sketch tiles exactly one block, as SSRSRS, and samples no other tile sizes."""
    levels = [len(factors) for factors in tile_decisions(trace)]
    spatial = levels.count(_SPATIAL_LEVELS)
    reduction = levels.count(_REDUCTION_LEVELS)
    tilings = [str(inst.attrs[0]) for inst in trace.insts if inst.kind.name == "Annotate"].count(
        "meta_schedule.tiling_structure"
    )
    return tilings == 1 and spatial >= 2 and reduction >= 1 and spatial + reduction == len(levels)
