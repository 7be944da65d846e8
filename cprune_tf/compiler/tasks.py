"""The task table: which distinct workloads a lowered model has, and whose layers they are.

A subgraph is one fused call of the compiled model; a task is one distinct workload (structural
hash), shared by one or more subgraphs. What ties a subgraph to Keras layers is exact: the names its
parameters were imported under, and data flow (see compiler.importer.provenance).

A task has an alternative for each other lowering that matches its subgraphs. Where a lowering's
code depends on weights, subgraphs that are computed alike directly are different workloads in that
lowering, or some cannot be lowered so at all. They are different tasks then: the subgraphs of one
task always have the same alternatives.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence

import tvm
from tvm import relax
from tvm.s_tir import meta_schedule as ms

from cprune_tf.compiler import tvm_internals
from cprune_tf.compiler.building import lowering
from cprune_tf.compiler.building.replacing import Replacement, replace_operators
from cprune_tf.compiler.database import Program, ProgramDatabase
from cprune_tf.compiler.importer import ImportedModel
from cprune_tf.compiler.importer.provenance import trace_calls
from cprune_tf.compiler.lowerings import (
    DIRECT,
    Lowering,
    OperatorCall,
    alternative_lowerings,
    find_lowering,
)


@dataclasses.dataclass(frozen=True)
class Subgraph:
    """One fused operator group of the compiled model.

    Attributes:
        call: The variable its result is bound to in the lowered `main`.
        function: The fused function's name.
        layers: Keras layers it computes, in model order.
    """

    call: str
    function: str
    layers: tuple[str, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """One distinct tunable workload.

    Attributes:
        name: Readable and unique within the model, e.g. "conv2d_add_relu#2".
        mod: The workload, as the database is keyed by.
        key: Unique within the model: the structural hash of mod; where several tasks have the same
            mod and other alternatives, a hash of theirs as well.
        subgraphs: Which calls share it.
        flops: Floating point operations of one call (a multiply-add is two), counted for the
            direct computation whatever the lowering.
        lowering: The name of the lowering that it is computed in.
        alternatives: Other lowerings of the same subgraphs; measurements decide.
    """

    name: str
    mod: tvm.IRModule
    key: int
    subgraphs: tuple[Subgraph, ...]
    flops: float
    lowering: str = DIRECT
    alternatives: tuple[Task, ...] = ()

    @property
    def lowerings(self) -> tuple[Task, ...]:
        """Itself and its alternatives."""
        return (self, *self.alternatives)

    def in_lowering(self, name: str) -> Task | None:
        """Itself or its alternative in a lowering; None where it has none.

        Args:
            name: The lowering's.
        """
        return next((task for task in self.lowerings if task.lowering == name), None)

    def fastest(self, database: ProgramDatabase) -> tuple[Task, Program] | None:
        """The fastest measured program among all lowerings, and which lowering it is of."""
        best = [
            (programs[0].latency_ms, number, programs[0])
            for number, lowered in enumerate(self.lowerings)
            if (programs := database.programs(lowered.mod, 1))
        ]
        if not best:
            return None
        _, number, program = min(best, key=lambda item: item[:2])
        return self.lowerings[number], program

    def best_latency_ms(self, database: ProgramDatabase) -> float | None:
        """Of the fastest measured program among all lowerings; None where there is none."""
        fastest = self.fastest(database)
        return fastest[1].latency_ms if fastest else None

    @property
    def weight(self) -> int:
        """How many subgraphs share the task."""
        return len(self.subgraphs)

    @property
    def kind(self) -> str:
        """Its operators, without the number that makes the name unique."""
        return self.name.split("#")[0]

    @property
    def layers(self) -> tuple[str, ...]:
        """The Keras layers of all its subgraphs, in model order."""
        return tuple(dict.fromkeys(layer for part in self.subgraphs for layer in part.layers))

    @property
    def argument_shapes(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """(dtype, shape) of each argument; its result is the last one."""
        return tuple(
            (str(info.dtype), tuple(int(size) for size in info.shape))
            for info in ms.arg_info.ArgInfo.from_prim_func(self.mod["main"])
        )


@dataclasses.dataclass(frozen=True, eq=False)
class LoweredModel:
    """A model as the compiler sees it.

    Attributes:
        imported: What was lowered.
        grouped: The model's operators before each group is fused; see lowering.group_operators.
        mod: The lowered module, every operator computed directly.
        operators: The operators of each subgraph in order, by Subgraph.call.
        params: Parameter values by name, in the order of main's parameters.
        target: What it is lowered for.
        tasks: Its distinct workloads, in order of first use.
    """

    imported: ImportedModel
    grouped: tvm.IRModule
    mod: tvm.IRModule
    operators: Mapping[str, tuple[OperatorCall, ...]]
    params: Mapping[str, object]
    target: tvm.target.Target
    tasks: tuple[Task, ...]

    def lowered_as(self, assignment: Mapping[str, str]) -> tvm.IRModule:
        """The module with some subgraphs computed in other lowerings.

        Args:
            assignment: A lowering's name by Subgraph.call; what is not named is computed directly.

        Returns:
            Module whose `main` calls fused functions, and functions that only transform weights.

        Raises:
            ValueError: There is no such lowering or subgraph, or the lowering does not match.
        """
        replacements = {}
        for call, name in assignment.items():
            if name == DIRECT:
                continue
            chosen = _replacement(find_lowering(name), self.operators.get(call, ()), self.target)
            if chosen is None:
                raise ValueError(
                    f"The subgraph {call!r} cannot be computed in the lowering {name!r}: it has no "
                    "operator that this lowering matches."
                )
            replacements[call] = chosen
        if not replacements:
            return self.mod
        return lowering.fuse_groups(replace_operators(self.grouped, replacements), self.target)

    def latency_ms(self, database: ProgramDatabase) -> float:
        """The sum of all subgraphs' best measured latencies.

        Raises:
            KeyError: If a task was never measured.
        """
        total = 0.0
        for task in self.tasks:
            best = task.best_latency_ms(database)
            if best is None:
                raise KeyError(f"Task {task.name} ({', '.join(task.layers)}) was never measured.")
            total += best * task.weight
        return total


def lower_model(imported: ImportedModel, target: tvm.target.Target) -> LoweredModel:
    """Lowers an imported model and finds its tasks.

    Args:
        imported: From compiler.importer.import_model.
        target: What is compiled for.

    Returns:
        The lowered model with its task table.
    """
    legal = lowering.legalize_operators(imported.mod, target)
    grouped = lowering.group_operators(legal, target)
    mod = lowering.fuse_groups(grouped, target)
    traced = trace_calls(mod, imported, legal)
    subgraphs = [
        Subgraph(call, function, traced[call].layers)
        for call, function in lowering.subgraph_calls(mod)
    ]
    operators = _operators(imported, {call: one.operators for call, one in traced.items()})
    workloads = _Workloads()
    direct = {part.call: workloads.add(mod[part.function]) for part in subgraphs}
    alternatives: dict[str, dict[str, int]] = {part.call: {} for part in subgraphs}
    for other in alternative_lowerings():
        replacements = {
            call: replacement
            for call, parts in operators.items()
            if (replacement := _replacement(other, parts, target)) is not None
        }
        if not replacements:
            continue
        replaced = lowering.fuse_groups(replace_operators(grouped, replacements), target)
        for call, function in lowering.subgraph_calls(replaced):
            if call in replacements:
                alternatives[call][other.name] = workloads.add(replaced[function])
    tasks = _task_table(subgraphs, direct, alternatives, workloads.modules)
    return LoweredModel(imported, grouped, mod, operators, imported.params, target, tasks)


class _Workloads:
    """Distinct workloads by their structural hash."""

    def __init__(self) -> None:
        self.modules: dict[int, tvm.IRModule] = {}
        self._keys: dict[tvm.tirx.PrimFunc, int] = {}

    def add(self, function: tvm.tirx.PrimFunc) -> int:
        """A fused function's key."""
        if function not in self._keys:
            module = tvm_internals.normalize_task_module(function)
            self._keys[function] = tvm_internals.structural_hash(module)
            self.modules.setdefault(self._keys[function], module)
        return self._keys[function]


