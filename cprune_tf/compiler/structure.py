"""Program structure: how a program tiles the filter (output channel) and the reduction axes.

CPrune (ECCV 2022, section 3.3) reads from the fastest program of a task how many filters can be
removed without changing the program's structure. That step is the product of the filter axis's tile
factors without one copy of the largest factor. It is computed for the compute stage and for the
epilogue, and the larger of the two counts.

The paper takes one step from one program. `counts_keeping_structure` looks at several programs and
lists all filter counts at which at least one of them keeps its inner tiles: they only run more or
fewer times.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import tvm
from tvm.s_tir import Schedule
from tvm.s_tir import meta_schedule as ms
from tvm.tirx.analysis import undefined_vars

from cprune_tf.compiler.database import Program
from cprune_tf.compiler.lowerings import lowering_of

# The operations in the index expressions of loops that were split and fused.
_OPERATIONS = {
    tvm.tirx.Add: np.add,
    tvm.tirx.Sub: np.subtract,
    tvm.tirx.Mul: np.multiply,
    tvm.tirx.FloorDiv: np.floor_divide,
    tvm.tirx.FloorMod: np.mod,
    tvm.tirx.Min: np.minimum,
    tvm.tirx.Max: np.maximum,
}


@dataclasses.dataclass(frozen=True)
class ProgramStructure:
    """A program's tile factors, outermost first.

    Attributes:
        compute: The factors of the filter axis in the anchor's reduction block; empty if the
            workload has no reduction.
        epilogue: The factors of the filter axis in the block that writes the workload's output.
        filters: The number of filters: the extent of the filter axis.
        reduction: The factors of each reduction axis in the anchor's reduction block. A
            convolution's axes are kernel height, kernel width and input channels.
    """

    compute: tuple[int, ...]
    epilogue: tuple[int, ...]
    filters: int
    reduction: tuple[tuple[int, ...], ...] = ()

    @property
    def step(self) -> int:
        """The paper's structure step, in filters; at least 1."""
        return max(_product_without_largest(self.compute), _product_without_largest(self.epilogue))

    @property
    def inner(self) -> int:
        """The number that a filter count must be a multiple of to keep the inner tiles.

        The inner tiles are all factors inside the outermost loop; a factor of 1 is no loop.
        """
        return math.lcm(*(math.prod(inner_factors(f)) for f in (self.compute, self.epilogue)))

    def __str__(self) -> str:
        text = f"{_factors(self.compute)} | epilogue {_factors(self.epilogue)}"
        if self.reduction:
            text += f" | reduction {', '.join(map(_factors, self.reduction))}"
        return text


def inner_factors(factors: Sequence[int]) -> tuple[int, ...]:
    """The tile factors inside the outermost factor that is larger than 1."""
    outermost = next((i for i, factor in enumerate(factors) if factor > 1), len(factors))
    return tuple(factors[outermost + 1 :])


def counts_keeping_structure(structures: Sequence[ProgramStructure], limit: int) -> tuple[int, ...]:
    """All filter counts at which at least one program keeps its inner tiles.

    A program's inner tiles are its factors inside the outermost loop over filters, in the compute
    stage and in the epilogue. They determine its vector code and the values it holds in registers.
    The outermost factor only says how many times they run.

    Args:
        structures: The structures of good programs of one task.
        limit: The largest filter count to consider.

    Returns:
        The matching counts between 1 and limit, ascending.

    Raises:
        ValueError: If limit is below 1.
    """
    if limit < 1:
        raise ValueError(f"limit is {limit}; expected at least 1 filter.")
    inner_tiles = {structure.inner for structure in structures}
    return tuple(
        count for count in range(1, limit + 1) if any(count % tile == 0 for tile in inner_tiles)
    )


def program_structure(program: Program, mod: tvm.IRModule) -> ProgramStructure:
    """Reads the tile factors of the filter and reduction axes from a program.

    Args:
        program: A measured program.
        mod: The program's workload, channels last.

    Returns:
        The factors of the loops that these axes were split into. The filter axis is read in both
        stages, compute and epilogue.
    """
    schedule = Schedule(mod)
    program.trace.apply_to_schedule(schedule, remove_postproc=True)
    blocks = list(schedule.get_child_blocks(schedule.get_sblock("root")))
    shape = ms.arg_info.ArgInfo.from_prim_func(mod["main"])[-1].shape
    anchor = _anchor(schedule, blocks)
    output = blocks[-1]
    compute: tuple[int, ...] = ()
    reduction: tuple[tuple[int, ...], ...] = ()
    if anchor is not None:
        filter_axis = lowering_of(mod).filter_axis(len(shape))
        compute = _channel_factors(schedule, anchor, filter_axis)
        reduction = _reduction_factors(schedule, anchor)
    epilogue = _channel_factors(schedule, output, len(shape) - 1)
    return ProgramStructure(compute, epilogue, int(shape[-1]), reduction)


