"""Program transfer: applies the programs of one shape to a pruned shape, without any search.

A program is a trace of schedule instructions with decisions. Transfer refits the tile-size
decisions to the new extents and keeps everything else. Each program is refitted in two ways:

- *inner kept*: each inner factor is kept if it divides the new extent (else its greatest common
  divisor with what remains), and the outermost factor takes the rest. This keeps the register and
  vector tiling, which decides the speed.
- *largest reduced*: the paper's view (CPrune, section 3.3): all factors but the largest stay.

Programs that differ in inner tiling are worth more than simply the fastest few, because only a
measurement shows which structure suits a pruned shape.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import tvm
from tvm.s_tir import Schedule
from tvm.s_tir.schedule import Trace

from cprune_tf.compiler.database import Program
from cprune_tf.compiler.tuning.search_space import tune_context
from cprune_tf.compiler.tvm_internals import SAMPLE_TILE, block_names, tile_decisions

Refit = Callable[[Sequence[int], int], tuple[int, ...]]
Decide = Callable[[str, int], Any]
_SAMPLED = (SAMPLE_TILE, "SampleCategorical", "SampleComputeLocation")


@dataclasses.dataclass(frozen=True)
class TransferredProgram:
    """A schedule for a new shape, ready to build.

    Attributes:
        schedule: The schedule after postprocessing.
        signature: The program's decisions in order; equal signatures mean the same program.
    """

    schedule: Schedule
    signature: tuple[tuple[int, ...], ...]


def keep_inner(factors: Sequence[int], extent: int) -> tuple[int, ...]:
    """Refits tile factors: keeps inner factors that divide, gives the outermost the rest.

    An inner factor that does not divide becomes its greatest common divisor with what remains.

    Args:
        factors: The tile factors, outermost first.
        extent: The new loop extent.

    Returns:
        Factors whose product is extent.
    """
    rest = extent
    fitted = []
    for factor in reversed(factors[1:]):
        divisor = math.gcd(factor, rest)
        fitted.append(divisor)
        rest //= divisor
    return (rest, *reversed(fitted))


def reduce_largest(factors: Sequence[int], extent: int) -> tuple[int, ...]:
    """Refits tile factors: keeps all but one copy of the largest, if the extent allows it.

    Otherwise refits as `keep_inner` does.

    Args:
        factors: The tile factors, outermost first.
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
    """Picks the fastest programs that differ in inner tiling.

    Args:
        programs: Programs of one workload, fastest first.
        limit: The largest number of programs to keep.

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


class Transfer:
    """Applies programs to new workloads.

    If the new workload has the same operators as the program's workload, the program's trace is
    replayed. If only the epilogue differs (by one more residual add, for example), the program's
    decisions are replayed on the new workload's schedule sketches, namely on those that ask for the
    same kinds of decisions.

    Args:
        target: The target that is compiled for.
    """

    def __init__(self, target: tvm.target.Target) -> None:
        self._target = target

    def apply(
        self, programs: Sequence[Program], mod: tvm.IRModule, limit: int
    ) -> tuple[TransferredProgram, ...]:
        """Transfers programs to another workload.

        Args:
            programs: Programs of a similar workload, fastest first.
            mod: The new workload.
            limit: The largest number of distinct results.

        Returns:
            Distinct schedules; empty if no program fits the new workload.
        """
        context = tune_context(mod, self._target)
        postprocs = list(context.space_generator.postprocs)
        sketches: list[Any] | None = None
        results: dict[Any, TransferredProgram] = {}
        # If both refits fit, the second seldom beats the first, so it comes last.
        for refit, program in itertools.product((keep_inner, reduce_largest), programs):
            trace = program.trace.simplified(remove_postproc=True)
            skeletons = [trace]
            if not _has_scheduled_blocks(trace, mod):
                if sketches is None:
                    sketches = [schedule.trace for schedule in context.generate_design_space()]
                kinds = _sampled_kinds(trace)
                skeletons = [sketch for sketch in sketches if _sampled_kinds(sketch) == kinds]
            for number, skeleton in enumerate(skeletons):
                if len(results) == limit:
                    return tuple(results.values())
                decide = _refitted(_decisions(trace), refit)
                transferred = replay(skeleton, mod, decide, postprocs)
                if transferred is not None:
                    results.setdefault((number, transferred.signature), transferred)
        return tuple(results.values())


def replay(
    skeleton: Trace, mod: tvm.IRModule, decide: Decide, postprocs: list[Any]
) -> TransferredProgram | None:
    """Applies a trace's instructions to a workload, with other decisions.

    Args:
        skeleton: The trace that holds the instructions.
        mod: The workload.
        decide: Returns the decision of a sampling instruction. It is called for each of them in
            order, with the instruction's kind and the loop's extent (0 unless a tile is sampled).
        postprocs: The postprocessors of the workload's design space.

    Returns:
        The program, or None if the decisions do not fit the workload.
    """
    schedule = Schedule(mod)
    signature: list[tuple[int, ...]] = []

    def provide(instruction: Any, inputs: Any, _attrs: Any, recorded: Any) -> Any:
        kind = instruction.kind.name
        if kind not in _SAMPLED:
            return recorded
        if kind == SAMPLE_TILE:
            factors = decide(kind, int(schedule.get(inputs[0]).extent))
            signature.append(tuple(factors))
            return list(factors)
        decision = decide(kind, 0)
        signature.append((int(decision),))
        return decision

    try:
        skeleton.apply_to_schedule(schedule, remove_postproc=True, decision_provider=provide)
        schedule.enter_postproc()
        if not all(postproc.apply(schedule) for postproc in postprocs):
            return None
    except RuntimeError:
        # TVM raises ScheduleError or InternalError if the decisions do not fit the workload's
        # loops. That is no failure: such a program simply does not transfer.
        return None
    return TransferredProgram(schedule, tuple(signature))


def _refitted(decisions: Sequence[Any], refit: Refit) -> Decide:
    """Gives a program's decisions in order, with tile factors refitted to the loops' extents."""
    remaining = iter(decisions)

    def decide(kind: str, extent: int) -> Any:
        decision = next(remaining)
        return (
            refit([int(factor) for factor in decision], extent) if kind == SAMPLE_TILE else decision
        )

    return decide


def _decisions(trace: Trace) -> list[Any]:
    return [trace.decisions[inst] for inst in trace.insts if inst.kind.name in _SAMPLED]


def _sampled_kinds(trace: Trace) -> list[str]:
    """The kinds of decisions that a trace makes, each with its number of results.

    A tiling has one result for each level.
    """
    return [
        f"{inst.kind.name}{len(inst.outputs)}" for inst in trace.insts if inst.kind.name in _SAMPLED
    ]


def _has_scheduled_blocks(trace: Trace, mod: tvm.IRModule) -> bool:
    """Whether a workload has all the blocks that a trace schedules by name."""
    names = {str(inst.attrs[0]) for inst in trace.insts if inst.kind.name == "GetSBlock"}
    return names - {"root"} <= set(block_names(Schedule(mod)))
