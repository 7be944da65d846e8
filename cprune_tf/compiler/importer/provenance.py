"""Which Keras layers every fused call of a compiled model computes: exact, or an error.

What survives the passes LegalizeOps, AnnotateTIROpPattern, FoldConstant, FuseOps and FuseTIR was
tried out with TVM 0.27:

- Spans (SourceName) set on Relax calls are gone after LegalizeOps.
- Names of bound variables survive LegalizeOps and, for operators left alone, everything. Of the
  operators FuseOps groups, the last one's name is lost: it is "gv" inside the group and "lv..."
  outside. FuseTIR then dissolves the group, and with it all inner names.
- Names of main's parameters survive everything, but add, pooling and softmax have none.
- The name of the function an operator calls survives FuseOps.
- FuseOps' own names ("lv", "gv") may repeat a kept one, so the importer binds no such names.

So fusion is repeated on the imported module (it is deterministic) with one change: after
LegalizeOps every operator calls a function of its own, whose name stands for the operator. FuseOps
looks at a function's pattern and shapes, not at its name, and groups exactly as it did; the
functions called in a group then say which operators it holds. The calls of the given module are
tied to these groups along the data flow, from main's inputs and parameters to its outputs: a call
is known by the values it reads. Calls that read the same values (a max and a mean of one tensor)
are told apart by the name of the variable they bind, which FuseTIR keeps; where that fails there is
an error, no guess.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import tvm
from tvm import relax

from cprune_tf.compiler.importer.importing import ImportedModel

# What identifies a value in main: ("param", name), ("call", number of its fusion group), ...
ValueId = tuple[Any, ...]


class ProvenanceError(ValueError):
    """A fused call that cannot be tied to Keras layers with certainty."""


@dataclasses.dataclass(frozen=True)
class _Group:
    """One call of main after FuseOps.

    Attributes:
        number: Position in main.
        name: Of the bound variable.
        reads: The values it reads and the type it yields.
        operators: The operators in it, by the variables that the imported module binds them to.
    """

    number: int
    name: str
    reads: tuple[Any, ...]
    operators: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class FusedCall:
    """What one call of a fused module's main computes.

    Attributes:
        layers: Keras layers, in the order they are computed; of a call that only rearranges
            parameters, the layers the parameters came from.
        operators: The operators fused to it, in order, by the variables that the imported module
            binds them to; empty for a call that only rearranges parameters.
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
        ProvenanceError: The module was not made from this import, or by passes that renamed
            what cannot be told apart otherwise.
    """
    candidates: dict[tuple[Any, ...], list[_Group]] = {}
    for group in _fusion_groups(imported, legal):
        candidates.setdefault(group.reads, []).append(group)
    values = _Values(fused_mod["main"])
    result: dict[str, FusedCall] = {}
    for binding in _bindings(fused_mod["main"]):
        if not _is_call_tir(binding.value):
            values.bind_plain(binding)
            continue
        name = binding.var.name
        if name in result:
            raise ProvenanceError(
                f"Two calls are bound to the name {name!r}; expected unique names."
            )
        group_found = _choose(candidates.get(values.reads(binding), []), name)
        if group_found is not None:
            values.bind(binding.var, ("call", group_found.number))
            layers = _union(imported.layers_of_var[var] for var in group_found.operators)
            result[name] = FusedCall(layers, group_found.operators)
            continue
        params = values.params_read(binding)
        if params is None:
            raise ProvenanceError(
                f"The call bound to {name!r} matches no fusion group of the imported model; "
                "expected the module that the passes up to FuseTIR make of it."
            )
        values.bind(binding.var, params[0] if len(params) == 1 else ("params", *params))
        result[name] = FusedCall(_union(imported.layers_of_param[param[1]] for param in params), ())
    return result


def _choose(candidates: list[_Group], name: str) -> _Group | None:
    """The group a call belongs to, among those that read the same values."""
    if len(candidates) <= 1:
        return candidates[0] if candidates else None
    named = [group for group in candidates if group.name == name]
    if len(named) == 1:
        return named[0]
    raise ProvenanceError(
        f"The call bound to {name!r} could be any of {[group.operators for group in candidates]}, "
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
        tracked, operator_of_function = _with_own_functions(legal)
        mod = tvm.transform.Sequential(passes)(tracked)
    values = _Values(mod["main"])
    groups: list[_Group] = []
    for binding in _bindings(mod["main"]):
        functions = _operator_functions(binding.value, mod)
        if not functions:
            values.bind_plain(binding)
            continue
        operators = tuple(operator_of_function[function] for function in functions)
        groups.append(_Group(len(groups), binding.var.name, values.reads(binding), operators))
        values.bind(binding.var, ("call", groups[-1].number))
    return tuple(groups)


def _with_own_functions(mod: tvm.IRModule) -> tuple[tvm.IRModule, dict[str, str]]:
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
                own = mod[call.args[0]].with_attr("cprune_tf.operator", number)
                function = builder.add_func(own, f"operator{number}_")
                operator_of_function[function.name_hint] = binding.var.name
                call = relax.Call(call.op, [function, *call.args[1:]], call.attrs, call.ty_args)
            bindings.append(relax.VarBinding(binding.var, call))
        blocks.append(type(block)(bindings))
    body = relax.SeqExpr(blocks, main.body.body)
    tracked = builder.get()
    tracked["main"] = relax.Function(main.params, body, main.ret_ty, main.is_pure, main.attrs)
    return tracked, operator_of_function


def _operator_functions(value: Any, mod: tvm.IRModule) -> list[str]:
    """The names of the functions a call of main after FuseOps comes down to, in order."""
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
        """Says what a variable holds."""
        self._ids[var] = value_id

    def bind_plain(self, binding: Any) -> None:
        """Notes a binding that computes nothing: another name, a tuple, a tuple's field."""
        self._ids[binding.var] = self._id_of(binding.value)

    def reads(self, binding: Any) -> tuple[Any, ...]:
        """What a call is known by: the values it reads, and the type of what it yields."""
        return (*self._arguments(binding.value), str(binding.var.ty))

    def params_read(self, binding: Any) -> list[ValueId] | None:
        """The parameters a call reads, or None if it reads anything else."""
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
