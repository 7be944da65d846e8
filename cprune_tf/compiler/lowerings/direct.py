"""The direct lowering: what TVM makes of an operator, and what is known of its programs.

MetaSchedule's rules span the right space, but a random tiling in it is ten times slower than a good
one. What makes the difference is the innermost tile: whole vectors of output channels, as many
positions as the registers hold, the whole reduction just outside. Those tilings are few. They are
the seeds, with the remaining choices (loop order, where the padding and the epilogue go, how far to
unroll) drawn at random.
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

# Of the promising register tiles, this many are tried; more would leave one variant each.
_MAX_TILES = 4
_ATTEMPTS_PER_PROGRAM = 6
# Innermost first: outermost factor, two levels of blocking, register tile ("SSRSRS").
_SPATIAL_LEVELS, _REDUCTION_LEVELS = 4, 2
_NUM_UNROLL_CHOICES = 4


@register_lowering
class Direct(Lowering):
    """Computes every operator as TVM does."""

    name = DIRECT
    anchor = ""  # whatever no other lowering recognises

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
        """See Lowering; register tiles with everything else drawn."""
        del mod
        choices = _Choices(sketches, vector_unit(target), random.Random(seed))
        for number in range(limit * _ATTEMPTS_PER_PROGRAM if choices.tiles else 0):
            yield choices.draw(number)


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

    def draw(self, number: int) -> Seed:
        """A register tile in turn, and all other decisions drawn."""
        tile = self.tiles[number % len(self.tiles)]
        inner = (*tile.rows, tile.channels)
        channels_outside = self._rng.random() < 0.5
        tiles: list[tuple[int, ...]] = []
        for axis, (extent, kept) in enumerate(zip(self._spatial, inner, strict=True)):
            is_channels = axis == len(inner) - 1
            outer = (extent // kept, 1) if is_channels == channels_outside else (1, extent // kept)
            tiles.append((*outer, 1, kept))
        whole_window = self._rng.random() < 0.5
        for axis, extent in enumerate(self._reduction):
            keep = whole_window or axis == len(self._reduction) - 1
            tiles.append((1, extent) if keep else (extent, 1))
        return Seed(
            sketch=self._rng.choice(self._sketches),
            tiles=tuple(tiles),
            unroll=self._rng.randrange(1, _NUM_UNROLL_CHOICES),
            location=self._rng.choice((-1, 2, len(self._spatial))),
        )


def _is_multi_level_tiled(trace: Trace) -> bool:
    """Whether a sketch tiles one block as SSRSRS and samples nothing else that has factors."""
    levels = [len(factors) for factors in tile_decisions(trace)]
    spatial = levels.count(_SPATIAL_LEVELS)
    reduction = levels.count(_REDUCTION_LEVELS)
    tilings = [str(inst.attrs[0]) for inst in trace.insts if inst.kind.name == "Annotate"].count(
        "meta_schedule.tiling_structure"
    )
    return tilings == 1 and spatial >= 2 and reduction >= 1 and spatial + reduction == len(levels)
