"""The task table: which distinct workloads a lowered model has, and which layers they compute.

A subgraph is one fused call of the compiled model. A task is one distinct workload (by structural
hash), shared by one or more subgraphs. A subgraph's Keras layers are known exactly: from the names
that its parameters were imported under, and from data flow (see compiler.importer.provenance).

A task has an alternative for each other lowering that matches its subgraphs. The code of a lowering
may depend on weights. Subgraphs that are equal in the direct lowering may then be different
workloads in the other lowering, or it may match only some of them. Such subgraphs belong to
different tasks, so that the subgraphs of one task always have the same alternatives.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence

import tvm
from tvm import relax

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
        call: The name of the variable that the subgraph's result is bound to in the lowered `main`.
        function: The fused function's name.
        layers: The names of the Keras layers that the subgraph computes, in model order.
    """

    call: str
    function: str
    layers: tuple[str, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """One distinct tunable workload.

    Attributes:
        name: A readable name, unique within the model, e.g. "conv2d_add_relu#2".
        mod: The normalised workload: the database's key.
        key: A number, unique within the model: the structural hash of mod. If several tasks share
            mod but have different alternatives, the key is a hash of mod and the alternatives.
        subgraphs: The subgraphs that share the task.
        flops: Floating point operations of one call (a multiply-add is two). They are counted for
            the direct computation, whatever the lowering is.
        lowering: The name of the lowering that the workload is computed in.
        alternatives: The same subgraphs in other lowerings. Measurements decide which is used.
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
        """The task itself and its alternatives."""
        return (self, *self.alternatives)

    def in_lowering(self, name: str) -> Task | None:
        """The task or its alternative in one lowering.

        Args:
            name: The lowering's name.

        Returns:
            The task in that lowering; None if it has no alternative of that name.
        """
        return next((task for task in self.lowerings if task.lowering == name), None)

    def fastest(self, database: ProgramDatabase) -> tuple[Task, Program] | None:
        """Finds the fastest measured program among all lowerings.

        Args:
            database: The database of measured programs.

        Returns:
            The task in the program's lowering, and the program; None if nothing was measured.
        """
        candidates = [
            (programs[0].latency_ms, number, programs[0])
            for number, lowered in enumerate(self.lowerings)
            if (programs := database.programs(lowered.mod, 1))
        ]
        if not candidates:
            return None
        _, number, program = min(candidates, key=lambda item: item[:2])
        return self.lowerings[number], program

    def best_latency_ms(self, database: ProgramDatabase) -> float | None:
        """The latency in ms of the fastest measured program among all lowerings.

        Args:
            database: The database of measured programs.

        Returns:
            The latency of one call; None if the task was never measured.
        """
        fastest = self.fastest(database)
        return fastest[1].latency_ms if fastest else None

    @property
    def weight(self) -> int:
        """How many subgraphs share the task."""
        return len(self.subgraphs)

    @property
    def kind(self) -> str:
        """The task's operators: its name without the number that makes it unique."""
        return self.name.split("#")[0]

    @property
    def layers(self) -> tuple[str, ...]:
        """The Keras layers of all subgraphs, in model order."""
        return tuple(dict.fromkeys(layer for part in self.subgraphs for layer in part.layers))

    @property
    def argument_shapes(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """The (dtype, shape) of each argument of the workload; the result is the last argument."""
        return tvm_internals.argument_shapes(self.mod)


@dataclasses.dataclass(frozen=True, eq=False)
class LoweredModel:
    """A model as the compiler sees it.

    Attributes:
        imported: The imported model that was lowered.
        grouped: The module in which operators are grouped but not yet fused; see
            lowering.group_operators.
        mod: The lowered module, with every operator in the direct lowering.
        operators: The operators of each subgraph in order, by Subgraph.call.
        params: Parameter values by name, in the order of main's parameters.
        target: The target that the model is lowered for.
        tasks: The model's tasks, in order of first use.
    """

    imported: ImportedModel
    grouped: tvm.IRModule
    mod: tvm.IRModule
    operators: Mapping[str, tuple[OperatorCall, ...]]
    params: Mapping[str, object]
    target: tvm.target.Target
    tasks: tuple[Task, ...]

    def lowered_as(self, assignment: Mapping[str, str]) -> tvm.IRModule:
        """Builds the module in which some subgraphs are computed in other lowerings.

        Args:
            assignment: Names of lowerings by Subgraph.call. Subgraphs that are not named are
                computed directly.

        Returns:
            A module whose `main` calls fused functions, and functions that only transform weights.

        Raises:
            ValueError: If a lowering or subgraph does not exist, or the lowering does not match.
        """
        replacements = {}
        for call, name in assignment.items():
            if name == DIRECT:
                continue
            operators = self.operators.get(call, ())
            replacement = _replacement(find_lowering(name), operators, self.target)
            if replacement is None:
                raise ValueError(
                    f"The subgraph {call!r} cannot be computed in the lowering {name!r}: it has no "
                    "operator that this lowering matches. Assign it one of its task's lowerings."
                )
            replacements[call] = replacement
        if not replacements:
            return self.mod
        return lowering.fuse_groups(replace_operators(self.grouped, replacements), self.target)

    def latency_ms(self, database: ProgramDatabase) -> float:
        """Sums up the best measured latencies of all subgraphs.

        Args:
            database: The database of measured programs.

        Returns:
            The model's latency in ms.

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


def lower_model(
    imported: ImportedModel, target: tvm.target.Target, *, direct_only: bool = False
) -> LoweredModel:
    """Lowers an imported model and finds its tasks.

    Args:
        imported: A model from compiler.importer.import_model.
        target: The target that is compiled for.
        direct_only: Whether tasks get no alternatives to the direct lowering.

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
    operators = _operators(imported, {call: origin.operators for call, origin in traced.items()})
    workloads = _Workloads()
    direct = {part.call: workloads.add(mod[part.function]) for part in subgraphs}
    alternatives: dict[str, dict[str, int]] = {part.call: {} for part in subgraphs}
    for alternative in () if direct_only else alternative_lowerings():
        replacements = {
            call: replacement
            for call, parts in operators.items()
            if (replacement := _replacement(alternative, parts, target)) is not None
        }
        if not replacements:
            continue
        replaced = lowering.fuse_groups(replace_operators(grouped, replacements), target)
        for call, function in lowering.subgraph_calls(replaced):
            if call in replacements:
                alternatives[call][alternative.name] = workloads.add(replaced[function])
    tasks = _task_table(subgraphs, direct, alternatives, workloads.modules)
    return LoweredModel(imported, grouped, mod, operators, imported.params, target, tasks)


class _Workloads:
    """Collects distinct workloads by their structural hash."""

    def __init__(self) -> None:
        self.modules: dict[int, tvm.IRModule] = {}
        self._keys: dict[tvm.tirx.PrimFunc, int] = {}

    def add(self, function: tvm.tirx.PrimFunc) -> int:
        """Adds a fused function's workload, unless it is there, and returns its key."""
        if function not in self._keys:
            module = tvm_internals.normalize_task_module(function)
            self._keys[function] = tvm_internals.structural_hash(module)
            self.modules.setdefault(self._keys[function], module)
        return self._keys[function]


def _operators(
    imported: ImportedModel, traced: Mapping[str, Sequence[str]]
) -> dict[str, tuple[OperatorCall, ...]]:
    """Looks up the operators of each subgraph by the variables that they are bound to.

    Args:
        imported: The imported model.
        traced: Names of bound variables in the imported `main`, by Subgraph.call.
    """
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
    alternative: Lowering, operators: Sequence[OperatorCall], target: tvm.target.Target
) -> Replacement | None:
    """The replacement of the first operator that a lowering matches; None if it matches none."""
    for position, operator in enumerate(operators):
        reads_variables = all(isinstance(value, relax.Var) for value in operator.call.args)
        if reads_variables and alternative.matches(operator, target):
            return Replacement(position, operator, alternative)
    return None


def _task_table(
    subgraphs: Sequence[Subgraph],
    direct: Mapping[str, int],
    alternatives: Mapping[str, Mapping[str, int]],
    modules: Mapping[int, tvm.IRModule],
) -> tuple[Task, ...]:
    """Groups subgraphs that are the same workload in every lowering.

    Args:
        subgraphs: The model's subgraphs, in order.
        direct: The key of each subgraph's direct workload, by Subgraph.call.
        alternatives: The keys of each subgraph's other workloads, by Subgraph.call and lowering.
        modules: The workloads by key.
    """
    grouped: dict[tuple[int, tuple[tuple[str, int], ...]], list[Subgraph]] = {}
    for part in subgraphs:
        others = tuple(alternatives[part.call].items())
        grouped.setdefault((direct[part.call], others), []).append(part)
    direct_keys = [key for key, _ in grouped]
    name_counts: dict[str, int] = {}
    tasks = []
    for (key, others), parts in grouped.items():
        base = _base_name(parts[0].function, modules[key])
        name_counts[base] = name_counts.get(base, 0) + 1
        name = base if name_counts[base] == 1 else f"{base}#{name_counts[base]}"
        is_split = direct_keys.count(key) > 1
        task = Task(
            name=name,
            mod=modules[key],
            key=_combined_key(key, others) if is_split else key,
            subgraphs=tuple(parts),
            flops=tvm_internals.estimate_flops(modules[key]),
        )
        alternative_tasks = tuple(
            dataclasses.replace(
                task,
                name=f"{name} ({lowering_name})",
                mod=modules[other_key],
                key=other_key,
                lowering=lowering_name,
            )
            for lowering_name, other_key in others
        )
        tasks.append(dataclasses.replace(task, alternatives=alternative_tasks))
    return tuple(tasks)


def _combined_key(key: int, others: Sequence[tuple[str, int]]) -> int:
    """A key that also depends on the alternatives and is the same in every process."""
    content = repr((key, others)).encode()
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "big")


def _base_name(function: str, mod: tvm.IRModule) -> str:
    """A fused function's name without its prefix and the counters TVM appends to each operator.

    TVM gives grouped convolutions the same names as others. Their loops tell them apart, and they
    get a prefix here.
    """
    parts = function.removeprefix("fused_").split("_")
    words = [
        part.rstrip("0123456789") if part not in ("conv2d", "conv1d") else part for part in parts
    ]
    return tvm_internals.convolution_group_prefix(mod) + "_".join(word for word in words if word)
