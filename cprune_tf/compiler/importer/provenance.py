"""Finds the Keras layers that every fused call of a compiled model computes, or raises an error.

Experiments with TVM 0.27 showed what survives the passes LegalizeOps, AnnotateTIROpPattern,
FoldConstant, FuseOps and FuseTIR:

- Spans (SourceName) set on Relax calls do not survive LegalizeOps.
- Names of bound variables survive LegalizeOps, and those of operators that are not fused survive
  all passes. FuseOps renames the last operator of a group: it becomes "gv" inside the group and
  "lv..." outside. FuseTIR then dissolves the group, which removes all names inside it.
- Names of main's parameters survive all passes, but add, pooling and softmax have no parameters.
- The name of the function that an operator calls survives FuseOps.
- The names that FuseOps creates ("lv", "gv") may repeat existing ones, so the importer avoids them.

Fusion is deterministic, so this module repeats it on the imported module with one change: after
LegalizeOps, every operator calls a separate function, whose name identifies the operator. FuseOps
looks at a function's pattern and shapes and not at its name, so it forms the same groups; the
functions that a group calls then tell which operators it holds. The calls of the fused module are
matched to these groups along the data flow, from main's inputs and parameters to its outputs: the
values that a call reads identify it. Calls that read the same values (a max and a mean of one
tensor) are distinguished by the name of the variable they bind, which FuseTIR keeps. If that fails
too, an error is raised; nothing is guessed.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import tvm
from tvm import relax

from cprune_tf.compiler.importer.importing import ImportedModel

# Identifies a value in main: ("param", name), ("call", number of the fusion group), ...
ValueId = tuple[Any, ...]


class ProvenanceError(ValueError):
    """A fused call cannot be tied to Keras layers with certainty."""


@dataclasses.dataclass(frozen=True)
class _Group:
    """One fusion group: a call in main after FuseOps.

    Attributes:
        number: The position among main's groups.
        name: The name of the variable that the call is bound to.
        signature: The identities of the values that the call reads, then the type of its result.
        operators: The group's operators, by the variables that the imported module binds them to.
    """

    number: int
    name: str
    signature: tuple[Any, ...]
    operators: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class FusedCall:
    """What one call of a fused module's main computes.

    Attributes:
        layers: The Keras layers, in the order in which they are computed. For a call that only
            rearranges parameters, these are the layers that the parameters came from.
        operators: The operators that are fused to the call, in order, by the variables that the
            imported module binds them to; empty for a call that only rearranges parameters.
    """

    layers: tuple[str, ...]
    operators: tuple[str, ...]


def provenance(fused_mod: tvm.IRModule, imported: ImportedModel) -> dict[str, tuple[str, ...]]:
    """Maps every call_tir of a fused module's main to the Keras layers it computes.

    Args:
        fused_mod: See `trace_calls`.
        imported: The imported model.

    Returns:
        Name of the bound variable -> layer names, in the order the layers are computed.

    Raises:
        ProvenanceError: See `trace_calls`.
    """
    return {name: call.layers for name, call in trace_calls(fused_mod, imported).items()}


def trace_calls(
    fused_mod: tvm.IRModule, imported: ImportedModel, legal: tvm.IRModule | None = None
) -> dict[str, FusedCall]:
    """Maps every call_tir of a fused module's main to what it computes.

    Args:
        fused_mod: What the standard passes up to FuseTIR made of `imported.mod`; dead code may
            have been removed, weights marked for layout rewriting and a tuning database applied
            since, but not LiftTransformParams, which renames the parameters.
        imported: The imported model.
        legal: What LegalizeOps made of `imported.mod`, for a caller that has it.

    Returns:
        Name of the bound variable -> what the call computes.

    Raises:
        ProvenanceError: The module was not compiled from this import, or a pass renamed variables
            that are needed to distinguish calls.
    """
    groups_by_signature: dict[tuple[Any, ...], list[_Group]] = {}
    for group in _fusion_groups(imported, legal):
        groups_by_signature.setdefault(group.signature, []).append(group)
    values = _Values(fused_mod["main"])
    result: dict[str, FusedCall] = {}
    for binding in _bindings(fused_mod["main"]):
        if not _is_call_tir(binding.value):
            values.bind_plain(binding)
            continue
        name = binding.var.name
        if name in result:
            raise ProvenanceError(
                f"Two calls are bound to the name {name!r}; expected unique names. Use the module "
                "as the passes up to FuseTIR return it."
            )
        matching_group = _choose(groups_by_signature.get(values.signature(binding), []), name)
        if matching_group is not None:
            values.bind(binding.var, ("call", matching_group.number))
            layers = _union(imported.layers_of_var[var] for var in matching_group.operators)
            result[name] = FusedCall(layers, matching_group.operators)
            continue
        params = values.param_arguments(binding)
        if params is None:
            raise ProvenanceError(
                f"The call bound to {name!r} matches no fusion group of the imported model; "
                "expected the module that the passes up to FuseTIR return for it."
            )
        values.bind(binding.var, params[0] if len(params) == 1 else ("params", *params))
        result[name] = FusedCall(_union(imported.layers_of_param[param[1]] for param in params), ())
    return result


def _choose(groups: list[_Group], name: str) -> _Group | None:
    """Returns the group, among those with a call's signature, that the call belongs to.

    Args:
        groups: The fusion groups with the signature of the call.
        name: The name of the variable that the call is bound to.

    Returns:
        The group, or None if there are no groups.
    """
    if len(groups) <= 1:
        return groups[0] if groups else None
    namesakes = [group for group in groups if group.name == name]
    if len(namesakes) == 1:
        return namesakes[0]
    raise ProvenanceError(
        f"The call bound to {name!r} could be any of {[group.operators for group in groups]}, "
        "which read the same values; expected the variable names that FuseTIR leaves."
    )


def _fusion_groups(imported: ImportedModel, legal: tvm.IRModule | None) -> tuple[_Group, ...]:
    """Repeats the fusion of an imported module, keeping track of its operators."""
    passes = [
        relax.transform.CanonicalizeBindings(),
        relax.transform.AnnotateTIROpPattern(),
        relax.transform.FoldConstant(),
        relax.transform.FuseOps(),
    ]
    with tvm.target.Target.current() or tvm.target.Target({"kind": "llvm"}):
        if legal is None:
            legal = relax.transform.LegalizeOps()(imported.mod)
        separate_mod, operator_of_function = _with_separate_functions(legal)
        mod = tvm.transform.Sequential(passes)(separate_mod)
    values = _Values(mod["main"])
    groups: list[_Group] = []
    for binding in _bindings(mod["main"]):
        functions = _operator_functions(binding.value, mod)
        if not functions:
            values.bind_plain(binding)
            continue
        operators = tuple(operator_of_function[function] for function in functions)
        groups.append(_Group(len(groups), binding.var.name, values.signature(binding), operators))
        values.bind(binding.var, ("call", groups[-1].number))
    return tuple(groups)


def _with_separate_functions(mod: tvm.IRModule) -> tuple[tvm.IRModule, dict[str, str]]:
    """Gives every call_tir of main a function of its own.

    Returns:
        The new module, and the name of each such function -> the variable its operator is bound to.
    """
    builder = relax.BlockBuilder(mod)
    main = mod["main"]
    operator_of_function: dict[str, str] = {}
    blocks = []
    for block in main.body.blocks:
        bindings = []
        for binding in block.bindings:
            call = binding.value
            if _is_call_tir(call):
                number = len(operator_of_function)
                # The attribute keeps the builder from reusing an equal function.
                copy = mod[call.args[0]].with_attr("cprune_tf.operator", number)
                function = builder.add_func(copy, f"operator{number}_")
                operator_of_function[function.name_hint] = binding.var.name
                call = relax.Call(call.op, [function, *call.args[1:]], call.attrs, call.ty_args)
            bindings.append(relax.VarBinding(binding.var, call))
        blocks.append(type(block)(bindings))
    body = relax.SeqExpr(blocks, main.body.body)
    separate_mod = builder.get()
    separate_mod["main"] = relax.Function(main.params, body, main.ret_ty, main.is_pure, main.attrs)
    return separate_mod, operator_of_function


def _operator_functions(value: Any, mod: tvm.IRModule) -> list[str]:
    """Returns the names of the operator functions that a call of main after FuseOps leads to."""
    if _is_call_tir(value):
        return [value.args[0].name_hint]
    if isinstance(value, relax.Call) and isinstance(value.op, tvm.ir.GlobalVar):
        group = mod[value.op]
        return [
            name for binding in _bindings(group) for name in _operator_functions(binding.value, mod)
        ]
    return []


class _Values:
    """The identities of the values bound in one main function."""

    def __init__(self, main: relax.Function):
        self._ids: dict[relax.Var, ValueId] = {
            param: ("param", param.name) for param in main.params
        }
        self._num_inputs = int(main.attrs["num_input"])
        self._inputs = {("param", param.name) for param in main.params[: self._num_inputs]}

    def bind(self, var: relax.Var, value_id: ValueId) -> None:
        """Records the identity of the value that a variable holds."""
        self._ids[var] = value_id

    def bind_plain(self, binding: Any) -> None:
        """Records a binding that computes nothing: an alias, a tuple or a field of a tuple."""
        self._ids[binding.var] = self._id_of(binding.value)

    def signature(self, binding: Any) -> tuple[Any, ...]:
        """Returns the identities of the values that a call reads, then the type of its result."""
        return (*self._arguments(binding.value), str(binding.var.ty))

    def param_arguments(self, binding: Any) -> list[ValueId] | None:
        """Returns the parameters that a call reads, or None if it reads anything else."""
        ids = self._arguments(binding.value)
        is_param = [value[0] == "param" and value not in self._inputs for value in ids]
        return ids if ids and all(is_param) else None

    def _arguments(self, call: Any) -> list[ValueId]:
        args = call.args[1:] if _is_call_tir(call) else call.args
        ids: list[ValueId] = []
        for arg in args:
            fields = arg.fields if isinstance(arg, relax.Tuple) else [arg]
            ids.extend(self._id_of(field) for field in fields)
        return ids

    def _id_of(self, expr: Any) -> ValueId:
        if isinstance(expr, relax.Var):
            return self._ids[expr]
        if isinstance(expr, relax.Tuple):
            return ("tuple", *(self._id_of(field) for field in expr.fields))
        if isinstance(expr, relax.TupleGetItem):
            whole = self._id_of(expr.tuple_value)
            return whole[1 + expr.index] if whole[0] == "tuple" else ("get", whole, expr.index)
        if isinstance(expr, tvm.ir.GenericConst):
            data = expr.value.numpy()
            return ("constant", str(expr.ty), hashlib.sha256(data.tobytes()).hexdigest())
        return (type(expr).__name__, str(expr))


def _bindings(function: relax.Function) -> Iterator[Any]:
    for block in function.body.blocks:
        yield from block.bindings


def _is_call_tir(value: Any) -> bool:
    return isinstance(value, relax.Call) and value.op == tvm.ir.Op.get("relax.call_tir")


def _union(names: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for group in names for name in group))
