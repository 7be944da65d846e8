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
        schedule: After postprocessing.
        signature: Its decisions; equal signatures are the same program.
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


class Transfer:
    """Applies programs to new workloads.

    Where the workload has the same operators as the program's, the program's own trace is replayed.
    Where only the epilogue differs (a residual add more, say), the program's decisions are replayed
    on those of the workload's own schedule sketches that ask for the same kinds of decisions.

    Args:
        target: What is compiled for.
    """

    def __init__(self, target: tvm.target.Target) -> None:
        self._target = target

    def apply(
        self, programs: Sequence[Program], mod: tvm.IRModule, limit: int
    ) -> tuple[TransferredProgram, ...]:
        """Transfers programs to another workload.

        Args:
            programs: Of a similar workload, fastest first.
            mod: The new workload.
            limit: At most this many distinct results.

        Returns:
            Distinct schedules; empty where no program fits the new workload.
        """
        context = tune_context(mod, self._target)
        postprocs = list(context.space_generator.postprocs)
        sketches: list[Any] | None = None
        results: dict[Any, TransferredProgram] = {}
        # The second way to refit a program seldom beats the first where both fit: it comes last.
        for refit, program in itertools.product((keep_inner, reduce_largest), programs):
            own = program.trace.simplified(remove_postproc=True)
            skeletons = [own]
            if not _same_blocks(own, mod):
                if sketches is None:
                    sketches = [schedule.trace for schedule in context.generate_design_space()]
                kinds = _sampled_kinds(own)
                skeletons = [trace for trace in sketches if _sampled_kinds(trace) == kinds]
            for number, skeleton in enumerate(skeletons):
                if len(results) == limit:
                    return tuple(results.values())
                decide = _refitted(_decisions(own), refit)
                moved = replay(skeleton, mod, decide, postprocs)
                if moved is not None:
                    results.setdefault((number, moved.signature), moved)
        return tuple(results.values())


def replay(
    skeleton: Trace, mod: tvm.IRModule, decide: Decide, postprocs: list[Any]
) -> TransferredProgram | None:
    """Applies a trace to a workload with given decisions.

    Args:
        skeleton: The instructions.
        mod: The workload.
        decide: Called for each sample in order with its kind and, for tiles, the loop's extent.
        postprocs: Of the design space.

    Returns:
        The program, or None where the decisions do not fit the workload.
    """
    schedule = Schedule(mod)
    signature: list[tuple[int, ...]] = []

    def provide(instruction: Any, inputs: Any, _attrs: Any, own: Any) -> Any:
        kind = instruction.kind.name
        if kind not in _SAMPLED:
            return own
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
        # TVM's ScheduleError or InternalError: the decisions do not fit this workload's loops.
        # Not a failure: such a program simply does not transfer.
        return None
    return TransferredProgram(schedule, tuple(signature))


def _refitted(decisions: Sequence[Any], refit: Refit) -> Decide:
    """A program's decisions, its tile factors refitted to the extents that are met."""
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
    """The kinds of decisions a trace makes; tile sizes with their number of levels."""
    return [
        f"{inst.kind.name}{len(inst.outputs)}" for inst in trace.insts if inst.kind.name in _SAMPLED
    ]


def _same_blocks(trace: Trace, mod: tvm.IRModule) -> bool:
    """Whether a workload has just the blocks that a trace schedules by name."""
    named = {str(inst.attrs[0]) for inst in trace.insts if inst.kind.name == "GetSBlock"}
    return named - {"root"} <= set(block_names(Schedule(mod)))
