"""Program structure: how a program tiles the filter (output channel) and the reduction axes.

CPrune (ECCV 2022, section 3.3) reads from the fastest program of a task how many filters can go so
that the program's structure stays: the product of the filter axis's tile factors without one copy
of the largest, taken in the compute stage and in its epilogue; the larger of the two.

The paper names one step of one program. `counts_keeping_structure` names all filter counts at which
some of several programs runs on with its inner tiles as they are, only more or less often.
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

# What loop variables are combined with where loops were split and fused.
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
        compute: Of the filter axis in the anchor's reduction block; empty where the workload has no
            reduction.
        epilogue: Of the filter axis in the block that writes the workload's output.
        filters: The extent of the filter axis.
        reduction: Of each reduction axis in the anchor's reduction block (a convolution's: kernel
            height and width, input channels).
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
        """What a filter count must be a multiple of to keep the inner tiles.

        Those are all factors inside the outermost loop that repeats: a factor of 1 is no loop.
        """
        return math.lcm(*(math.prod(inner_factors(f)) for f in (self.compute, self.epilogue)))

    def __str__(self) -> str:
        text = f"{_factors(self.compute)} | epilogue {_factors(self.epilogue)}"
        if self.reduction:
            text += f" | reduction {', '.join(map(_factors, self.reduction))}"
        return text


def inner_factors(factors: Sequence[int]) -> tuple[int, ...]:
    """The tile factors inside the outermost one that is larger than 1."""
    outermost = next((i for i, factor in enumerate(factors) if factor > 1), len(factors))
    return tuple(factors[outermost + 1 :])


def counts_keeping_structure(structures: Sequence[ProgramStructure], limit: int) -> tuple[int, ...]:
    """All filter counts at which at least one program keeps its inner tiles.

    A program's inner tiles are its factors inside the outermost loop over filters, in the compute
    stage and in the epilogue: they are its vector code and what it holds in registers. The
    outermost factor is how often they run.

    Args:
        structures: Of good programs of one task.
        limit: The largest count to look at.

    Returns:
        The counts from 1 to limit, ascending.

    Raises:
        ValueError: For a limit below 1.
    """
    if limit < 1:
        raise ValueError(f"limit is {limit}; expected at least 1 filter.")
    inner = {structure.inner for structure in structures}
    return tuple(n for n in range(1, limit + 1) if any(n % tile == 0 for tile in inner))


def program_structure(program: Program, mod: tvm.IRModule) -> ProgramStructure:
    """Reads the tile factors of the filter and reduction axes from a program.

    Args:
        program: A measured program.
        mod: Its workload; channels last.

    Returns:
        The factors of the loops that these axes were split into, the filters' in both stages.
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
    """What a workload computes most: the name of the block that reduces most, and its loops.

    Args:
        mod: The workload.

    Returns:
        The block's name and its loops' extents; None where nothing is reduced.
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
    """The block that reduces most; None where nothing is reduced."""
    reductions = [block for block in blocks if _has_reduction(schedule, block)]
    return max(reductions, key=lambda block: _iterations(schedule, block), default=None)


def _has_reduction(schedule: Schedule, block: Any) -> bool:
    iter_vars = schedule.get(block).iter_vars
    return any(var.iter_type == tvm.tirx.IterVar.CommReduce for var in iter_vars)


def _iterations(schedule: Schedule, block: Any) -> int:
    return math.prod(int(schedule.get(loop).extent) for loop in schedule.get_loops(block))


def _channel_factors(schedule: Schedule, block: Any, axis: int) -> tuple[int, ...]:
    """The tile factors of the axis that one output index is made of, outer to inner."""
    realize = _realize(schedule, block)
    iter_vars = realize.block.iter_vars
    written = realize.block.writes[0].region
    if axis >= len(written):  # the channels are reduced away, as in a softmax's maximum
        return ()
    channel = undefined_vars(written[axis].min)
    values = [
        value
        for iter_var, value in zip(iter_vars, realize.iter_values, strict=True)
        if any(iter_var.var.same_as(used) for used in channel)
    ]
    return _axis_factors(schedule, block, values)


def _reduction_factors(schedule: Schedule, block: Any) -> tuple[tuple[int, ...], ...]:
    """The same for each axis that a block sums over."""
    realize = _realize(schedule, block)
    return tuple(
        # An axis of extent one has no loop where the program was simplified.
        _axis_factors(schedule, block, [value]) or (int(iter_var.dom.extent),)
        for iter_var, value in zip(realize.block.iter_vars, realize.iter_values, strict=True)
        if iter_var.iter_type == tvm.tirx.IterVar.CommReduce
    )


def _axis_factors(schedule: Schedule, block: Any, values: Sequence[Any]) -> tuple[int, ...]:
    """How many values an axis takes along each of the loops that it is made of, outer to inner.

    That is a loop's extent, unless it was fused from several axes' loops: a GPU's threads are.
    """
    used = [variable for value in values for variable in undefined_vars(value)]
    loops = (schedule.get(loop) for loop in schedule.get_loops(block))
    return tuple(
        _num_values(values, loop)
        for loop in loops
        if any(loop.loop_var.same_as(var) for var in used)
    )


def _num_values(values: Sequence[Any], loop: Any) -> int:
    """How many distinct values some expressions take along a loop, all others standing at 0."""
    steps = np.arange(int(loop.extent))
    taken = [np.broadcast_to(_along(value, loop.loop_var, steps), steps.shape) for value in values]
    return len(np.unique(np.stack(taken), axis=1).T)


def _along(value: Any, variable: Any, steps: np.ndarray) -> Any:
    """An index expression's values for some values of one variable, all others being 0."""
    if isinstance(value, tvm.tirx.IntImm):
        return int(value)
    if isinstance(value, tvm.tirx.Var):
        return steps if value.same_as(variable) else 0
    if isinstance(value, tvm.tirx.Cast):
        return _along(value.value, variable, steps)
    operation = _OPERATIONS[type(value)]
    return operation(_along(value.a, variable, steps), _along(value.b, variable, steps))


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
