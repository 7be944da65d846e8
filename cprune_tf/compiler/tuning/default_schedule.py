"""What a workload would run as without a tuner: the candidate that nothing chosen may lose to."""

from __future__ import annotations

import tvm
from tvm.s_tir import Schedule

from cprune_tf.compiler import tvm_internals


def default_schedule(mod: tvm.IRModule, target: tvm.target.Target) -> Schedule | None:
    """A workload's schedule without any tuning.

    Args:
        mod: The workload, normalised.
        target: What is compiled for.

    Returns:
        On a CPU its loops as they are; on a GPU, where those would not run, what TVM's own rules
        (dlight) make of them, or None where these know none.
    """
    if tvm_internals.is_gpu(target):
        return _by_dlight(mod, target)
    plain = Schedule(mod)
    plain.get_sblock("root")  # MetaSchedule takes a trace without instructions for a failure
    return plain


def _by_dlight(mod: tvm.IRModule, target: tvm.target.Target) -> Schedule | None:
    from tvm.s_tir import dlight

    # As in TVM's own pipeline for GPUs: the first that fits.
    rules = (
        dlight.gpu.Matmul(),
        dlight.gpu.GEMV(),
        dlight.gpu.Reduction(),
        dlight.gpu.GeneralReduction(),
        dlight.gpu.Fallback(),
    )
    with target:
        schedules = (rule.apply(mod["main"], target, False) for rule in rules)
        schedule = next((one for one in schedules if one is not None), None)
    return schedule[0] if isinstance(schedule, list) else schedule
