"""Makes the seeds of a workload: the programs that its lowering suggests to measure first.

Each lowering suggests its seeds (`Lowering.seeds`). They are measured before any search, and the
search continues from the best of them.
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
    """Makes schedules of a workload that are worth measuring before any search.

    Args:
        mod: The workload, normalised.
        target: The target that is compiled for.
        limit: The largest number of schedules.
        seed: The random seed for choices that are drawn.

    Returns:
        Distinct schedules after postprocessing, best guesses first; empty for GPUs, and if the
        lowering suggests none.
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
    """Gives a seed's decisions: its tiles in order, and one choice for each other kind."""
    tiles = iter(seed.tiles)

    def decide(kind: str, _extent: int) -> Any:
        if kind == tvm_internals.SAMPLE_TILE:
            return next(tiles)
        return seed.unroll if kind == "SampleCategorical" else seed.location

    return decide
