"""Replaces operators in a model's groups by other lowerings, before the groups are fused.

Which operators are fused is decided once, for the direct lowering. Another lowering's call replaces
the direct call inside its group. The calls that transform weights are placed before the group.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import tvm
from tvm import relax

from cprune_tf.compiler import tvm_internals
from cprune_tf.compiler.lowerings import Lowering, OperatorCall

# Relax's OpPatternKind kOutEWiseFusable, which a direct convolution has too. If nothing is fused to
# a function, this attribute is part of the function's database key.
_OUT_ELEMENTWISE_FUSABLE = 4


class LoweringError(ValueError):
    """A lowering's legalisation does not have the form that `Lowering.legalize` requires."""


@dataclasses.dataclass(frozen=True, eq=False)
class Replacement:
    """One operator of a group and the lowering that is to compute it.

    Attributes:
        position: The index of the operator's call among the group's calls of TIR functions.
        operator: The operator.
        lowering: A lowering that matches the operator.
    """

    position: int
    operator: OperatorCall
    lowering: Lowering


def replace_operators(mod: tvm.IRModule, replacements: Mapping[str, Replacement]) -> tvm.IRModule:
    """Computes some operators in other lowerings.

    Args:
        mod: A module from lowering.group_operators.
        replacements: The replacements, by the name of the variable in `main` that the group's
            result is bound to.

    Returns:
        A module in which the results of the groups are bound to the same names. Calls that
        transform weights stand before the groups that read their results.

    Raises:
        LoweringError: If a legalisation does not have the form that Lowering.legalize requires.
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
                bindings += _GroupRewriter(
                    builder, mod, binding, replacement, parameters
                ).bindings()
        blocks.append(type(block)(bindings))
    body = relax.SeqExpr(blocks, main.body.body)
    functions = dict(builder.get().functions.items())
    functions[mod.get_global_var("main")] = relax.Function(
        main.params, body, main.ret_ty, main.is_pure, main.attrs
    )
    return tvm.IRModule(functions, attrs=mod.attrs)


class _GroupRewriter:
    """Replaces one operator of one group.

    Args:
        builder: The builder that receives the new functions.
        mod: The grouped module.
        binding: The binding in `main` of the group's call, or of the operator's call if nothing is
            fused to the operator.
        replacement: The operator to replace and its lowering.
        parameters: The variables of `main` that hold the model's parameters.
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
        # Maps the group's parameters to the variables of `main` that it is called with.
        self._outside: dict[Any, Any] = {}
        self._inside = [binding]
        if self._group is not None:
            self._outside.update(zip(self._group.params, binding.value.args, strict=True))
            self._inside = [b for block in self._group.body.blocks for b in block.bindings]

    def bindings(self) -> list[Any]:
        """The new bindings for `main`: the weights' transforms, then the group's call."""
        calls = [number for number, b in enumerate(self._inside) if _is_call_tir(b.value)]
        number = calls[self._replacement.position]
        transforms, call = self._legalized(self._inside[number].value)
        if self._group is None:
            return [*transforms, relax.VarBinding(self._binding.var, call)]
        self._inside[number] = relax.VarBinding(self._inside[number].var, call)
        return [*transforms, relax.VarBinding(self._binding.var, self._new_group_call())]

    def _legalized(self, direct_call: Any) -> tuple[list[Any], Any]:
        """Legalises the operator in its lowering, with this model's variables.

        Args:
            direct_call: The call that computes the operator in the direct lowering.

        Returns:
            The bindings that transform weights, and the call that replaces the direct one.
        """
        legal = _legalized_alone(self._replacement)
        operands = list(direct_call.args[1])
        arguments = list(legal["main"].params)
        types_match = [
            tvm_internals.structural_equal(operand.ty, argument.ty)
            for operand, argument in zip(operands, arguments, strict=False)
        ]
        if len(operands) != len(arguments) or not all(types_match):
            self._refuse(
                f"the direct call reads {[str(operand.ty) for operand in operands]}",
                f"the operator's arguments {[str(argument.ty) for argument in arguments]}",
            )
        values = dict(zip(arguments, operands, strict=True))
        transforms: list[Any] = []
        calls = [b for block in legal["main"].body.blocks for b in block.bindings]
        for number, binding in enumerate(calls):
            if not _is_call_tir(binding.value):
                self._refuse(f"{binding.value} is emitted", "calls of functions of TIR only")
            callee, callee_arguments, *_ = binding.value.args
            reads = [values.get(argument, argument) for argument in callee_arguments]
            is_last = number == len(calls) - 1
            # te.create_prim_func gives every function the global symbol "main".
            function = legal[callee].without_attr("global_symbol")
            if is_last:
                function = function.with_attr("op_pattern", _OUT_ELEMENTWISE_FUSABLE)
            new_function = self._builder.add_func(function, callee.name_hint)
            if is_last:
                result_type = direct_call.ty_args[0]
                if not tvm_internals.structural_equal(binding.var.ty, result_type):
                    self._refuse(f"a {binding.var.ty} is computed", str(result_type))
                return transforms, relax.call_tir(new_function, reads, list(direct_call.ty_args))
            outside_reads = [self._outside.get(value, value) for value in reads]
            if not all(self._is_weight(value, transforms) for value in outside_reads):
                self._refuse(f"{callee.name_hint} reads data", "only the last call to do so")
            name = f"{self._binding.var.name}_{self._replacement.lowering.name}_{number}"
            variable = relax.DataflowVar(name, binding.var.ty)
            call = relax.call_tir(new_function, outside_reads, list(binding.value.ty_args))
            transforms.append(relax.VarBinding(variable, call))
            values[binding.var] = variable
        return self._refuse("nothing is computed", "a call that reads data")

    def _is_weight(self, value: Any, transforms: list[Any]) -> bool:
        """Whether a value outside the group can be computed when a library is built."""
        is_constant = value in self._parameters or isinstance(value, tvm.ir.GenericConst)
        return is_constant or any(value.same_as(binding.var) for binding in transforms)

    def _new_group_call(self) -> relax.Call:
        """Makes a function of the changed group and returns its call in `main`.

        The function's parameters are the values that the group reads from outside.
        """
        bound: set[Any] = set()
        parameters: dict[Any, Any] = {}
        bindings = []
        for binding in self._inside:
            if not _is_call_tir(binding.value):  # a tuple or a field of a tuple
                free_variables = relax.analysis.free_vars(binding.value)
                if not all(variable in bound for variable in free_variables):
                    self._refuse(
                        f"its group reads {binding.value}",
                        "tuples of values that the group computes",
                    )
                bindings.append(binding)
                bound.add(binding.var)
                continue
            callee, callee_arguments, *_ = binding.value.args
            reads = []
            for value in callee_arguments:
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
        name = f"{self._binding.value.op.name_hint}_{self._replacement.lowering.name}"
        new_function = self._builder.add_func(function, name)
        return relax.Call(new_function, [self._outside.get(value, value) for value in parameters])

    def _refuse(self, received: str, expected: str) -> Any:
        operator, lowering = self._replacement.operator, self._replacement.lowering
        raise LoweringError(
            f"The lowering {lowering.name!r} cannot replace {operator.operator}: {received}; "
            f"expected {expected}. See docs/lowerings.md."
        )


def _legalized_alone(replacement: Replacement) -> tvm.IRModule:
    """Makes a module that computes only one operator, in its new lowering."""
    call = replacement.operator.call
    builder = relax.BlockBuilder()
    with builder.function("main", list(dict.fromkeys(call.args))):
        with builder.dataflow():
            result = replacement.lowering.legalize(builder, replacement.operator)
            output = builder.emit_output(result)
        builder.emit_func_output(output)
    passes = [relax.transform.LegalizeOps(), relax.transform.CanonicalizeBindings()]
    return tvm.transform.Sequential(passes)(builder.get())


def _is_call_tir(value: Any) -> bool:
    return isinstance(value, relax.Call) and value.op.same_as(tvm.ir.Op.get("relax.call_tir"))
