"""First programs of a task: those that its lowering knows to be worth measuring.

Which they are, each lowering says (`Lowering.seeds`). They are measured before any search, and the
search goes on from the best.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm.s_tir import Schedule

from cprune_tf.compiler import tvm_internals
from cprune_tf.compiler.lowerings import Seed, lowering_of
from cprune_tf.compiler.transfer import Decide, TransferredProgram, replay
from cprune_tf.compiler.tuning.search_space import tune_context


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
    programs: dict[Any, TransferredProgram] = {}
    for guess in lowering_of(mod).seeds(mod, target, sketches, limit, seed):
        if len(programs) == limit:
            break
        program = replay(sketches[guess.sketch], mod, _decisions(guess), postprocs)
        if program is not None:
            programs.setdefault((guess.sketch, program.signature), program)
    return [program.schedule for program in programs.values()]


def _decisions(seed: Seed) -> Decide:
    """Answers a trace's samples: tiles in order, everything else with one choice."""
    tiles = iter(seed.tiles)

    def decide(kind: str, _extent: int) -> Any:
        if kind == tvm_internals.SAMPLE_TILE:
            return next(tiles)
        return seed.unroll if kind == "SampleCategorical" else seed.location

    return decide
