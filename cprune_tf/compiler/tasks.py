"""The task table: which distinct workloads a lowered model has, and whose layers they are.

A subgraph is one fused call of the compiled model; a task is one distinct workload (structural
hash), shared by one or more subgraphs. What ties a subgraph to Keras layers is exact: the names its
parameters were imported under, and data flow (see compiler.importer.provenance).
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence

import tvm
from tvm.s_tir import meta_schedule as ms

from cprune_tf.compiler import tvm_internals
from cprune_tf.compiler.building import lowering
from cprune_tf.compiler.database import Program, ProgramDatabase
from cprune_tf.compiler.importer import ImportedModel, provenance
from cprune_tf.compiler.importer.provenance import FusionGroups, fusion_groups
from cprune_tf.compiler.lowerings.winograd.convolution import Convolution

_LOGGER = logging.getLogger(__name__)


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
        flops: Floating point operations of one call (a multiply-add is two), counted for the
            direct computation whatever the lowering.
        lowering: "direct" or "winograd".
        convolutions: Of an alternative: which convolutions must be lowered its way.
        alternatives: Other lowerings of the same subgraphs; measurements decide.
    """

    name: str
    mod: tvm.IRModule
    key: int
    subgraphs: tuple[Subgraph, ...]
    flops: float
    lowering: str = "direct"
    convolutions: frozenset[Convolution] = frozenset()
    alternatives: tuple[Task, ...] = ()

    @property
    def lowerings(self) -> tuple[Task, ...]:
        """Itself and its alternatives."""
        return (self, *self.alternatives)

    def fastest(self, database: ProgramDatabase) -> tuple[Task, Program] | None:
        """The fastest measured program among all lowerings, and which lowering it is of."""
        found = []
        for number, lowered in enumerate(self.lowerings):
            for program in database.programs(lowered.mod, 1):
                found.append((program.latency_ms, number, program))
        if not found:
            return None
        _, number, program = min(found, key=lambda item: item[:2])
        return self.lowerings[number], program

    def best_latency_ms(self, database: ProgramDatabase) -> float | None:
        """Of the fastest measured program among all lowerings; None where there is none."""
        found = self.fastest(database)
        return found[1].latency_ms if found else None

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
        mod: The lowered module, all convolutions direct.
        params: Parameter values by name, in the order of main's parameters.
        target: What it is lowered for.
        tasks: Its distinct workloads, in order of first use.
    """

    imported: ImportedModel
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
    mod = lowering.lower(imported.mod, target)
    calls = lowering.subgraph_calls(mod)
    groups = fusion_groups(imported)
    layers = provenance(mod, imported, groups)
    alternatives = _winograd_alternatives(
        imported, target, groups, [layers[call] for call, _ in calls]
    )
    grouped: dict[int, list[int]] = {}
    modules: dict[int, tvm.IRModule] = {}
    for number, (_, function) in enumerate(calls):
        module = tvm_internals.normalize_task_module(mod[function])
        key = tvm_internals.structural_hash(module)
        modules.setdefault(key, module)
        grouped.setdefault(key, []).append(number)
    tasks = []
    used: dict[str, int] = {}
    for key, numbers in grouped.items():
        subgraphs = tuple(Subgraph(*calls[i], tuple(layers[calls[i][0]])) for i in numbers)
        base = _base_name(subgraphs[0].function, modules[key])
        used[base] = used.get(base, 0) + 1
        name = base if used[base] == 1 else f"{base}#{used[base]}"
        flops = tvm_internals.estimate_flops(modules[key])
        task = Task(name, modules[key], key, subgraphs, flops)
        others = [alternatives[i] for i in numbers if i in alternatives]
        if len(others) == len(numbers):
            task = dataclasses.replace(task, alternatives=(_alternative(task, others),))
        tasks.append(task)
    return LoweredModel(imported, mod, imported.params, target, tuple(tasks))


def _winograd_alternatives(
    imported: ImportedModel,
    target: tvm.target.Target,
    groups: FusionGroups,
    layers: Sequence[tuple[str, ...]],
) -> dict[int, tuple[tvm.IRModule, Convolution]]:
    """The subgraphs that can be computed with Winograd's algorithm on a CPU, by their number.

    Operators are fused alike whatever the lowering, so subgraphs correspond by their order; where
    the layers say that they do not, there are no alternatives.
    """
    if tvm_internals.is_gpu(target):  # its schedules are for vector registers and caches
        return {}
    mod = lowering.lower(imported.mod, target, lambda _: True)
    convolutions = lowering.winograd_convolutions(mod)
    if not convolutions:
        return {}
    calls = lowering.subgraph_calls(mod)
    found = provenance(mod, imported, groups)
    if [tuple(found[call]) for call, _ in calls] != [tuple(names) for names in layers]:
        _LOGGER.warning("Winograd changes how operators are fused here; it is not tried.")
        return {}
    return {
        number: (tvm_internals.normalize_task_module(mod[function]), convolutions[call])
        for number, (call, function) in enumerate(calls)
        if call in convolutions
    }


def _alternative(task: Task, others: Sequence[tuple[tvm.IRModule, Convolution]]) -> Task:
    module = others[0][0]
    return dataclasses.replace(
        task,
        name=f"{task.name} (winograd)",
        mod=module,
        key=tvm_internals.structural_hash(module),
        lowering="winograd",
        convolutions=frozenset(convolution for _, convolution in others),
    )


def _base_name(function: str, mod: tvm.IRModule) -> str:
    """A fused function's name without prefix and the counters TVM appends to each operator.

    TVM calls grouped convolutions like others; they are told apart by their loops.
    """
    words = function.removeprefix("fused_").split("_")
    known = [
        word.rstrip("0123456789") if word not in ("conv2d", "conv1d") else word for word in words
    ]
    return tvm_internals.convolution_group_prefix(mod) + "_".join(word for word in known if word)
