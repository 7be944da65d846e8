"""The only module that touches what TVM does not document as public.

It is written for apache-tvm 0.27. When TVM is upgraded, check this module first.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable
from typing import Any

import tvm
from tvm.s_tir import Schedule
from tvm.s_tir import meta_schedule as ms
from tvm.s_tir.meta_schedule import _ffi_api

_SEARCH_LOGGER = logging.getLogger("cprune_tf.compiler.search")

# TVM annotates pooling blocks with the names of rules that do not exist, and warns at every use.
_MISSING_RULES = ("pool_avg", "pool_max", "adaptive_pool_avg", "adaptive_pool_max")
_RULE_TARGETS = ("cpu", "cuda", "gpu")
# The kind of the instruction that samples an axis's tile factors.
SAMPLE_TILE = "SamplePerfectTile"


def _register_missing_rules() -> None:
    """Registers the missing rules as rules that leave a block as it is.

    TVM does the same for a missing rule, but with a warning.
    """
    import tvm_ffi

    for target, rule in itertools.product(_RULE_TARGETS, _MISSING_RULES):
        name = f"s_tir.meta_schedule.{target}.meta_schedule.{rule}"
        if tvm_ffi.get_global_func(name, allow_missing=True) is None:
            tvm_ffi.register_global_func(name, lambda schedule, _block: [schedule])


_register_missing_rules()


def _log_search(level: int, filename: str, line: int, message: str) -> None:
    """Logs MetaSchedule's warnings; its INFO messages are dozens of lines for each round."""
    if level >= logging.WARNING:
        _SEARCH_LOGGER.log(level, "[%s:%d] %s", filename, line, message)


class LightTuneContext(ms.TuneContext):
    """A TuneContext without the stock constructor's import of every target's tensor intrinsics.

    That import (`tvm.s_tir.tensor_intrin`) parses hundreds of CUDA intrinsics and costs 17 to 26
    seconds of CPU; the schedule rules for float32 use none of them.

    Args:
        mod: The workload.
        target: The target that is compiled for.
        strategy: How candidates are searched; None if only the design space is needed.
        num_threads: The number of threads of the search.
        seed: The random seed of the search.
        schedule_fn: Schedules the workload with sampling instructions; None: MetaSchedule's rules
            schedule it.
    """

    def __init__(
        self,
        mod: tvm.IRModule,
        target: tvm.target.Target,
        strategy: ms.search_strategy.SearchStrategy | None,
        *,
        num_threads: int,
        seed: int,
        schedule_fn: Callable[[Schedule], Schedule] | None = None,
    ) -> None:
        # The rules are named because "from-target" would pick rules that need tensor intrinsics
        # for targets with VNNI or tensor cores. All kinds of GPU share the rules for CUDA.
        kind = "cuda" if is_gpu(target) else "llvm"
        rules = {"sch_rules": kind, "postprocs": kind, "mutator_probs": kind}
        if schedule_fn is None:
            generator = ms.space_generator.PostOrderApply(**rules)
        else:
            generator = ms.space_generator.ScheduleFn(schedule_fn, **rules)
        self.__init_handle_by_constructor__(
            _ffi_api.TuneContext,
            mod,
            target,
            generator,
            strategy,
            "main",
            num_threads,
            seed,
            _log_search,
        )
        _ffi_api.TuneContextInitialize(self)


def normalize_task_module(function: tvm.tirx.PrimFunc) -> tvm.IRModule:
    """Brings a fused function to the form in which MetaSchedule's database looks it up."""
    return tvm.get_global_func("tvm.s_tir.meta_schedule.normalize_mod")(function)


def structural_hash(mod: tvm.IRModule) -> int:
    """A hash that is equal for modules that compute the same thing with the same shapes."""
    import tvm_ffi

    return int(tvm_ffi.structural_hash(mod))


def structural_equal(left: Any, right: Any) -> bool:
    """Whether two TVM objects (modules, types) are the same up to variable names."""
    import tvm_ffi

    return bool(tvm_ffi.structural_equal(left, right))


def block_names(schedule: Schedule) -> list[str]:
    """The names of a workload's blocks, in order of computation."""
    blocks = schedule.get_child_blocks(schedule.get_sblock("root"))
    return [str(schedule.get(block).name_hint) for block in blocks]


def argument_shapes(mod: tvm.IRModule) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """The (dtype, shape) of each argument of a module's "main"; the result is the last argument."""
    return shapes_of(ms.arg_info.ArgInfo.from_prim_func(mod["main"]))


