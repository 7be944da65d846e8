"""The task table held against the device's limits, and the best programs timed again.

What the database holds was measured while tuning, at different times. Where a sum of tasks is
compared with a whole model, the tasks' fastest programs are built once more and timed in turns with
it (`ProgramTimer`).
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
import tempfile
from collections.abc import Sequence
from typing import Literal

import numpy as np
import tvm
from tvm.s_tir import meta_schedule as ms

from cprune_tf.compiler.building.builder import build_program
from cprune_tf.compiler.database import Program, ProgramDatabase
from cprune_tf.compiler.roofline import Roofline
from cprune_tf.compiler.session import TaskRow
from cprune_tf.compiler.structure import (
    ProgramStructure,
    counts_keeping_structure,
    program_structure,
)
from cprune_tf.compiler.tasks import Task
from cprune_tf.compiler.transfer import distinct_programs
from cprune_tf.devices.base import Device

Shapes = tuple[tuple[str, tuple[int, ...]], ...]
_REPEATS = 5
_MIN_REPEAT_MS = 5
# Programs that count as good: as many, and as much slower than the fastest one, at most.
_GOOD_PROGRAMS = 16
_GOOD_SLOWDOWN = 1.1


@dataclasses.dataclass(frozen=True)
class TaskProfile:
    """One task against the roofline.

    Attributes:
        name: The task's.
        subgraphs: Keras layers of each subgraph that shares it, in model order.
        weight: Number of subgraphs.
        flops: Of one call.
        bytes_moved: Arguments and result of one call.
        latency_ms: Of one call of its fastest program.
        total_ms: latency_ms x weight.
        share: Of the sum over all tasks, 0..1.
        gflops: Reached by the fastest program.
        bound: Which of the two limits is the nearer one for its FLOPs and bytes.
        roofline_share: The limit's time / latency_ms. A lowering that saves operations (Winograd)
            can pass 1.
        structure: The fastest program's tiling of the filter and reduction axes.
        lowering: The fastest program's: the name of a lowering.
        filters: The extent of the filter axis.
        keeping_counts: Filter counts up to `filters` at which some good program's inner tiles stay.
    """

    name: str
    subgraphs: tuple[tuple[str, ...], ...]
    weight: int
    flops: float
    bytes_moved: int
    latency_ms: float
    total_ms: float
    share: float
    gflops: float
    bound: Literal["compute", "memory"]
    roofline_share: float
    structure: str
    lowering: str
    filters: int
    keeping_counts: tuple[int, ...]


def profile_tasks(
    rows: Sequence[TaskRow], roofline: Roofline, database: ProgramDatabase
) -> tuple[TaskProfile, ...]:
    """Holds every task against the device's limits.

    Args:
        rows: From `CompilerSession.task_table`.
        roofline: Measured with the same number of threads.
        database: Knows the programs.

    Returns:
        One profile per row, in the same order.
    """
    return tuple(_profile(row, roofline, database) for row in rows)


def good_structures(database: ProgramDatabase, task: Task) -> tuple[ProgramStructure, ...]:
    """The structures of a task's good programs: hardly slower than the fastest, of any lowering.

    Args:
        database: Knows the programs.
        task: A measured task.

    Returns:
        At most 16 of each lowering, of programs that differ in inner tiles.

    Raises:
        KeyError: If the task was never measured.
    """
    limit_ms = _GOOD_SLOWDOWN * fastest_program(database, task)[1].latency_ms
    structures = []
    for lowered in task.lowerings:
        good = [p for p in database.programs(lowered.mod) if p.latency_ms <= limit_ms]
        for program in distinct_programs(good, _GOOD_PROGRAMS):
            structures.append(program_structure(program, lowered.mod))
    return tuple(structures)


def _profile(row: TaskRow, roofline: Roofline, database: ProgramDatabase) -> TaskProfile:
    task, filters = row.task, row.structure.filters
    moved = bytes_moved(task)
    memory_bound = roofline.memory_ms(moved) > roofline.compute_ms(task.flops)
    return TaskProfile(
        name=task.name,
        subgraphs=tuple(part.layers for part in task.subgraphs),
        weight=task.weight,
        flops=task.flops,
        bytes_moved=moved,
        latency_ms=row.latency_ms,
        total_ms=row.total_ms,
        share=row.share,
        gflops=row.gflops,
        bound="memory" if memory_bound else "compute",
        roofline_share=roofline.bound_ms(task.flops, moved) / row.latency_ms,
        structure=str(row.structure),
        lowering=row.lowering,
        filters=filters,
        keeping_counts=counts_keeping_structure(good_structures(database, task), filters),
    )


def bytes_moved(task: Task) -> int:
    """Bytes of a task's arguments and result: what one call reads and writes at least."""
    return sum(math.prod(shape) * np.dtype(dtype).itemsize for dtype, shape in task.argument_shapes)


def fastest_program(database: ProgramDatabase, task: Task) -> tuple[Task, Program]:
    """What a task's latency is the latency of.

    Returns:
        The lowering that the program schedules, and the program.

    Raises:
        KeyError: If the task was never measured.
    """
    fastest = task.fastest(database)
    if fastest is None:
        raise KeyError(f"Task {task.name} ({', '.join(task.layers)}) was never measured.")
    return fastest


class ProgramTimer:
    """Times tasks' fastest programs again; each is built once.

    Args:
        device: Where they run.
        database: Knows the programs.
        target: What they are built for.
        num_threads: Threads they run on.
    """

    def __init__(
        self,
        device: Device,
        database: ProgramDatabase,
        target: tvm.target.Target,
        *,
        num_threads: int,
    ) -> None:
        self._device = device
        self._database = database
        self._target = target
        self._num_threads = num_threads
        self._folder = tempfile.TemporaryDirectory(prefix="cprune_timer_")
        self._built: dict[str, tuple[pathlib.Path, Shapes]] = {}

    def samples_ms(self, task: Task, repeat: int = _REPEATS) -> tuple[float, ...]:
        """Times the fastest program of a task.

        Args:
            task: A measured task.
            repeat: Samples.

        Returns:
            The mean duration of one call in each sample, in ms.

        Raises:
            KeyError: If the task was never measured.
            DeviceError: If the device fails.
        """
        library, shapes = self._library(task)
        return self._device.time_kernel(
            library,
            "main",
            shapes,
            num_threads=self._num_threads,
            number=1,
            repeat=repeat,
            min_repeat_ms=_MIN_REPEAT_MS,
        )

    def close(self) -> None:
        """Deletes the libraries."""
        self._folder.cleanup()

    def __enter__(self) -> ProgramTimer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _library(self, task: Task) -> tuple[pathlib.Path, Shapes]:
        workload, program = fastest_program(self._database, task)
        # A task that was tuned further has another fastest program.
        key = f"{workload.key}:{program.latency_ms!r}"
        if key not in self._built:
            schedule = program.schedule(workload.mod)
            path = pathlib.Path(self._folder.name) / f"{len(self._built)}.so"
            build_program(schedule.mod, self._target, str(path), self._device.linker)
            infos = ms.arg_info.ArgInfo.from_entry_func(schedule.mod, remove_preproc=True)
            self._built[key] = (path, _shapes(infos))
        return self._built[key]


def _shapes(infos: Sequence[ms.arg_info.ArgInfo]) -> Shapes:
    return tuple((str(info.dtype), tuple(int(n) for n in info.shape)) for info in infos)
