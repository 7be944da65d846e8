"""Winograd's algorithm as a lowering: 3x3 convolutions of stride 1 on CPUs."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import tvm
from tvm import relax, te
from tvm.s_tir import Schedule
from tvm.s_tir.schedule import Trace

from cprune_tf.compiler import tvm_internals
from cprune_tf.compiler.lowerings.base import Lowering, OperatorCall, ScheduleFunction, Seed
from cprune_tf.compiler.lowerings.convolutions import INDEX, is_conv2d_on_cpu, shape_of
from cprune_tf.compiler.lowerings.register_tiles import vector_unit
from cprune_tf.compiler.lowerings.registry import register_lowering
from cprune_tf.compiler.lowerings.winograd import convolution
from cprune_tf.compiler.lowerings.winograd.schedule import schedule_winograd, seed_decisions


@register_lowering
class Winograd(Lowering):
    """Computes convolutions as F(4x4, 3x3) or F(2x2, 3x3), whichever multiplies less."""

    name = "winograd"
    anchor = convolution.GEMM

    def matches(self, operator: OperatorCall, target: tvm.target.Target) -> bool:
        """See Lowering; matches on CPUs only: the schedules are for vector registers and caches."""
        if not is_conv2d_on_cpu(operator, target):
            return False
        return operator.value(1) is not None and convolution.output_tile(operator.call) is not None

    def legalize(self, builder: relax.BlockBuilder, operator: OperatorCall) -> relax.Expr:
        """See Lowering; the kernel is transformed when a library is built."""
        data, kernel = operator.call.args
        padding = tuple(int(size) for size in operator.call.attrs.padding)
        tile = convolution.output_tile(operator.call)
        assert tile is not None  # `matches` accepted the call
        transform, convolve, transformed = _functions(
            shape_of(data), shape_of(kernel), padding, tile
        )
        weight = builder.emit(
            relax.call_tir(builder.add_func(transform, "winograd_weight"), [kernel], transformed)
        )
        function = builder.add_func(convolve, "winograd")
        return relax.call_tir(function, [data, weight], operator.call.ty)

    def schedule_function(self, target: tvm.target.Target) -> ScheduleFunction:
        """See Lowering."""
        return functools.partial(schedule_winograd, num_threads=tvm_internals.num_cores(target))

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
        tile = convolution.tile_of(mod)
        shapes = [shape for _, shape in tvm_internals.argument_shapes(mod)]
        (kernel,) = [shape for shape in shapes if shape[:2] == (tile + 2, tile + 2)]
        decisions = seed_decisions(
            shapes[-1],
            kernel[2],
            tile,
            convolution.PAD in tvm_internals.block_names(Schedule(mod)),
            vector_unit(target),
            tvm_internals.num_cores(target),
        )
        yield from map(Seed, decisions)

    def filter_axis(self, output_rank: int) -> int:
        """See Lowering; the products have more axes than the output, but filters are last too."""
        del output_rank
        return -1


@functools.lru_cache(maxsize=256)
def _functions(
    data_shape: tuple[int, ...], kernel_shape: tuple[int, ...], padding: tuple[int, ...], tile: int
) -> tuple[tvm.tirx.PrimFunc, tvm.tirx.PrimFunc, relax.TensorType]:
    """Makes the functions of one convolution.

    The results are cached, since models repeat their convolutions and a search lowers many models.

    Args:
        data_shape: The shape of the data, NHWC.
        kernel_shape: The shape of the kernel, HWIO.
        padding: The padding: top, left, bottom, right.
        tile: The m of F(m x m, 3 x 3).

    Returns:
        The function that transforms the kernel, the function that convolves, and the type of a
        transformed kernel.
    """
    top, left, bottom, right = padding
    data, kernel = (
        te.placeholder(data_shape, name="data"),
        te.placeholder(kernel_shape, name="kernel"),
    )
    weight = convolution.transform_kernel(kernel, tile)
    transform = te.create_prim_func([kernel, weight], INDEX)
    transformed = te.placeholder(weight.shape, name="weight")
    output = convolution.convolve(data, transformed, tile, ((top, bottom), (left, right)))
    convolve = te.create_prim_func([data, transformed, output], INDEX)
    shape = [int(size) for size in weight.shape]
    return transform, convolve, relax.TensorType(shape, "float32")
