"""From an imported model to fused functions: what is tuned, measured and compiled.

The passes are the same wherever tasks are extracted or a model is built, so that a task's database
key always matches.
"""

from __future__ import annotations

import tvm
from tvm import relax


def lower(mod: tvm.IRModule, target: tvm.target.Target) -> tvm.IRModule:
    """Fuses operators and marks the weights whose layout the tuner may choose.

    Args:
        mod: Relax module with `main(inputs..., params...)` and attribute `num_input`.
        target: What is compiled for.

    Returns:
        Module whose `main` is a sequence of call_tir of fused functions.
    """
    passes = [
        relax.transform.CanonicalizeBindings(),
        relax.transform.LegalizeOps(),
        relax.transform.AnnotateTIROpPattern(),
        relax.transform.FoldConstant(),
        relax.transform.FuseOps(),
        relax.transform.FuseTIR(),
        relax.transform.DeadCodeElimination(),
        relax.transform.AttachAttrLayoutFreeBuffers(),
    ]
    with target:
        return tvm.transform.Sequential(passes)(mod)


def subgraph_calls(mod: tvm.IRModule) -> list[tuple[str, str]]:
    """The calls of fused functions in `main`, in order.

    Args:
        mod: A lowered module.

    Returns:
        Pairs (name of the bound variable, name of the called function).
    """
    call_tir = tvm.ir.Op.get("relax.call_tir")
    calls = []
    for block in mod["main"].body.blocks:
        for binding in block.bindings:
            value = binding.value
            if isinstance(value, relax.Call) and value.op.same_as(call_tir):
                calls.append((binding.var.name, value.args[0].name_hint))
    return calls
