"""Builds a tuned model as one shared library.

The weights are inside the library, laid out as the programs read them. Five lines run it:

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
    """A task has no measured program.

    A default schedule in its place would make the model's latency misleading.
    """


def build_library(
    lowered: LoweredModel,
    database: ProgramDatabase,
    path: pathlib.Path | str,
    linker: str = "",
    *,
    weights: str = "float32",
) -> None:
    """Compiles a lowered model with the fastest measured programs.

    Args:
        lowered: The lowered model.
        database: A database with at least one measured program for every task.
        path: The library to write; it is replaced atomically.
        linker: The command line of the user's linker, or "" to link with ld.lld or a system
            compiler; see devices.Device.linker.
        weights: The type that weights are stored in, one of config.WEIGHT_TYPES.

    Raises:
        UntunedTaskError: If a task has no measured program.
    """
    scheduled = store_weights(schedule_model(lowered, database), weights)
    write_library(scheduled, lowered.target, path, linker)


def schedule_model(lowered: LoweredModel, database: ProgramDatabase) -> tvm.IRModule:
    """Schedules every task of a lowered model with its fastest program, in its fastest lowering.

    Args:
        lowered: The lowered model.
        database: A database with at least one measured program for every task.

    Returns:
        The module that `write_library` compiles, with the weights inside.

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
            f"There is no measured program for {len(untuned)} of {len(lowered.tasks)} tasks: "
            f"{', '.join(untuned)}. Tune the model first."
        )
    mod = lowered.lowered_as(assignment)
    return apply_programs(mod, lowered.params, lowered.target, database.native)


def write_library(
    mod: tvm.IRModule, target: tvm.target.Target, path: pathlib.Path | str, linker: str = ""
) -> None:
    """Compiles a scheduled module to a shared library.

    Args:
        mod: A module from schedule_model.
        target: The target that is compiled for.
        path: The library to write; it is replaced atomically.
        linker: The command line of the user's linker, or ""; see devices.Device.linker.
    """
    path = pathlib.Path(path)
    with target, gpu_toolchain.toolchain(target), tvm_internals.build_context():
        # The calls are compiled, because interpreting them takes a twelfth of a small model's time.
        # The pipeline is named, because TVM's default for GPUs would fuse and schedule once more.
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
    """Schedules a lowered module and puts its weights inside, laid out as the programs read them.

    Args:
        mod: A lowered module.
        params: Parameter values by name.
        target: The target that is compiled for.
        database: The MetaSchedule database whose fastest programs are applied.

    Returns:
        The module, ready for `relax.build`.
    """
    values = {
        name: tvm.runtime.tensor(np.ascontiguousarray(value)) for name, value in params.items()
    }
    with target, database, tvm_internals.build_context():
        # Parameters are bound before constants are folded, so that the weights' layout transforms
        # run here and not at inference.
        passes = [
            relax.transform.MetaScheduleApplyDatabase(),
            relax.transform.SplitLayoutRewritePreproc(),
            relax.transform.BindParams("main", values),
            relax.transform.FoldConstant(),
            # A function that lays out several weights returns a tuple. Unless the tuple is resolved
            # here, it is created in every run, which is a quarter of the runtime's overhead for a
            # small model.
            relax.transform.CanonicalizeBindings(),
            relax.transform.DeadCodeElimination(),
        ]
        return tvm.transform.Sequential(passes)(mod)