def _factors(factors: tuple[int, ...]) -> str:
    return "x".join(map(str, factors)) or "-"


def anchor_extents(mod: tvm.IRModule) -> tuple[str, tuple[int, ...]] | None:
    """Finds the anchor of a workload: the reduction block with the most iterations.

    Args:
        mod: The workload.

    Returns:
        The block's name and its loops' extents; None if the workload has no reduction.
    """
    schedule = Schedule(mod)
    anchor = _anchor(schedule, schedule.get_child_blocks(schedule.get_sblock("root")))
    if anchor is None:
        return None
    loops = [int(schedule.get(loop).extent) for loop in schedule.get_loops(anchor)]
    return str(schedule.get(anchor).name_hint), tuple(loops)


def _product_without_largest(factors: tuple[int, ...]) -> int:
    return math.prod(factors) // max(factors) if factors else 1


def _anchor(schedule: Schedule, blocks: Iterable[Any]) -> Any | None:
    """The reduction block with the most iterations; None if there is no reduction."""
    reductions = [block for block in blocks if _has_reduction(schedule, block)]
    return max(reductions, key=lambda block: _iterations(schedule, block), default=None)


def _has_reduction(schedule: Schedule, block: Any) -> bool:
    iter_vars = schedule.get(block).iter_vars
    return any(var.iter_type == tvm.tirx.IterVar.CommReduce for var in iter_vars)


def _iterations(schedule: Schedule, block: Any) -> int:
    return math.prod(int(schedule.get(loop).extent) for loop in schedule.get_loops(block))


def _channel_factors(schedule: Schedule, block: Any, axis: int) -> tuple[int, ...]:
    """The tile factors of the axis that indexes one axis of a block's output, outer to inner."""
    realize = _realize(schedule, block)
    iter_vars = realize.block.iter_vars
    output_region = realize.block.writes[0].region
    if axis >= len(output_region):  # the channels are reduced away, as in a softmax's maximum
        return ()
    channel_vars = undefined_vars(output_region[axis].min)
    values = [
        value
        for iter_var, value in zip(iter_vars, realize.iter_values, strict=True)
        if any(iter_var.var.same_as(variable) for variable in channel_vars)
    ]
    return _axis_factors(schedule, block, values)


def _reduction_factors(schedule: Schedule, block: Any) -> tuple[tuple[int, ...], ...]:
    """The tile factors of each axis that a block reduces over, outer to inner."""
    realize = _realize(schedule, block)
    return tuple(
        # A simplified program has no loop for an axis of extent one.
        _axis_factors(schedule, block, [value]) or (int(iter_var.dom.extent),)
        for iter_var, value in zip(realize.block.iter_vars, realize.iter_values, strict=True)
        if iter_var.iter_type == tvm.tirx.IterVar.CommReduce
    )


def _axis_factors(schedule: Schedule, block: Any, values: Sequence[Any]) -> tuple[int, ...]:
    """How many values an axis takes along each of its loops, outer to inner.

    This is the loop's extent unless the loop was fused from the loops of several axes, as a GPU's
    threads are.
    """
    loop_vars = [variable for value in values for variable in undefined_vars(value)]
    loops = (schedule.get(loop) for loop in schedule.get_loops(block))
    return tuple(
        _num_values(values, loop)
        for loop in loops
        if any(loop.loop_var.same_as(variable) for variable in loop_vars)
    )


def _num_values(values: Sequence[Any], loop: Any) -> int:
    """How many distinct values index expressions take along a loop, all other loops being at 0."""
    steps = np.arange(int(loop.extent))
    rows = [
        np.broadcast_to(_values_along(value, loop.loop_var, steps), steps.shape) for value in values
    ]
    return len(np.unique(np.stack(rows), axis=1).T)


def _values_along(value: Any, variable: Any, steps: np.ndarray) -> Any:
    """An index expression's value for each step of one variable, all other variables being 0."""
    if isinstance(value, tvm.tirx.IntImm):
        return int(value)
    if isinstance(value, tvm.tirx.Var):
        return steps if value.same_as(variable) else 0
    if isinstance(value, tvm.tirx.Cast):
        return _values_along(value.value, variable, steps)
    operation = _OPERATIONS[type(value)]
    return operation(
        _values_along(value.a, variable, steps), _values_along(value.b, variable, steps)
    )


def _realize(schedule: Schedule, block: Any) -> Any:
    """The SBlockRealize that binds a block's iterators to the loops around it."""
    statement = schedule.get(block)
    loops = schedule.get_loops(block)
    node = schedule.get(loops[-1]).body if loops else schedule.mod["main"].body.block.body
    nodes = list(node.seq) if isinstance(node, tvm.tirx.SeqStmt) else [node]
    for node in nodes:
        if isinstance(node, tvm.s_tir.SBlockRealize) and node.block.same_as(statement):
            return node
    raise ValueError(f"Block {statement.name_hint} is not directly below its innermost loop.")
