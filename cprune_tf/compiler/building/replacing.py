"""Puts other lowerings of operators into a model's groups, before these are fused.

Which operators are fused is decided once, for the direct lowering. A lowering's call takes the
place of the direct one inside its group; what it does to weights goes in front of the group.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import tvm
from tvm import relax

from cprune_tf.compiler import tvm_internals
from cprune_tf.compiler.lowerings import Lowering, OperatorCall

# relax's OpPatternKind kOutEWiseFusable, as a direct convolution has it. It is part of the database
# key of a function that nothing is fused to.
_OUT_ELEMENTWISE_FUSABLE = 4


class LoweringError(ValueError):
    """A lowering's legalisation does not have the form that `Lowering.legalize` asks for."""


@dataclasses.dataclass(frozen=True, eq=False)
class Replacement:
    """One operator of a group, and what computes it.

    Attributes:
        position: Which of the group's calls of functions it is.
        operator: The operator.
        lowering: One that matches it.
    """

    position: int
    operator: OperatorCall
    lowering: Lowering


def replace_operators(mod: tvm.IRModule, replacements: Mapping[str, Replacement]) -> tvm.IRModule:
    """Computes some operators in other lowerings.

    Args:
        mod: From lowering.group_operators.
        replacements: By the name of the variable in `main` that the group's result is bound to.

    Returns:
        The same groups under the same names; calls that transform weights stand before the groups
        that read their results.

    Raises:
        LoweringError: A legalisation has not the form that Lowering.legalize asks for.
    """
    main = mod["main"]
    builder = relax.BlockBuilder(mod)
    parameters = set(main.params[int(main.attrs["num_input"]) :])
    blocks = []
    for block in main.body.blocks:
        bindings: list[Any] = []
        for binding in block.bindings:
            replacement = replacements.get(binding.var.name)
            if replacement is None:
                bindings.append(binding)
            else:
                bindings += _Replacing(builder, mod, binding, replacement, parameters).bindings()
        blocks.append(type(block)(bindings))
    body = relax.SeqExpr(blocks, main.body.body)
    functions = dict(builder.get().functions.items())
    functions[mod.get_global_var("main")] = relax.Function(
        main.params, body, main.ret_ty, main.is_pure, main.attrs
    )
    return tvm.IRModule(functions, attrs=mod.attrs)


