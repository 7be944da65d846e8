"""Turns an imported model into fused functions, which are tuned, measured and compiled.

The same passes run when tasks are extracted and when a model is built, so a task's database key
always matches. They have three parts:

1. `legalize_operators` computes every operator in the direct lowering.
2. `group_operators` decides which operators are fused.
3. `fuse_groups` fuses each group into one function.

Between the second and the third part, other lowerings can replace operators inside the groups
(`replacing.replace_operators`).
"""

from __future__ import annotations

import re
from typing import Any

import tvm
from tvm import relax

from cprune_tf.compiler import tvm_internals


def lower(mod: tvm.IRModule, target: tvm.target.Target) -> tvm.IRModule:
    """Lowers a model with every operator in the direct lowering: runs all three parts.

    Args:
        mod: A Relax module with `main(inputs..., params...)` and the attribute `num_input`.
        target: The target that is compiled for.

    Returns:
        A module whose `main` is a sequence of call_tir of fused functions.
    """
    return fuse_groups(group_operators(legalize_operators(mod, target), target), target)


def legalize_operators(mod: tvm.IRModule, target: tvm.target.Target) -> tvm.IRModule:
    """Replaces every operator by a call of the TIR function that TVM computes it with.

    Args:
        mod: An imported module.
        target: The target that is compiled for.

    Returns:
        The module with calls of TIR functions.
    """
    with target:
        return relax.transform.LegalizeOps()(mod)


def group_operators(mod: tvm.IRModule, target: tvm.target.Target) -> tvm.IRModule:
    """Decides which operators are fused.

    Args:
        mod: A module from `legalize_operators`.
        target: The target that is compiled for.

    Returns:
        A module whose `main` calls groups and single operators. A group is a function that calls
        the operators to be fused; an operator that is fused with no other stays in `main`.
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
    """Fuses each group into one function and marks the weights whose layout the tuner may choose.

    Args:
        mod: A module from `group_operators`.
        target: The target that is compiled for.

    Returns:
        A module whose `main` is a sequence of call_tir of fused functions. The variables that the
        calls are bound to have the same names as in `mod`.
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
    """Renames buffers like "conv/kernel" in fused functions to valid C++ identifiers.

    Code for GPUs is generated as C++ source. Nothing else reads these names; main's parameters keep
    their names.
    """
    for name, function in mod.functions.items():
        if isinstance(function, tvm.tirx.PrimFunc):
            mod[name] = tvm_internals.rename_variables(function, _identifier)
    return mod


def _identifier(name: str) -> str:
    return re.sub(r"\W|^(?=\d)", "_", name, flags=re.ASCII)


def subgraph_calls(mod: tvm.IRModule) -> list[tuple[str, str]]:
    """Lists the calls of fused functions in `main`, in order.

    Args:
        mod: A lowered module.

    Returns:
        Pairs of the bound variable's name and the called function's name.
    """
    call_tir = tvm.ir.Op.get("relax.call_tir")
    return [
        (binding.var.name, binding.value.args[0].name_hint)
        for block in mod["main"].body.blocks
        for binding in block.bindings
        if isinstance(binding.value, relax.Call) and binding.value.op.same_as(call_tir)
    ]
