"""Everything the compiler does for one run: with one device, one target and one database.

The session takes Keras models. It keeps in one place what is expensive to start (build workers, the
cost model) and what must not be lost (the database).
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import weakref
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
from cprune_tf.storage import files


@dataclasses.dataclass(frozen=True)
class TaskRow:
    """One line of the task table.

    Attributes:
        task: The task that the row describes.
        latency_ms: The latency of one call of the task's fastest program, in ms.
        total_ms: The latency of all calls, in ms: latency_ms x weight.
        share: total_ms as a fraction of the sum over all tasks, 0..1.
        gflops: The billions of floating point operations per second that the fastest program does.
        structure: The fastest program's tiling of the filter and reduction axes.
        lowering: The name of the fastest program's lowering.
    """

    task: Task
    latency_ms: float
    total_ms: float
    share: float
    gflops: float
    structure: ProgramStructure
    lowering: str


@dataclasses.dataclass(frozen=True)
class _Library:
    """A library that was built, and what it was built from.

    Attributes:
        path: The file.
        modified_ns: When the file was written, in ns.
        latencies_ms: The latency of the program of each task, in ms.
    """

    path: pathlib.Path
    modified_ns: int
    latencies_ms: tuple[float | None, ...]

    @classmethod
    def of(cls, path: pathlib.Path, latencies_ms: tuple[float | None, ...]) -> _Library:
        """Describes a library that was just built."""
        return cls(path, path.stat().st_mtime_ns, latencies_ms)

    def is_unchanged(self) -> bool:
        """Whether the file is there, and no other model was built in its place."""
        return self.path.exists() and self.path.stat().st_mtime_ns == self.modified_ns


class CompilerSession:
    """Imports, tunes, prices and builds Keras models for one device.

    Args:
        device: The device that programs run on.
        tuning_dir: The database's folder; not used if `config` names a database that runs share.
        config: The tuning configuration.
        num_threads: The number of threads that models are tuned for.
        seed: The random seed of the search.
        frontend: How models are imported: "keras" or "tflite".
        weights: The type that libraries store weights in, one of config.WEIGHT_TYPES.

    Raises:
        LinkError: If the device names a linker that does not link for it.
        ConfigError: If the device's processor cannot read weights of that type, or the folder in
            `config.warm_start` holds no database.
        ToolchainError: If this machine cannot compile for the device's GPU.
        LockedError: If another run measures in the shared database.
        DatabaseError: If the database cannot be opened.
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
        self._direct_only = config.lowerings == "direct"
        self.target = tvm.target.Target(device.target(num_threads))
        check_toolchain(self.target)
        check_weight_storage(self.target, weights)
        warm_start = open_warm_start(config.warm_start, self.target)
        self._linker = device.linker
        if self._linker:
            check_linker(self.target, self._linker)
        with contextlib.ExitStack() as stack:
            if config.database:
                folder = shared_folder(config.database, device, self.target)
                tuning_dir = stack.enter_context(folder)
            self.database = ProgramDatabase(tuning_dir)
            self._builder = stack.enter_context(
                ProgramBuilder(
                    self.target,
                    num_workers=config.num_build_workers,
                    timeout_sec=config.build_timeout_sec,
                    linker=self._linker,
                )
            )
            self._resources = stack.pop_all()
        measurer = ProgramMeasurer(
            device,
            self._builder,
            self.database,
            self.target,
            num_threads=num_threads,
            timeout_sec=config.run_timeout_sec,
        )
        self._tuner = Tuner(measurer, config, seed=seed, warm_start=warm_start)
        self._libraries: weakref.WeakKeyDictionary[LoweredModel, _Library] = (
            weakref.WeakKeyDictionary()
        )

    @property
    def lanes(self) -> int:
        """The float32 values in one vector register of a CPU; the threads of a GPU's warp."""
        if tvm_internals.is_gpu(self.target):
            return tvm_internals.warp_size(self.target)
        return vector_unit(self.target).lanes

    def lower(self, model: Any) -> LoweredModel:
        """Imports a Keras model, lowers it, and finds its tasks."""
        imported = import_through(self._frontend, model)
        return lower_model(imported, self.target, direct_only=self._direct_only)

    def tune(
        self, lowered: LoweredModel, trials_per_task: int, progress: Progress | None = None
    ) -> TuningSummary:
        """Measures programs until every task of a model has `trials_per_task` of them.

        See `Tuner.tune`, which says when a task ends with fewer.

        Args:
            lowered: The model to tune.
            trials_per_task: The number of measured programs that each task ends with.
            progress: Called with (trials done, trials planned, what is running).

        Returns:
            How much was measured.

        Raises:
            TuningError: If every program of a task failed.
        """
        return self._tuner.tune(lowered.tasks, trials_per_task, progress)

    def price(
        self,
        candidate: LoweredModel,
        current: LoweredModel,
        on_task: Callable[[Task], None] | None = None,
    ) -> float:
        """Prices a candidate: transfers the current model's programs to its tasks and times them.

        Args:
            candidate: The pruned model.
            current: The tuned model that the candidate was pruned from.
            on_task: Called before each task that has to be measured.

        Returns:
            The sum of the candidate's task latencies in ms, comparable with
            `current.latency_ms(database)`.
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
        """Compiles a tuned model to a shared library, with the fastest measured programs.

        If no faster program was found since the model was built, that library is copied.

        Args:
            lowered: The tuned model.
            path: The library to write.

        Raises:
            UntunedTaskError: If a task has no measured program.
        """
        path = pathlib.Path(path)
        latencies_ms = tuple(task.best_latency_ms(self.database) for task in lowered.tasks)
        known = self._libraries.get(lowered)
        if known is not None and known.latencies_ms == latencies_ms and known.is_unchanged():
            if path != known.path:
                files.write_bytes(path, known.path.read_bytes())
            return
        build_library(lowered, self.database, path, self._linker, weights=self._weights)
        self._libraries[lowered] = _Library.of(path, latencies_ms)

    def task_table(self, lowered: LoweredModel) -> tuple[TaskRow, ...]:
        """Lists the tasks of a tuned model, costliest first.

        Args:
            lowered: The tuned model.

        Raises:
            KeyError: If a task was never measured.
        """
        whole_ms = lowered.latency_ms(self.database)
        rows = []
        for task in lowered.tasks:
            fastest_program = task.fastest(self.database)
            assert fastest_program is not None  # latency_ms raises if a task was never measured
            lowered_task, fastest = fastest_program
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
        """Ends the build workers and releases a shared database to other runs."""
        self._resources.close()

    def __enter__(self) -> CompilerSession:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _sources(task: Task, current: LoweredModel) -> list[Task]:
    """The tasks whose programs may fit: first those with common layers, then those of one kind."""
    layers = set(task.layers)
    overlapping = [source for source in current.tasks if layers & set(source.layers)]
    overlapping.sort(
        key=lambda source: (source.kind != task.kind, -len(layers & set(source.layers)))
    )
    same_kind = [
        source for source in current.tasks if source.kind == task.kind and source not in overlapping
    ]
    return [*overlapping, *same_kind]
