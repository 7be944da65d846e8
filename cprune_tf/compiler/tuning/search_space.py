"""Which schedules a workload can have: MetaSchedule's own rules, or its lowering's."""

from __future__ import annotations

import tvm
from tvm.s_tir import meta_schedule as ms

from cprune_tf.compiler import tvm_internals
from cprune_tf.compiler.database import ProgramDatabase
from cprune_tf.compiler.lowerings import lowering_of
from cprune_tf.compiler.tvm_internals import LightTuneContext

# Of a GPU's tilings four fifths ask for more threads or shared memory than there are, and a round
# of drawing may well find none that does not. TVM would give up after five such rounds.
_GPU_ATTEMPTS = 100
# TVM's own.
_CPU_ATTEMPTS = 5
_MIN_POPULATION = 50


def random_strategy(count: int, target: tvm.target.Target) -> ms.search_strategy.EvolutionarySearch:
    """Draws valid programs: a population of just the size wanted and no evolution.

    Args:
        count: Programs wanted.
        target: What is compiled for.
    """
    least = count if tvm_internals.is_gpu(target) else 1
    return _search(count, 0, target, least)


def evolution(
    population_size: int, generations: int, target: tvm.target.Target
) -> ms.search_strategy.EvolutionarySearch:
    """MetaSchedule's search.

    Args:
        population_size: Programs in each generation.
        generations: How many.
        target: What is compiled for.
    """
    least = _MIN_POPULATION
    if tvm_internals.is_gpu(target):
        least = min(least, population_size)
    return _search(population_size, generations, target, least)


def _search(
    population_size: int, generations: int, target: tvm.target.Target, least: int
) -> ms.search_strategy.EvolutionarySearch:
    """A search that begins with at least so many programs drawn."""
    attempts = _GPU_ATTEMPTS if tvm_internals.is_gpu(target) else _CPU_ATTEMPTS
    return ms.search_strategy.EvolutionarySearch(
        population_size=population_size,
        genetic_num_iters=generations,
        init_min_unmeasured=least,
        max_fail_count=attempts,
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
    schedule_fn = lowering_of(mod).schedule_function(target)
    return LightTuneContext(
        mod, target, strategy, num_threads=num_threads, seed=seed, schedule_fn=schedule_fn
    )


def search_context(
    mod: tvm.IRModule,
    target: tvm.target.Target,
    strategy: ms.search_strategy.SearchStrategy,
    *,
    num_trials: int,
    database: ProgramDatabase,
    cost_model: ms.cost_model.CostModel,
    num_threads: int,
    seed: int,
) -> LightTuneContext:
    """A context that is ready to generate candidates.

    Args:
        mod: The workload, normalised.
        target: What is compiled for.
        strategy: How candidates are searched.
        num_trials: How many are wanted.
        database: Whose programs the search starts from.
        cost_model: Says which candidates are promising.
        num_threads: Of the search.
        seed: Of the search.
    """
    context = tune_context(mod, target, strategy, num_threads=num_threads, seed=seed)
    space = context.generate_design_space()
    context.pre_tuning(num_trials, num_trials, space, database.native, cost_model)
    return context
