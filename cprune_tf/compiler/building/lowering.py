"""From an imported model to fused functions: what is tuned, measured and compiled.

The passes are the same wherever tasks are extracted or a model is built, so that a task's database
key always matches.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import tvm
from tvm import relax

from cprune_tf.compiler import tvm_internals
from cprune_tf.compiler.lowerings.winograd import convolution as winograd

# relax's OpPatternKind kOutEWiseFusable: a reduction whose output elementwise operators join.
_OUT_ELEMENTWISE_FUSABLE = 4


def direct(_: winograd.Convolution) -> bool:
    """Asks for the direct lowering of every convolution."""
    return False


def lower(
    mod: tvm.IRModule,
    target: tvm.target.Target,
    use_winograd: Callable[[winograd.Convolution], bool] = direct,
) -> tvm.IRModule:
    """Fuses operators and marks the weights whose layout the tuner may choose.

    Args:
        mod: Relax module with `main(inputs..., params...)` and attribute `num_input`.
        target: What is compiled for.
        use_winograd: Which convolutions are lowered that way, where it is possible.

    Returns:
        Module whose `main` is a sequence of call_tir of fused functions.
    """
    passes = [
        relax.transform.CanonicalizeBindings(),
        relax.transform.LegalizeOps({"relax.nn.conv2d": winograd.legalizer(use_winograd)}),
        relax.transform.AnnotateTIROpPattern(),
        _winograd_takes_epilogues,
        relax.transform.FoldConstant(),
        relax.transform.FuseOps(),
        relax.transform.FuseTIR(),
        relax.transform.DeadCodeElimination(),
    ]
    if tvm_internals.is_gpu(target):
        passes.append(_names_are_identifiers)
    else:  # MetaSchedule's rules for GPUs rewrite no layouts
        passes.append(relax.transform.AttachAttrLayoutFreeBuffers())
    with target:
        return tvm.transform.Sequential(passes)(mod)


@tvm.transform.module_pass(opt_level=0, name="WinogradTakesEpilogues")
def _winograd_takes_epilogues(mod: tvm.IRModule, _: Any) -> tvm.IRModule:
    """Lets FuseOps treat a Winograd convolution like a direct one: what follows is fused to it."""
    for name, function in mod.functions.items():
        if isinstance(function, tvm.tirx.PrimFunc) and winograd.tile_of_function(function):
            mod[name] = function.with_attr("op_pattern", _OUT_ELEMENTWISE_FUSABLE)
    return mod


@tvm.transform.module_pass(opt_level=0, name="NamesAreIdentifiers")
def _names_are_identifiers(mod: tvm.IRModule, _: Any) -> tvm.IRModule:
    """Renames buffers like "conv/kernel" in fused functions: GPUs' code is C++ before it compiles.

    Nothing else looks at these names; main's parameters keep theirs.
    """
    for name, function in mod.functions.items():
        if isinstance(function, tvm.tirx.PrimFunc):
            mod[name] = tvm_internals.rename_variables(function, _identifier)
    return mod


def _identifier(name: str) -> str:
    return re.sub(r"\W|^(?=\d)", "_", name, flags=re.ASCII)


def subgraph_calls(mod: tvm.IRModule) -> list[tuple[str, str]]:
    """The calls of fused functions in `main`, in order; transforms of kernels are left out.

    Args:
        mod: A lowered module.

    Returns:
        Pairs (name of the bound variable, name of the called function).
    """
    return [
        (binding.var.name, binding.value.args[0].name_hint)
        for binding in _tir_bindings(mod)
        if not winograd.is_weight_transform(binding.value.args[0].name_hint)
    ]


def winograd_convolutions(mod: tvm.IRModule) -> dict[str, winograd.Convolution]:
    """Which calls of `main` are Winograd convolutions, and of what.

    Args:
        mod: A lowered module.

    Returns:
        Name of the bound variable -> the convolution.
    """
    kernels: dict[Any, str] = {}
    found = {}
    for binding in _tir_bindings(mod):
        function, arguments = binding.value.args[0].name_hint, list(binding.value.args[1])
        if winograd.is_weight_transform(function):
            kernels[binding.var] = arguments[0].name
            continue
        for argument in arguments:
            if argument in kernels:
                shape = tuple(int(size) for size in arguments[0].ty.shape)
                found[binding.var.name] = winograd.Convolution(kernels[argument], shape)
    return found


def _tir_bindings(mod: tvm.IRModule) -> list[Any]:
    call_tir = tvm.ir.Op.get("relax.call_tir")
    return [
        binding
        for block in mod["main"].body.blocks
        for binding in block.bindings
        if isinstance(binding.value, relax.Call) and binding.value.op.same_as(call_tir)
    ]