def shapes_of(arguments: Iterable[ms.arg_info.ArgInfo]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """The (dtype, shape) of each of MetaSchedule's arguments."""
    return tuple(
        (str(info.dtype), tuple(int(extent) for extent in info.shape)) for info in arguments
    )


def tile_decisions(trace: tvm.s_tir.schedule.Trace) -> tuple[tuple[int, ...], ...]:
    """The decided tile factors of a trace, in instruction order, outermost first."""
    return tuple(
        tuple(int(factor) for factor in trace.decisions[instruction])
        for instruction in trace.insts
        if instruction.kind.name == SAMPLE_TILE
    )


def build_context() -> tvm.transform.PassContext:
    """The pass context in which programs and models are built.

    It disables TIR's elimination of common subexpressions, the slowest pass on unrolled programs.
    LLVM does the same later.
    """
    return tvm.transform.PassContext(opt_level=3, config={"tirx.disable_cse_tir": True})


def is_gpu(target: tvm.target.Target) -> bool:
    """Whether the target is a GPU, whose schedules bind loops to threads."""
    return "gpu" in target.keys


def warp_size(target: tvm.target.Target) -> int:
    """The number of a GPU's threads that run in lockstep."""
    return int(target.attrs.get("thread_warp_size", 1))


def num_cores(target: tvm.target.Target) -> int:
    """The number of CPU threads that schedules are made for."""
    return int(target.attrs.get("num-cores", 1))


def rename_variables(
    function: tvm.tirx.PrimFunc, new_name: Callable[[str], str]
) -> tvm.tirx.PrimFunc:
    """Renames the buffers, loops and scalars of a function.

    Args:
        function: The function. Its structural hash stays the same, as names do not count.
        new_name: Returns a variable's new name for its present name.

    Returns:
        The function with the new names.
    """
    import tvm_ffi

    renamed: dict[Any, Any] = {}

    def rename(variable: Any) -> Any:
        name = new_name(variable.name)
        if name == variable.name:
            return variable
        return renamed.setdefault(variable, tvm.tirx.Var(name, variable.ty))

    return tvm_ffi.structural_map(function, (tvm.tirx.Var, rename))


def convert_parameter(function: tvm.tirx.PrimFunc, index: int, dtype: str) -> tvm.tirx.PrimFunc:
    """Makes a function take a parameter in another type and convert each value that it loads.

    Args:
        function: A function, scheduled or not, that only reads the parameter.
        index: The index of the parameter, which is a buffer.
        dtype: The type that the parameter is stored in. The function computes in the same type as
            before.

    Returns:
        The function with the changed parameter.
    """
    import tvm_ffi

    before = function.params[index]
    after = tvm.tirx.decl_buffer(before.ty.shape, dtype, before.name)

    def load(value: Any) -> Any:
        if not value.source.same_as(after):
            return value
        return tvm.tirx.Cast(str(before.ty.dtype), tvm.tirx.BufferLoad(after, list(value.indices)))

    changed = tvm_ffi.structural_map(
        function,
        [
            (tvm.tirx.Var, lambda variable: after if variable.same_as(before) else variable),
            (tvm.ir.expr.TensorLoad, load),
        ],
    )
    # A new function is needed because a function's type contains its parameters' types.
    return tvm.tirx.PrimFunc(
        list(changed.params), changed.body, changed.ret_type, attrs=changed.attrs
    )


def estimate_flops(mod: tvm.IRModule) -> float:
    """Counts the floating point operations of one call from its loops; a multiply-add is two."""
    from tvm.s_tir.analysis import estimate_tir_flops

    return float(estimate_tir_flops(mod))


def convolution_group_prefix(mod: tvm.IRModule) -> str:
    """The prefix for the name of a workload's convolution that says how it is grouped.

    Args:
        mod: A workload with one function "main".

    Returns:
        "depthwise_" if each output channel reads one input channel, "grouped_" if it reads some of
        them, "" if it reads all of them or the workload has no convolution.
    """
    import tvm_ffi

    blocks: list[Any] = []
    tvm_ffi.structural_walk(mod["main"].body, (tvm.s_tir.SBlock, blocks.append))
    blocks = [block for block in blocks if block.name_hint.startswith("group_conv")]
    if not blocks:
        return ""
    # In topi the loops are batch, image and filters, then the reductions: the window, and last the
    # channels of the group.
    channels = blocks[0].iter_vars[-1]
    return "depthwise_" if int(channels.dom.extent) == 1 else "grouped_"
