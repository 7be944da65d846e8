"""Which schedules a workload can have: MetaSchedule's own rules, or ours for Winograd."""

from __future__ import annotations

import functools

import tvm
from tvm.s_tir import meta_schedule as ms

from cprune_tf.compiler import winograd
from cprune_tf.compiler.tvm_internals import LightTuneContext, num_cores
from cprune_tf.compiler.winograd_space import schedule_winograd


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