def _operators(
    imported: ImportedModel, traced: Mapping[str, Sequence[str]]
) -> dict[str, tuple[OperatorCall, ...]]:
    """The operators of each subgraph, from the variables that they are bound to."""
    calls = {
        binding.var.name: binding.value
        for block in imported.mod["main"].body.blocks
        for binding in block.bindings
    }
    return {
        call: tuple(_operator_call(imported, calls[name]) for name in names)
        for call, names in traced.items()
    }


def _operator_call(imported: ImportedModel, call: relax.Call) -> OperatorCall:
    names = [value.name for value in call.args if isinstance(value, relax.Var)]
    parameters = {name: imported.params[name] for name in names if name in imported.params}
    return OperatorCall(call, parameters)


def _replacement(
    other: Lowering, operators: Sequence[OperatorCall], target: tvm.target.Target
) -> Replacement | None:
    """The first operator of a subgraph that a lowering matches, to be computed that way."""
    for position, operator in enumerate(operators):
        if all(isinstance(value, relax.Var) for value in operator.call.args) and other.matches(
            operator, target
        ):
            return Replacement(position, operator, other)
    return None


def _task_table(
    subgraphs: Sequence[Subgraph],
    direct: Mapping[str, int],
    alternatives: Mapping[str, Mapping[str, int]],
    modules: Mapping[int, tvm.IRModule],
) -> tuple[Task, ...]:
    """Groups subgraphs that are the same workload in every lowering.

    Args:
        subgraphs: Those of the model, in order.
        direct: The key of each one's direct workload, by Subgraph.call.
        alternatives: The keys of its other workloads, by Subgraph.call and lowering.
        modules: The workload of each key.
    """
    grouped: dict[tuple[int, tuple[tuple[str, int], ...]], list[Subgraph]] = {}
    for part in subgraphs:
        others = tuple(alternatives[part.call].items())
        grouped.setdefault((direct[part.call], others), []).append(part)
    direct_keys = [key for key, _ in grouped]
    used: dict[str, int] = {}
    tasks = []
    for (key, others), parts in grouped.items():
        base = _base_name(parts[0].function, modules[key])
        used[base] = used.get(base, 0) + 1
        name = base if used[base] == 1 else f"{base}#{used[base]}"
        is_split = direct_keys.count(key) > 1
        task = Task(
            name=name,
            mod=modules[key],
            key=_mixed(key, others) if is_split else key,
            subgraphs=tuple(parts),
            flops=tvm_internals.estimate_flops(modules[key]),
        )
        alternative_tasks = tuple(
            dataclasses.replace(
                task, name=f"{name} ({other})", mod=modules[own], key=own, lowering=other
            )
            for other, own in others
        )
        tasks.append(dataclasses.replace(task, alternatives=alternative_tasks))
    return tuple(tasks)


def _mixed(key: int, others: Sequence[tuple[str, int]]) -> int:
    """A key that also depends on the alternatives; the same in every process."""
    content = repr((key, others)).encode()
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "big")


def _base_name(function: str, mod: tvm.IRModule) -> str:
    """A fused function's name without prefix and the counters TVM appends to each operator.

    TVM calls grouped convolutions like others; they are told apart by their loops.
    """
    words = function.removeprefix("fused_").split("_")
    known = [
        word.rstrip("0123456789") if word not in ("conv2d", "conv1d") else word for word in words
    ]
    return tvm_internals.convolution_group_prefix(mod) + "_".join(word for word in known if word)
