"""The task table: which distinct workloads a lowered model has, and whose layers they are.

A subgraph is one fused call of the compiled model; a task is one distinct workload (structural
hash), shared by one or more subgraphs. What ties a subgraph to Keras layers is exact: the names its
parameters were imported under, and data flow (see compiler.importer.provenance).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import tvm

from cprune_tf.compiler import lowering, tvm_internals
from cprune_tf.compiler.database import ProgramDatabase
from cprune_tf.compiler.importer import ImportedModel, provenance


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
        key: Structural hash of mod.
        subgraphs: Which calls share it.
        flops: Floating point operations of one call (a multiply-add is two).
    """

    name: str
    mod: tvm.IRModule
    key: int
    subgraphs: tuple[Subgraph, ...]
    flops: float

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


@dataclasses.dataclass(frozen=True, eq=False)
class LoweredModel:
    """A model as the compiler sees it.

    Attributes:
        mod: The lowered module.
        params: Parameter values by name, in the order of main's parameters.
        target: What it is lowered for.
        tasks: Its distinct workloads, in order of first use.
    """

    mod: tvm.IRModule
    params: Mapping[str, object]
    target: tvm.target.Target
    tasks: tuple[Task, ...]

    def task_of_layer(self, layer: str) -> Task | None:
        """The task of the subgraph that a Keras layer is part of.

        Where a layer was split over several subgraphs, the costliest one (by FLOPs).
        """
        found = [task for task in self.tasks if layer in task.layers]
        return max(found, key=lambda task: task.flops) if found else None

    def latency_ms(self, database: ProgramDatabase) -> float:
        """The sum of all subgraphs' best measured latencies.

        Raises:
            KeyError: If a task was never measured.
        """
        total = 0.0
        for task in self.tasks:
            best = database.best_latency_ms(task.mod)
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
    mod = lowering.lower(imported.mod, target)
    layers = provenance(mod, imported)
    grouped: dict[int, list[Subgraph]] = {}
    modules: dict[int, tvm.IRModule] = {}
    for call, function in lowering.subgraph_calls(mod):
        module = tvm_internals.normalize_task_module(mod[function])
        key = tvm_internals.structural_hash(module)
        modules.setdefault(key, module)
        grouped.setdefault(key, []).append(Subgraph(call, function, tuple(layers[call])))
    tasks = []
    used: dict[str, int] = {}
    for key, subgraphs in grouped.items():
        base = _base_name(subgraphs[0].function)
        used[base] = used.get(base, 0) + 1
        name = base if used[base] == 1 else f"{base}#{used[base]}"
        flops = tvm_internals.estimate_flops(modules[key])
        tasks.append(Task(name, modules[key], key, tuple(subgraphs), flops))
    return LoweredModel(mod, imported.params, target, tuple(tasks))


def _base_name(function: str) -> str:
    """A fused function's name without prefix and the counters TVM appends to each operator."""
    words = function.removeprefix("fused_").split("_")
    known = [
        word.rstrip("0123456789") if word not in ("conv2d", "conv1d") else word for word in words
    ]
    return "_".join(word for word in known if word)
