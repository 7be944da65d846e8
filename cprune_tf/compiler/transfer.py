"""Program transfer: what was learned on one shape, applied to a pruned shape without any search.

A program is a trace of schedule instructions with decisions. Its tile-size decisions are refitted
to the new extents; everything else is kept. Two refits are tried for each program:

- *inner kept*: inner factors stay as far as they divide, the outermost takes the rest. This keeps
  the register and vector tiling, which is where the speed is.
- *largest reduced*: the paper's view (CPrune, section 3.3): all factors but the largest stay.

Programs that differ in inner tiling are worth more than the fastest few: which structure suits a
pruned shape is not known before it is measured.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import tvm
from tvm.s_tir import Schedule

from cprune_tf.compiler import tvm_internals
from cprune_tf.compiler.database import Program

Refit = Callable[[Sequence[int], int], tuple[int, ...]]
_TILE = "SamplePerfectTile"


@dataclasses.dataclass(frozen=True)
class TransferredProgram:
    """A schedule for a new shape, ready to build.

    Attributes:
        schedule: After postprocessing.
        signature: Its tile decisions; equal signatures are the same program.
    """

    schedule: Schedule
    signature: tuple[tuple[int, ...], ...]


def keep_inner(factors: Sequence[int], extent: int) -> tuple[int, ...]:
    """Refits tile factors: inner ones kept as far as they divide, the outermost takes the rest.

    Args:
        factors: Outermost first.
        extent: The new loop extent.

    Returns:
        Factors whose product is extent.
    """
    rest = extent
    fitted = []
    for factor in reversed(factors[1:]):
        kept = math.gcd(factor, rest)
        fitted.append(kept)
        rest //= kept
    return (rest, *reversed(fitted))


def reduce_largest(factors: Sequence[int], extent: int) -> tuple[int, ...]:
    """Refits tile factors: all but one copy of the largest kept, where the extent allows it.

    Args:
        factors: Outermost first.
        extent: The new loop extent.

    Returns:
        Factors whose product is extent.
    """
    largest = max(range(len(factors)), key=lambda index: factors[index])
    others = math.prod(factors) // factors[largest]
    if extent % others:
        return keep_inner(factors, extent)
    return tuple(
        extent // others if index == largest else factor for index, factor in enumerate(factors)
    )


def distinct_programs(programs: Sequence[Program], limit: int) -> tuple[Program, ...]:
    """The fastest programs that differ in inner tiling.

    Args:
        programs: Fastest first.
        limit: How many to keep.

    Returns:
        At most `limit` programs, fastest first.
    """
    chosen: dict[tuple[tuple[int, ...], ...], Program] = {}
    for program in programs:
        inner = tuple(factors[1:] for factors in tile_decisions(program.trace))
        chosen.setdefault(inner, program)
        if len(chosen) == limit:
            break
    return tuple(chosen.values())


def tile_decisions(trace: tvm.s_tir.schedule.Trace) -> tuple[tuple[int, ...], ...]:
    """The decided tile factors of a trace, in instruction order, outermost first."""
    return tuple(
        tuple(int(factor) for factor in trace.decisions[instruction])
        for instruction in trace.insts
        if instruction.kind.name == _TILE
    )


class Transfer:
    """Applies programs to new shapes.

    Args:
        target: What is compiled for.
    """

    def __init__(self, target: tvm.target.Target) -> None:
        self._target = target

    def apply(
        self, programs: Sequence[Program], mod: tvm.IRModule, limit: int
    ) -> tuple[TransferredProgram, ...]:
        """Transfers programs to a workload of another shape.

        Args:
            programs: Of a workload with the same operators, fastest first.
            mod: The new workload.
            limit: At most this many distinct results.

        Returns:
            Distinct schedules; empty where no trace fits the new workload.
        """
        context = tvm_internals.LightTuneContext(mod, self._target, None, num_threads=1, seed=1)
        results: dict[tuple[tuple[int, ...], ...], TransferredProgram] = {}
        for program in programs:
            for refit in (keep_inner, reduce_largest):
                if len(results) == limit:
                    return tuple(results.values())
                moved = self._apply_one(program, mod, refit, context)
                if moved is not None:
                    results.setdefault(moved.signature, moved)
        return tuple(results.values())

    def _apply_one(
        self, program: Program, mod: tvm.IRModule, refit: Refit, context: Any
    ) -> TransferredProgram | None:
        schedule = Schedule(mod, debug_mask=0)
        decided: list[tuple[int, ...]] = []

        def decide(instruction: Any, inputs: Any, _: Any, decision: Any) -> Any:
            if instruction.kind.name != _TILE:
                return decision
            factors = refit(
                [int(factor) for factor in decision], int(schedule.get(inputs[0]).extent)
            )
            decided.append(factors)
            return list(factors)

        trace = program.trace.simplified(remove_postproc=True)
        try:
            trace.apply_to_schedule(schedule, remove_postproc=True, decision_provider=decide)
            schedule.enter_postproc()
            if not all(post.apply(schedule) for post in context.space_generator.postprocs):
                return None
        except tvm.error.TVMError:
            # A trace of another operator structure: not an error, it just does not transfer.
            return None
        return TransferredProgram(schedule, tuple(decided))
