"""Profiles a tuned model: its tasks with their layers and channel groups, and the overhead.

The roofline and the tiles of fast programs come from TVM; with another runtime they are left out.
"""

from __future__ import annotations

import dataclasses
import pathlib
import statistics
import tempfile
import typing
from collections.abc import Callable
from typing import Any

from cprune_tf.compiler.profiling import TaskProfile, bytes_moved, profile_tasks
from cprune_tf.compiler.roofline import Roofline
from cprune_tf.compiler.tasks import LoweredModel
from cprune_tf.config import MeasureConfig
from cprune_tf.graph import ChannelGraph
from cprune_tf.latency.workspace import OpenedModel
from cprune_tf.runtimes import Runtime, TaskCost
from cprune_tf.runtimes.tvm import TvmRuntime

_ROUNDS = 3


@dataclasses.dataclass(frozen=True)
class ProfiledTask:
    """A task and the channel groups that decide its shape.

    Attributes:
        task: The task, compared with the roofline.
        groups: Channel groups on the inputs and outputs of the task's subgraphs.
        timed_ms: Median latency of one call, timed in turns with the whole model.
    """

    task: TaskProfile
    groups: tuple[str, ...]
    timed_ms: float


@dataclasses.dataclass(frozen=True)
class ModelProfile:
    """A tuned model's latency, divided into its tasks and the overhead.

    Attributes:
        tasks: The model's tasks, the costliest first.
        roofline: The device's measured limits; None if they were not measured.
        num_threads: Number of threads of all latencies.
        whole_ms: Median latency of the built library.
        tasks_ms: Sum of the latencies of all subgraphs, timed in turns with the whole model.
    """

    tasks: tuple[ProfiledTask, ...]
    roofline: Roofline | None
    num_threads: int
    whole_ms: float
    tasks_ms: float

    @property
    def overhead_ms(self) -> float:
        """Time beyond the tasks: the runtime's calls, and caches filled by other tasks."""
        return self.whole_ms - self.tasks_ms

    @property
    def overhead_fraction(self) -> float:
        """The overhead as a fraction of the whole model's latency."""
        return self.overhead_ms / self.whole_ms

    def to_json(self) -> dict[str, Any]:
        """Returns the profile as JSON types."""
        return {
            "whole_ms": self.whole_ms,
            "tasks_ms": self.tasks_ms,
            "overhead_ms": self.overhead_ms,
            "overhead_fraction": self.overhead_fraction,
            "num_threads": self.num_threads,
            "roofline": None if self.roofline is None else dataclasses.asdict(self.roofline),
            "tasks": [
                {
                    **dataclasses.asdict(profiled.task),
                    "groups": list(profiled.groups),
                    "timed_ms": profiled.timed_ms,
                }
                for profiled in self.tasks
            ],
        }


def profile_model(
    opened: OpenedModel,
    roofline: Roofline | None,
    measure: MeasureConfig,
    *,
    on_round: Callable[[int, int], None] = lambda done, total: None,
) -> ModelProfile:
    """Builds a tuned model, then times it and its tasks in turns.

    Args:
        opened: The model, tuned.
        roofline: The device's measured limits; needed for TVM, unused by other runtimes.
        measure: How the whole model is timed.
        on_round: Called with (rounds done, total rounds) before each round.

    Returns:
        The profile.

    Raises:
        KeyError: If the model was not tuned.
    """
    runtime, prepared_tasks = opened.runtime, opened.prepared.tasks
    profiles = _profiles(opened, roofline)
    wholes_ms: list[float] = []
    samples_ms: dict[int, list[float]] = {task.key: [] for task in prepared_tasks}
    with tempfile.TemporaryDirectory(prefix="cprune_profile_") as folder:
        library = pathlib.Path(folder) / f"whole{runtime.suffix}"
        runtime.build(opened.prepared, library)
        for number in range(_ROUNDS):
            on_round(number, _ROUNDS)
            (latency,) = runtime.time([library], opened.model, measure)
            wholes_ms.append(latency.median_ms)
            for task in prepared_tasks:
                samples_ms[task.key] += runtime.samples_ms(task)
    call_ms = {task.name: statistics.median(samples_ms[task.key]) for task in prepared_tasks}
    tasks = tuple(
        ProfiledTask(profile, groups_of(profile, opened.channels), call_ms[profile.name])
        for profile in profiles
    )
    total_ms = sum(call_ms[task.name] * task.weight for task in prepared_tasks)
    whole_ms = statistics.median(wholes_ms)
    return ModelProfile(tasks, roofline, runtime.num_threads, whole_ms, total_ms)


def _profiles(opened: OpenedModel, roofline: Roofline | None) -> tuple[TaskProfile, ...]:
    """Returns the tasks, the costliest first."""
    runtime = opened.runtime
    if isinstance(runtime, TvmRuntime) and roofline is not None:
        rows = runtime.session.task_table(typing.cast(LoweredModel, opened.prepared))
        return profile_tasks(rows, roofline, runtime.session.database)
    return tuple(_without_programs(runtime, cost) for cost in runtime.task_costs(opened.prepared))


def _without_programs(runtime: Runtime, cost: TaskCost) -> TaskProfile:
    task = cost.task
    shape = task.argument_shapes[-1][1]
    filters = shape[-1] if shape else 1
    tiles = runtime.filter_tiles(task, filters)
    return TaskProfile(
        name=task.name,
        subgraphs=tuple(part.layers for part in task.subgraphs),
        weight=task.weight,
        flops=task.flops,
        bytes_moved=bytes_moved(task.argument_shapes),
        latency_ms=cost.latency_ms,
        total_ms=cost.total_ms,
        share=cost.share,
        gflops=cost.gflops,
        bound=None,
        roofline_share=None,
        structure="",
        lowering="",
        filters=filters,
        keeping_counts=tuple(range(min(tiles), filters + 1, min(tiles))) if tiles else (),
    )


def groups_of(profile: TaskProfile, channels: ChannelGraph) -> tuple[str, ...]:
    """Returns the channel groups that a task's layers make, read or pass through."""
    layers = {layer for subgraph in profile.subgraphs for layer in subgraph}
    return tuple(
        group.name
        for group in channels.groups
        if any(member.layer in layers for member in group.members)
    )
