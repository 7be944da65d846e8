"""The schedule that a workload has without a tuner; no chosen program may be slower than it."""

from __future__ import annotations

import tvm
from tvm.s_tir import Schedule

from cprune_tf.compiler import tvm_internals


def default_schedule(mod: tvm.IRModule, target: tvm.target.Target) -> Schedule | None:
    """Makes a workload's schedule without any tuning.

    Args:
        mod: The workload, normalised.
        target: The target that is compiled for.

    Returns:
        On a CPU the workload's plain loops. They would not run on a GPU, so there it is the
        schedule of TVM's rules (dlight), or None if no rule fits.
    """
    if tvm_internals.is_gpu(target):
        return _by_dlight(mod, target)
    plain = Schedule(mod)
    plain.get_sblock("root")  # MetaSchedule would treat a trace without instructions as a failure
    return plain


def _by_dlight(mod: tvm.IRModule, target: tvm.target.Target) -> Schedule | None:
    from tvm.s_tir import dlight

    # The order of TVM's pipeline for GPUs; the first rule that fits is used.
    rules = (
        dlight.gpu.Matmul(),
        dlight.gpu.GEMV(),
        dlight.gpu.Reduction(),
        dlight.gpu.GeneralReduction(),
        dlight.gpu.Fallback(),
    )
    with target:
        results = (rule.apply(mod["main"], target, False) for rule in rules)
        schedule = next((result for result in results if result is not None), None)
    return schedule[0] if isinstance(schedule, list) else schedule
