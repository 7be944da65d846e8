"""A tuned model as one shared library: weights inside, laid out as the programs want them.

Users need five lines to run it:

    import tvm, numpy as np
    from tvm import relax
    vm = relax.VirtualMachine(tvm.runtime.load_module("final.so"), tvm.cpu())
    image = tvm.runtime.tensor(np.zeros((1, 28, 28, 1), "float32"))
    print(vm["main"](image).numpy())
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping

import numpy as np
import tvm
from tvm import relax
from tvm.s_tir import meta_schedule as ms

from cprune_tf.compiler import tvm_internals
from cprune_tf.compiler.building import gpu_toolchain
from cprune_tf.compiler.building.linker import linker_for
from cprune_tf.compiler.building.weight_storage import store_weights
from cprune_tf.compiler.database import ProgramDatabase
from cprune_tf.compiler.tasks import LoweredModel
from cprune_tf.errors import UserError
from cprune_tf.storage import files


class UntunedTaskError(UserError, RuntimeError):
    """A model would be built with a default schedule in it, and its latency would mislead."""


def build_library(
    lowered: LoweredModel,
    database: ProgramDatabase,
    path: pathlib.Path | str,
    linker: str = "",
    *,
    weights: str = "float32",
) -> None:
    """Compiles a lowered model with the fastest known programs.

    Args:
        lowered: The model.
        database: Holds at least one measured program for every task.
        path: The library to write, atomically.
        linker: See devices.Device.linker.
        weights: What weights are stored as; see config.PruneConfig.

    Raises:
        UntunedTaskError: If a task has no measured program.
    """
    scheduled = store_weights(schedule_model(lowered, database), weights)
    write_library(scheduled, lowered.target, path, linker)


def schedule_model(lowered: LoweredModel, database: ProgramDatabase) -> tvm.IRModule:
    """Schedules a lowered model with the fastest known programs, each task in its fastest lowering.

    Args:
        lowered: The model.
        database: Holds at least one measured program for every task.

    Returns:
        The module that `write_library` compiles, weights inside.

    Raises:
        UntunedTaskError: If a task has no measured program.
    """
    assignment: dict[str, str] = {}
    untuned = []
    for task in lowered.tasks:
        fastest = task.fastest(database)
        if fastest is None:
            untuned.append(task.name)
        else:
            assignment.update({part.call: fastest[0].lowering for part in task.subgraphs})
    if untuned:
        raise UntunedTaskError(
            f"No measured program for {len(untuned)} of {len(lowered.tasks)} tasks: "
            f"{', '.join(untuned)}. Tune the model first."
        )
    mod = lowered.lowered_as(assignment)
    return apply_programs(mod, lowered.params, lowered.target, database.native)


def write_library(
    mod: tvm.IRModule, target: tvm.target.Target, path: pathlib.Path | str, linker: str = ""
) -> None:
    """Compiles a scheduled module to a shared library.

    Args:
        mod: From schedule_model.
        target: What is compiled for.
        path: The library to write, atomically.
        linker: See devices.Device.linker.
    """
    path = pathlib.Path(path)
    with target, gpu_toolchain.toolchain(target), tvm_internals.build_context():
        # Compiled, not interpreted: the calls of a small model take a twelfth of its time. The
        # pipeline is named: the one that TVM takes for GPUs would fuse and schedule once more.
        built = relax.build(
            mod, target, relax_pipeline=relax.get_pipeline("default_build"), exec_mode="compiled"
        )
    with files.replacing(path) as temporary:
        built.export_library(str(temporary), fcompile=linker_for(target, linker))


def apply_programs(
    mod: tvm.IRModule,
    params: Mapping[str, object],
    target: tvm.target.Target,
    database: ms.database.Database,
) -> tvm.IRModule:
    """Schedules a lowered module and puts its weights inside, laid out as the programs want them.

    Args:
        mod: A lowered module.
        params: Parameter values by name.
        target: What is compiled for.
        database: MetaSchedule's own; its fastest programs are applied.

    Returns:
        The module, ready for `relax.build`.
    """
    values = {
        name: tvm.runtime.tensor(np.ascontiguousarray(value)) for name, value in params.items()
    }
    with target, database, tvm_internals.build_context():
        # Binding before folding lets the weights' layout transforms run here, not at inference.
        passes = [
            relax.transform.MetaScheduleApplyDatabase(),
            relax.transform.SplitLayoutRewritePreproc(),
            relax.transform.BindParams("main", values),
            relax.transform.FoldConstant(),
            # A function that lays out several weights gave a tuple of them; taken apart here, it is
            # not made anew in every run (a quarter of what the runtime adds to a small model).
            relax.transform.CanonicalizeBindings(),
            relax.transform.DeadCodeElimination(),
        ]
        return tvm.transform.Sequential(passes)(mod)
