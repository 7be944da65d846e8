"""The design space of a workload (by MetaSchedule's rules or its lowering's) and its search."""

from __future__ import annotations

import tvm
from tvm.s_tir import meta_schedule as ms

from cprune_tf.compiler import tvm_internals
from cprune_tf.compiler.database import ProgramDatabase
from cprune_tf.compiler.lowerings import lowering_of
from cprune_tf.compiler.tvm_internals import LightTuneContext

# Four fifths of a GPU's tilings need more threads or shared memory than the GPU has, so a round of
# drawing may well find no valid program. TVM would stop after five such rounds.
_GPU_ATTEMPTS = 100
# TVM's default.
_CPU_ATTEMPTS = 5
_MIN_POPULATION = 50


def random_strategy(count: int, target: tvm.target.Target) -> ms.search_strategy.EvolutionarySearch:
    """Makes a strategy that draws valid programs, without evolution.

    Args:
        count: The number of programs to draw.
        target: The target that is compiled for.
    """
    min_population = count if tvm_internals.is_gpu(target) else 1
    return _search(count, 0, target, min_population)


def evolution(
    population_size: int, generations: int, target: tvm.target.Target
) -> ms.search_strategy.EvolutionarySearch:
    """Makes MetaSchedule's evolutionary search.

    Args:
        population_size: The number of programs in each generation.
        generations: The number of generations.
        target: The target that is compiled for.
    """
    min_population = _MIN_POPULATION
    if tvm_internals.is_gpu(target):
        min_population = min(min_population, population_size)
    return _search(population_size, generations, target, min_population)


def _search(
    population_size: int, generations: int, target: tvm.target.Target, min_population: int
) -> ms.search_strategy.EvolutionarySearch:
    """Makes a search that draws at least `min_population` programs before it evolves them."""
    attempts = _GPU_ATTEMPTS if tvm_internals.is_gpu(target) else _CPU_ATTEMPTS
    return ms.search_strategy.EvolutionarySearch(
        population_size=population_size,
        genetic_num_iters=generations,
        init_min_unmeasured=min_population,
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
    """Makes a context whose design space is that of the workload's lowering.

    Args:
        mod: The workload, normalised.
        target: The target that is compiled for.
        strategy: How candidates are searched; None if only the design space is needed.
        num_threads: The number of threads of the search.
        seed: The random seed of the search.
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
    """Makes a context that is ready to generate candidates.

    Args:
        mod: The workload, normalised.
        target: The target that is compiled for.
        strategy: How candidates are searched.
        num_trials: The number of candidates to generate.
        database: The database whose programs the search starts from.
        cost_model: The model that predicts which candidates are fast.
        num_threads: The number of threads of the search.
        seed: The random seed of the search.
    """
    context = tune_context(mod, target, strategy, num_threads=num_threads, seed=seed)
    space = context.generate_design_space()
    context.pre_tuning(num_trials, num_trials, space, database.native, cost_model)
    return context
