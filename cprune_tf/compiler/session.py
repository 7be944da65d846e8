"""Everything the compiler does for one run: one device, one target, one database.

Keeps what is expensive to start (build workers, cost model) and what must not be lost (the
database) in one place, and speaks in Keras models.
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import tvm

from cprune_tf.compiler import tvm_internals
from cprune_tf.compiler.building.builder import ProgramBuilder
from cprune_tf.compiler.building.gpu_toolchain import check_toolchain
from cprune_tf.compiler.building.linker import check_linker
from cprune_tf.compiler.building.weight_storage import check_weight_storage
from cprune_tf.compiler.database import ProgramDatabase
from cprune_tf.compiler.executable import build_library
from cprune_tf.compiler.importer import import_through
from cprune_tf.compiler.lowerings.register_tiles import vector_unit
from cprune_tf.compiler.structure import ProgramStructure, program_structure
from cprune_tf.compiler.tasks import LoweredModel, Task, lower_model
from cprune_tf.compiler.tuning.measuring import ProgramMeasurer
from cprune_tf.compiler.tuning.shared_database import shared_folder
from cprune_tf.compiler.tuning.tuner import Progress, Tuner, TuningSummary
from cprune_tf.compiler.tuning.warm_start import open_warm_start
from cprune_tf.config import TuningConfig
from cprune_tf.devices.base import Device


@dataclasses.dataclass(frozen=True)
class TaskRow:
    """One line of the task table.

    Attributes:
        task: The task.
        latency_ms: Of one call of its fastest program.
        total_ms: latency_ms x weight.
        share: Of the sum over all tasks, 0..1.
        gflops: Reached by the fastest program.
        structure: The fastest program's tiling of the filter and reduction axes.
        lowering: The fastest program's: the name of a lowering.
    """

    task: Task
    latency_ms: float
    total_ms: float
    share: float
    gflops: float
    structure: ProgramStructure
    lowering: str


class CompilerSession:
    """Imports, tunes, prices and builds Keras models for one device.

    Args:
        device: Where programs run.
        tuning_dir: The database's folder, where `config` names none that runs share.
        config: Tuning budgets.
        num_threads: Threads that models are tuned for.
        seed: Of the search.
        frontend: How models are imported: "keras" or "tflite".
        weights: What libraries store weights as; see config.PruneConfig.

    Raises:
        LinkError: The device names a linker that does not link for it.
        ConfigError: The device's processor cannot read such weights.
        ToolchainError: This machine cannot compile for the device's GPU.
        LockedError: Another run measures in the shared database.
        DatabaseError: A database that cannot be opened.
    """

    def __init__(
        self,
        device: Device,
        tuning_dir: pathlib.Path | str,
        config: TuningConfig,
        *,
        num_threads: int,
        seed: int,
        frontend: str = "keras",
        weights: str = "float32",
    ) -> None:
        self._frontend = frontend
        self._weights = weights
        self.target = tvm.target.Target(device.target(num_threads))
        check_toolchain(self.target)
        check_weight_storage(self.target, weights)
        warm_start = open_warm_start(config.warm_start, self.target)
        self._linker = device.linker
        if self._linker:
            check_linker(self.target, self._linker)
        with contextlib.ExitStack() as opened:
            if config.database:
                folder = shared_folder(config.database, device, self.target)
                tuning_dir = opened.enter_context(folder)
            self.database = ProgramDatabase(tuning_dir)
            self._builder = opened.enter_context(
                ProgramBuilder(
                    self.target,
                    num_workers=config.num_build_workers,
                    timeout_sec=config.build_timeout_sec,
                    linker=self._linker,
                )
            )
            self._opened = opened.pop_all()
        measurer = ProgramMeasurer(
            device,
            self._builder,
            self.database,
            self.target,
            num_threads=num_threads,
            timeout_sec=config.run_timeout_sec,
        )
        self._tuner = Tuner(measurer, config, seed=seed, warm_start=warm_start)

    @property
    def lanes(self) -> int:
        """Float32 values in one of the target's vector registers; threads of a GPU's warp."""
        if tvm_internals.is_gpu(self.target):
            return tvm_internals.warp_size(self.target)
        return vector_unit(self.target).lanes

    def lower(self, model: Any) -> LoweredModel:
        """A Keras model as the compiler sees it, with its tasks."""
        return lower_model(import_through(self._frontend, model), self.target)

    def tune(
        self, lowered: LoweredModel, trials_per_task: int, progress: Progress | None = None
    ) -> TuningSummary:
        """Brings every task of a model to a number of measured programs."""
        return self._tuner.tune(lowered.tasks, trials_per_task, progress)

    def price(
        self,
        candidate: LoweredModel,
        current: LoweredModel,
        on_task: Callable[[Task], None] | None = None,
    ) -> float:
        """The sum of a candidate's task latencies, by transferring the current model's programs.

        Args:
            candidate: The pruned model.
            current: The tuned model it was pruned from.
            on_task: Called before each task that has to be measured.

        Returns:
            Milliseconds; comparable with `current.latency_ms(database)`.
        """

        def requests() -> Iterator[tuple[Task, list[Task]]]:
            for task in candidate.tasks:
                sources = _sources(task, current)
                if self._tuner.is_priced(task, sources):
                    continue
                if on_task is not None:
                    on_task(task)
                yield task, sources

        self._tuner.price_all(requests())
        return candidate.latency_ms(self.database)

    def build(self, lowered: LoweredModel, path: pathlib.Path | str) -> None:
        """Compiles a model with the fastest programs known."""
        build_library(lowered, self.database, path, self._linker, weights=self._weights)

    def task_table(self, lowered: LoweredModel) -> tuple[TaskRow, ...]:
        """The tasks of a tuned model, costliest first."""
        whole_ms = lowered.latency_ms(self.database)
        rows = []
        for task in lowered.tasks:
            chosen = task.fastest(self.database)
            assert chosen is not None  # latency_ms raises where a task was never measured
            lowered_task, fastest = chosen
            total_ms = fastest.latency_ms * task.weight
            rows.append(
                TaskRow(
                    task,
                    fastest.latency_ms,
                    total_ms,
                    total_ms / whole_ms,
                    task.flops / fastest.latency_ms / 1e6,
                    program_structure(fastest, lowered_task.mod),
                    lowered_task.lowering,
                )
            )
        return tuple(sorted(rows, key=lambda row: -row.total_ms))

    def close(self) -> None:
        """Ends the build workers and lets other runs have a shared database."""
        self._opened.close()

    def __enter__(self) -> CompilerSession:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _sources(task: Task, current: LoweredModel) -> list[Task]:
    """Tasks whose programs may fit: those of the same layers, then those alike in kind."""
    layers = set(task.layers)
    same = [source for source in current.tasks if layers & set(source.layers)]
    alike = [source for source in current.tasks if source.kind == task.kind and source not in same]
    same.sort(key=lambda source: (source.kind != task.kind, -len(layers & set(source.layers))))
    return [*same, *alike]
