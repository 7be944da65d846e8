"""Compares the task table with the device's limits, and times the best programs again.

The latencies in the database were measured at different times during tuning. To compare a sum of
tasks with a whole model, `ProgramTimer` builds the tasks' fastest programs once more, so that they
can be timed in turns with the model.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import tvm
from tvm.s_tir import meta_schedule as ms

from cprune_tf.compiler import tvm_internals
from cprune_tf.compiler.building.builder import build_program
from cprune_tf.compiler.database import Program, ProgramDatabase
from cprune_tf.compiler.lowerings import lowering_of
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
# A good program takes at most this many times as long as the fastest one.
_GOOD_SLOWDOWN = 1.1
# The largest number of good programs that are considered for each lowering.
_GOOD_PROGRAMS = 16


@dataclasses.dataclass(frozen=True)
class TaskProfile:
    """One task of a tuned model, compared with the roofline where that is known.

    Attributes:
        name: The task's name.
        subgraphs: The Keras layers of each subgraph that shares the task, in model order.
        weight: The number of subgraphs that share the task.
        flops: Floating point operations of one call.
        bytes_moved: The bytes of one call's arguments and result.
        latency_ms: The latency of one call of the task's fastest program, in ms.
        total_ms: The latency of all calls, in ms: latency_ms x weight.
        share: total_ms as a fraction of the sum over all tasks, 0..1.
        gflops: The billions of floating point operations per second that the fastest program does.
        bound: The limit that a task with these FLOPs and bytes reaches first; None without a
            roofline.
        roofline_share: The limit's time / latency_ms. It can exceed 1 for a lowering that saves
            operations, such as Winograd. None without a roofline.
        structure: The fastest program's tiling of the filter and reduction axes; "" if the runtime
            does not expose programs.
        lowering: The name of the fastest program's lowering, likewise.
        filters: The number of filters: the extent of the filter axis.
        keeping_counts: The filter counts up to `filters` at which at least one good program keeps
            its inner tiles. Without programs: those that fill the runtime's smallest tile.
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
    bound: Literal["compute", "memory"] | None
    roofline_share: float | None
    structure: str
    lowering: str
    filters: int
    keeping_counts: tuple[int, ...]


def profile_tasks(
    rows: Sequence[TaskRow], roofline: Roofline, database: ProgramDatabase
) -> tuple[TaskProfile, ...]:
    """Compares every task with the device's limits.

    Args:
        rows: The task table, from `CompilerSession.task_table`.
        roofline: The device's limits, measured with the same number of threads.
        database: The database of measured programs.

    Returns:
        One profile for each row, in the same order.
    """
    return tuple(_profile(row, roofline, database) for row in rows)


def good_structures(database: ProgramDatabase, task: Task) -> tuple[ProgramStructure, ...]:
    """Reads the structures of a task's good programs, in all lowerings.

    A good program takes at most 1.1 times as long as the fastest one.

    Args:
        database: The database of measured programs.
        task: A measured task.

    Returns:
        The structures of programs that differ in inner tiles, at most 16 for each lowering.

    Raises:
        KeyError: If the task was never measured.
    """
    limit_ms = _GOOD_SLOWDOWN * fastest_program(database, task)[1].latency_ms
    structures = []
    for lowered in task.lowerings:
        good_programs = [
            program for program in database.programs(lowered.mod) if program.latency_ms <= limit_ms
        ]
        for program in distinct_programs(good_programs, _GOOD_PROGRAMS):
            structures.append(program_structure(program, lowered.mod))
    return tuple(structures)


def _profile(row: TaskRow, roofline: Roofline, database: ProgramDatabase) -> TaskProfile:
    task, filters = row.task, row.structure.filters
    num_bytes = bytes_moved(task.argument_shapes)
    memory_bound = roofline.memory_ms(num_bytes) > roofline.compute_ms(task.flops)
    return TaskProfile(
        name=task.name,
        subgraphs=tuple(part.layers for part in task.subgraphs),
        weight=task.weight,
        flops=task.flops,
        bytes_moved=num_bytes,
        latency_ms=row.latency_ms,
        total_ms=row.total_ms,
        share=row.share,
        gflops=row.gflops,
        bound="memory" if memory_bound else "compute",
        roofline_share=roofline.bound_ms(task.flops, num_bytes) / row.latency_ms,
        structure=str(row.structure),
        lowering=row.lowering,
        filters=filters,
        keeping_counts=counts_keeping_structure(good_structures(database, task), filters),
    )


def bytes_moved(shapes: Shapes) -> int:
    """The bytes of a task's arguments and result: the least that one call reads and writes.

    Args:
        shapes: (dtype, shape) of each.
    """
    return sum(math.prod(shape) * np.dtype(dtype).itemsize for dtype, shape in shapes)


def fastest_program(database: ProgramDatabase, task: Task) -> tuple[Task, Program]:
    """Finds the fastest measured program of a task.

    Args:
        database: The database of measured programs.
        task: A measured task.

    Returns:
        The task in the program's lowering, and the program.

    Raises:
        KeyError: If the task was never measured.
    """
    fastest = task.fastest(database)
    if fastest is None:
        raise KeyError(f"Task {task.name} ({', '.join(task.layers)}) was never measured.")
    return fastest


class ProgramTimer:
    """Times the fastest programs of tasks again; builds each program once.

    Args:
        device: The device that programs run on.
        database: The database of measured programs.
        target: The target that programs are built for.
        num_threads: The number of threads that programs run on.
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
        self._libraries: dict[str, tuple[pathlib.Path, Shapes, Mapping[int, int]]] = {}

    def samples_ms(self, task: Task, repeat: int = _REPEATS) -> tuple[float, ...]:
        """Times the fastest program of a task.

        Args:
            task: A measured task.
            repeat: The number of samples.

        Returns:
            The mean duration of one call in each sample, in ms.

        Raises:
            KeyError: If the task was never measured.
            DeviceError: If the device fails.
        """
        library, shapes, index_limits = self._library(task)
        return self._device.time_kernel(
            library,
            "main",
            shapes,
            num_threads=self._num_threads,
            number=1,
            repeat=repeat,
            min_repeat_ms=_MIN_REPEAT_MS,
            index_limits=index_limits,
        )

    def close(self) -> None:
        """Deletes the libraries."""
        self._folder.cleanup()

    def __enter__(self) -> ProgramTimer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _library(self, task: Task) -> tuple[pathlib.Path, Shapes, Mapping[int, int]]:
        workload, program = fastest_program(self._database, task)
        # The latency is part of the key, since further tuning may give a task a faster program.
        key = f"{workload.key}:{program.latency_ms!r}"
        if key not in self._libraries:
            schedule = program.schedule(workload.mod)
            path = pathlib.Path(self._folder.name) / f"{len(self._libraries)}.so"
            build_program(schedule.mod, self._target, str(path), self._device.linker)
            infos = ms.arg_info.ArgInfo.from_entry_func(schedule.mod, remove_preproc=True)
            index_limits = lowering_of(workload.mod).index_limits(workload.mod)
            self._libraries[key] = (path, tvm_internals.shapes_of(infos), index_limits)
        return self._libraries[key]
