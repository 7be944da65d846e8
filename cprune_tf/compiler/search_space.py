"""Which schedules a workload can have: MetaSchedule's own rules, or ours for Winograd."""

from __future__ import annotations

import functools

import tvm
from tvm.s_tir import meta_schedule as ms

from cprune_tf.compiler import tvm_internals, winograd
from cprune_tf.compiler.tvm_internals import LightTuneContext, num_cores
from cprune_tf.compiler.winograd_space import schedule_winograd

# Of a GPU's tilings four fifths ask for more threads or shared memory than there are, and a round
# of drawing may well find none that does not. TVM would give up after five such rounds.
_GPU_ATTEMPTS = 100
_MIN_POPULATION = 50


def random_strategy(count: int, target: tvm.target.Target) -> ms.search_strategy.EvolutionarySearch:
    """Draws valid programs: a population of just the size wanted and no evolution.

    Args:
        count: Programs wanted.
        target: What is compiled for.
    """
    patience: dict[str, int] = {"init_min_unmeasured": 1}
    if tvm_internals.is_gpu(target):
        patience = {"init_min_unmeasured": count, "max_fail_count": _GPU_ATTEMPTS}
    return ms.search_strategy.EvolutionarySearch(
        population_size=count, genetic_num_iters=0, **patience
    )


def evolution(
    population_size: int, generations: int, target: tvm.target.Target
) -> ms.search_strategy.EvolutionarySearch:
    """MetaSchedule's search.

    Args:
        population_size: Programs in each generation.
        generations: How many.
        target: What is compiled for.
    """
    patience: dict[str, int] = {}
    if tvm_internals.is_gpu(target):
        least = min(_MIN_POPULATION, population_size)
        patience = {"init_min_unmeasured": least, "max_fail_count": _GPU_ATTEMPTS}
    return ms.search_strategy.EvolutionarySearch(
        population_size=population_size, genetic_num_iters=generations, **patience
    )


def tune_context(
    mod: tvm.IRModule,
    target: tvm.target.Target,
    strategy: ms.search_strategy.SearchStrategy | None = None,
    *,
    num_threads: int = 1,
    seed: int = 1,
) -> LightTuneContext:
    """A context whose space generator suits the workload.

    Args:
        mod: The workload, normalised.
        target: What is compiled for.
        strategy: How candidates are searched; None where only the space is of interest.
        num_threads: Of the search.
        seed: Of the search.
    """
    schedule_fn = None
    if winograd.tile_of(mod) is not None:
        schedule_fn = functools.partial(schedule_winograd, num_threads=num_cores(target))
    return LightTuneContext(
        mod, target, strategy, num_threads=num_threads, seed=seed, schedule_fn=schedule_fn
    )
