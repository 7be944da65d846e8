"""Convolutions whose weights keep few kernels and patterns as a lowering, on CPUs."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import tvm
from tvm import relax, te
from tvm.s_tir import Schedule
from tvm.s_tir.schedule import Trace

from cprune_tf.compiler import tvm_internals
from cprune_tf.compiler.lowerings.base import Lowering, OperatorCall, ScheduleFunction, Seed
from cprune_tf.compiler.lowerings.convolutions import INDEX, is_conv2d_on_cpu
from cprune_tf.compiler.lowerings.pattern import convolution
from cprune_tf.compiler.lowerings.pattern.geometry import Geometry, geometry_of
from cprune_tf.compiler.lowerings.pattern.schedule import schedule_pattern, seed_decisions
from cprune_tf.compiler.lowerings.register_tiles import vector_unit
from cprune_tf.compiler.lowerings.registry import register_lowering
from cprune_tf.sparse.storage import FkwKernel, to_fkw

# The largest fraction of the dense convolution's multiplications that may be left. With more, the
# dense convolution's regular loops are faster.
_MAX_WORK = 0.6


@register_lowering
class Pattern(Lowering):
    """Computes convolutions from the kernels and patterns that their weights keep."""

    name = "pattern"
    anchor = convolution.SUMS

    def matches(self, operator: OperatorCall, target: tvm.target.Target) -> bool:
        """See Lowering; matches on CPUs only: the schedules are for vector registers and caches."""
        if not is_conv2d_on_cpu(operator, target):
            return False
        return geometry_of(operator.call) is not None and _kept(operator) is not None

    def legalize(self, builder: relax.BlockBuilder, operator: OperatorCall) -> relax.Expr:
        """See Lowering; the weights that stay and their places become constants."""
        geometry, kernel = geometry_of(operator.call), _kept(operator)
        assert geometry is not None and kernel is not None  # `matches` accepted the call
        weights, channels, patterns, places = convolution.padded(kernel)
        offsets = geometry.offsets(kernel.entries)
        in_order = bool((places == range(len(places))).all())
        arrays = [weights, channels, patterns, offsets, *([] if in_order else [places])]
        function = _function(geometry, weights.shape, offsets.shape, in_order)
        reads = [operator.call.args[0], *map(relax.const, arrays)]
        return relax.call_tir(builder.add_func(function, self.name), reads, operator.call.ty)

    def schedule_function(self, target: tvm.target.Target) -> ScheduleFunction:
        """See Lowering."""
        return functools.partial(
            schedule_pattern,
            unit=vector_unit(target),
            num_threads=tvm_internals.num_cores(target),
        )

    def seeds(
        self,
        mod: tvm.IRModule,
        target: tvm.target.Target,
        sketches: Sequence[Trace],
        limit: int,
        seed: int,
    ) -> Iterator[Seed]:
        """See Lowering."""
        del sketches, limit, seed
        schedule = Schedule(mod)
        planes, sums = (_extents(schedule, name) for name in (convolution.PLANES, self.anchor))
        decisions = seed_decisions(sums[3], sums[2], planes[1], vector_unit(target))
        yield from map(Seed, decisions)

    def filter_axis(self, output_rank: int) -> int:
        """See Lowering; of the sums [batch, block, filter, position] it is the filter."""
        del output_rank
        return 2

    def index_limits(self, mod: tvm.IRModule) -> Mapping[int, int]:
        """See Lowering; the arguments are told apart by their types and ranks."""
        schedule = Schedule(mod)
        planes, sums = (_extents(schedule, name) for name in (convolution.PLANES, self.anchor))
        limits = {}
        arguments = tvm_internals.argument_shapes(mod)
        num_patterns = next(
            shape[0] for dtype, shape in arguments if (dtype, len(shape)) == ("int32", 2)
        )
        for position, (dtype, shape) in enumerate(arguments):
            limit = {
                ("uint16", 2): planes[1],
                ("uint8", 2): num_patterns,
                ("int32", 2): planes[2] - sums[3],
                ("int32", 1): sums[1] * sums[2],
            }.get((dtype, len(shape)))
            if limit is not None:
                limits[position] = limit
        return limits


def _kept(operator: OperatorCall) -> FkwKernel | None:
    """The weights in FKW form; None if they are unknown or little is left out."""
    kernel = operator.value(1)
    if kernel is None or np.count_nonzero(kernel) > _MAX_WORK * kernel.size:
        return None  # soon, since most models have no zeros
    compact = to_fkw(kernel.astype(np.float32))
    if compact is None:
        return None
    kernels = compact.num_blocks * compact.block_size * int(compact.sizes.max())
    work = kernels * compact.entries.shape[1]
    return compact if work <= _MAX_WORK * kernel.size else None


def _extents(schedule: Schedule, block: str) -> list[int]:
    """The extents of a block's axes: first those of what it writes, then those of its sums."""
    axes = schedule.get(schedule.get_sblock(block)).iter_vars
    return [int(axis.dom.extent) for axis in axes]


@functools.lru_cache(maxsize=256)
def _function(
    geometry: Geometry,
    weights_shape: tuple[int, ...],
    offsets_shape: tuple[int, ...],
    in_order: bool,
) -> tvm.tirx.PrimFunc:
    """Makes the function of one convolution; convolutions of equal sizes share it.

    Args:
        geometry: The convolution's sizes.
        weights_shape: [num_blocks, kernels, entries, block_size].
        offsets_shape: [patterns, entries].
        in_order: Whether every filter stands at its own place.
    """
    data = te.placeholder(geometry.data, name="data")
    weights = te.placeholder(weights_shape, name="weights")
    channels = te.placeholder(weights_shape[:2], "uint16", name="channels")
    patterns = te.placeholder(weights_shape[:2], "uint8", name="patterns")
    offsets = te.placeholder(offsets_shape, "int32", name="offsets")
    places = None if in_order else te.placeholder((geometry.output[3],), "int32", name="places")
    output = convolution.convolve(data, weights, channels, patterns, offsets, places, geometry)
    order = [] if places is None else [places]
    arguments = [data, weights, channels, patterns, offsets, *order, output]
    return te.create_prim_func(arguments, INDEX)
