"""From an imported model to fused functions: what is tuned, measured and compiled.

The passes are the same wherever tasks are extracted or a model is built, so that a task's database
key always matches. They come in three parts: a model's operators are legalised (directly), then
grouped, then each group is fused to one function. Other lowerings take the place of operators in
between, in the groups that the direct lowering's operators form (`replacing.replace_operators`).
"""

from __future__ import annotations

import re
from typing import Any

import tvm
from tvm import relax

from cprune_tf.compiler import tvm_internals


def lower(mod: tvm.IRModule, target: tvm.target.Target) -> tvm.IRModule:
    """Computes every operator directly, fuses, and marks the weights whose layout may be chosen.

    Args:
        mod: Relax module with `main(inputs..., params...)` and attribute `num_input`.
        target: What is compiled for.

    Returns:
        Module whose `main` is a sequence of call_tir of fused functions.
    """
    return fuse_groups(group_operators(legalize_operators(mod, target), target), target)


def legalize_operators(mod: tvm.IRModule, target: tvm.target.Target) -> tvm.IRModule:
    """Makes every operator the call of a function of TIR, as TVM computes it.

    Args:
        mod: An imported module.
        target: What is compiled for.
    """
    with target:
        return relax.transform.LegalizeOps()(mod)


def group_operators(mod: tvm.IRModule, target: tvm.target.Target) -> tvm.IRModule:
    """Decides which operators are fused.

    Args:
        mod: From `legalize_operators`.
        target: What is compiled for.

    Returns:
        Module whose `main` calls groups, each a function of operators, and operators that no other
        joins.
    """
    passes = [
        relax.transform.CanonicalizeBindings(),
        relax.transform.AnnotateTIROpPattern(),
        relax.transform.FoldConstant(),
        relax.transform.FuseOps(),
    ]
    with target:
        return tvm.transform.Sequential(passes)(mod)


def fuse_groups(mod: tvm.IRModule, target: tvm.target.Target) -> tvm.IRModule:
    """Fuses each group to one function and marks the weights whose layout the tuner may choose.

    Args:
        mod: From `group_operators`.
        target: What is compiled for.

    Returns:
        Module whose `main` is a sequence of call_tir of fused functions; calls have the names that
        they have in `mod`.
    """
    passes = [relax.transform.FuseTIR(), relax.transform.DeadCodeElimination()]
    if tvm_internals.is_gpu(target):
        passes.append(_names_are_identifiers)
    else:  # MetaSchedule's rules for GPUs rewrite no layouts
        passes.append(relax.transform.AttachAttrLayoutFreeBuffers())
    with target:
        return tvm.transform.Sequential(passes)(mod)


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
    """The calls of fused functions in `main`, in order.

    Args:
        mod: A lowered module.

    Returns:
        Pairs (name of the bound variable, name of the called function).
    """
    call_tir = tvm.ir.Op.get("relax.call_tir")
    return [
        (binding.var.name, binding.value.args[0].name_hint)
        for block in mod["main"].body.blocks
        for binding in block.bindings
        if isinstance(binding.value, relax.Call) and binding.value.op.same_as(call_tir)
    ]