class _Replacing:
    """Replaces one operator of one group.

    Args:
        builder: Receives the new functions.
        mod: The grouped module.
        binding: The group's call in `main`, or the operator's own where nothing is fused to it.
        replacement: See Replacement.
        parameters: Those of `main`.
    """

    def __init__(
        self,
        builder: relax.BlockBuilder,
        mod: tvm.IRModule,
        binding: Any,
        replacement: Replacement,
        parameters: set[Any],
    ) -> None:
        self._builder = builder
        self._binding = binding
        self._replacement = replacement
        self._parameters = parameters
        self._group = None if _is_call_tir(binding.value) else mod[binding.value.op]
        # What the variables inside the group are called outside.
        self._outside: dict[Any, Any] = {}
        self._inside = [binding]
        if self._group is not None:
            self._outside.update(zip(self._group.params, binding.value.args, strict=True))
            self._inside = [b for block in self._group.body.blocks for b in block.bindings]

    def bindings(self) -> list[Any]:
        """The weights' transforms, then the group's call."""
        calls = [number for number, b in enumerate(self._inside) if _is_call_tir(b.value)]
        number = calls[self._replacement.position]
        before = self._inside[number].value
        transforms, call = self._legalized(before)
        if self._group is None:
            return [*transforms, relax.VarBinding(self._binding.var, call)]
        self._inside[number] = relax.VarBinding(self._inside[number].var, call)
        return [*transforms, relax.VarBinding(self._binding.var, self._new_group_call())]

    def _legalized(self, before: Any) -> tuple[list[Any], Any]:
        """The lowering's calls with this model's variables: weights' transforms, and its own."""
        legal = _legalized_alone(self._replacement)
        operands = list(before.args[1])
        arguments = list(legal["main"].params)
        given = [tvm_internals.structural_equal(*pair) for pair in _types(operands, arguments)]
        if len(operands) != len(arguments) or not all(given):
            self._refuse(
                f"the direct call reads {[str(o.ty) for o in operands]}",
                f"the operator's own arguments {[str(a.ty) for a in arguments]}",
            )
        values = dict(zip(arguments, operands, strict=True))
        transforms: list[Any] = []
        calls = [b for block in legal["main"].body.blocks for b in block.bindings]
        for number, binding in enumerate(calls):
            if not _is_call_tir(binding.value):
                self._refuse(f"{binding.value} is emitted", "calls of functions of TIR only")
            callee, read, *_ = binding.value.args
            reads = [values.get(argument, argument) for argument in read]
            is_last = number == len(calls) - 1
            # te.create_prim_func calls every function "main".
            function = legal[callee].without_attr("global_symbol")
            if is_last:
                function = function.with_attr("op_pattern", _OUT_ELEMENTWISE_FUSABLE)
            own = self._builder.add_func(function, callee.name_hint)
            if is_last:
                if not tvm_internals.structural_equal(binding.var.ty, before.ty_args[0]):
                    self._refuse(f"a {binding.var.ty} is computed", str(before.ty_args[0]))
                return transforms, relax.call_tir(own, reads, list(before.ty_args))
            outside = [self._outside.get(value, value) for value in reads]
            if not all(self._is_weight(value, transforms) for value in outside):
                self._refuse(f"{callee.name_hint} reads data", "only the last call to do so")
            name = f"{self._binding.var.name}_{self._replacement.lowering.name}_{number}"
            variable = relax.DataflowVar(name, binding.var.ty)
            call = relax.call_tir(own, outside, list(binding.value.ty_args))
            transforms.append(relax.VarBinding(variable, call))
            values[binding.var] = variable
        return self._refuse("nothing is computed", "a call that reads data")

    def _is_weight(self, value: Any, transforms: list[Any]) -> bool:
        """Whether a value outside the group is known when a library is built."""
        known = value in self._parameters or isinstance(value, tvm.ir.GenericConst)
        return known or any(value.same_as(binding.var) for binding in transforms)

    def _new_group_call(self) -> relax.Call:
        """The call of the group as it is now: what it reads from outside are its parameters."""
        bound: set[Any] = set()
        parameters: dict[Any, Any] = {}
        bindings = []
        for binding in self._inside:
            if not _is_call_tir(binding.value):  # a tuple, or a field of one
                free = relax.analysis.free_vars(binding.value)
                if not all(variable in bound for variable in free):
                    self._refuse(f"its group reads {binding.value}", "values of its own in tuples")
                bindings.append(binding)
                bound.add(binding.var)
                continue
            callee, read, *_ = binding.value.args
            reads = []
            for value in read:
                if value not in bound and value not in parameters:
                    name = getattr(value, "name", f"constant{len(parameters)}")
                    parameters[value] = relax.Var(name, value.ty)
                reads.append(value if value in bound else parameters[value])
            call = relax.call_tir(callee, reads, list(binding.value.ty_args))
            bindings.append(relax.VarBinding(binding.var, call))
            bound.add(binding.var)
        group = self._group
        assert group is not None
        body = relax.SeqExpr([relax.DataflowBlock(bindings)], group.body.body)
        function = relax.Function(
            list(parameters.values()), body, group.ret_ty, group.is_pure, group.attrs
        )
        before = self._binding.value.op.name_hint
        own = self._builder.add_func(function, f"{before}_{self._replacement.lowering.name}")
        return relax.Call(own, [self._outside.get(value, value) for value in parameters])

    def _refuse(self, received: str, expected: str) -> Any:
        operator, lowering = self._replacement.operator, self._replacement.lowering
        raise LoweringError(
            f"The lowering {lowering.name!r} cannot replace {operator.operator}: {received}; "
            f"expected {expected}. See docs/lowerings.md."
        )


def _legalized_alone(replacement: Replacement) -> tvm.IRModule:
    """A module that computes one operator in its lowering, and nothing else."""
    call = replacement.operator.call
    builder = relax.BlockBuilder()
    with builder.function("main", list(dict.fromkeys(call.args))):
        with builder.dataflow():
            result = replacement.lowering.legalize(builder, replacement.operator)
            output = builder.emit_output(result)
        builder.emit_func_output(output)
    passes = [relax.transform.LegalizeOps(), relax.transform.CanonicalizeBindings()]
    return tvm.transform.Sequential(passes)(builder.get())


def _types(*groups: Any) -> list[tuple[Any, ...]]:
    return [tuple(value.ty for value in values) for values in zip(*groups, strict=False)]


def _is_call_tir(value: Any) -> bool:
    return isinstance(value, relax.Call) and value.op.same_as(tvm.ir.Op.get("relax.call_tir"))
