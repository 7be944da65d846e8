"""Profiles a tuned model: its tasks with their layers and channel groups, and the overhead.

The roofline and the tiles of fast programs come from TVM, so the model must be opened with TVM.
"""

from __future__ import annotations

import dataclasses
import pathlib
import statistics
import tempfile
import typing
from collections.abc import Callable
from typing import Any

from cprune_tf.compiler.profiling import TaskProfile, profile_tasks
from cprune_tf.compiler.roofline import Roofline
from cprune_tf.compiler.tasks import LoweredModel
from cprune_tf.config import MeasureConfig
from cprune_tf.graph import ChannelGraph
from cprune_tf.latency.workspace import OpenedModel
from cprune_tf.runtimes.tvm import require_tvm

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
        roofline: The device's measured limits.
        whole_ms: Median latency of the built library.
        tasks_ms: Sum of the latencies of all subgraphs, timed in turns with the whole model.
    """

    tasks: tuple[ProfiledTask, ...]
    roofline: Roofline
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
            "roofline": dataclasses.asdict(self.roofline),
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
    roofline: Roofline,
    measure: MeasureConfig,
    *,
    on_round: Callable[[int, int], None] = lambda done, total: None,
) -> ModelProfile:
    """Builds a tuned model, then times it and its tasks in turns.

    Args:
        opened: The model, opened with TVM and tuned.
        roofline: The device's measured limits.
        measure: How the whole model is timed.
        on_round: Called with (rounds done, total rounds) before each round.

    Returns:
        The profile.

    Raises:
        ConfigError: If the model was opened with a runtime other than TVM.
        KeyError: If the model was not tuned.
    """
    runtime = require_tvm(opened.runtime, "A profile")
    rows = runtime.session.task_table(typing.cast(LoweredModel, opened.prepared))
    wholes_ms: list[float] = []
    samples_ms: dict[int, list[float]] = {row.task.key: [] for row in rows}
    with tempfile.TemporaryDirectory(prefix="cprune_profile_") as folder:
        library = pathlib.Path(folder) / f"whole{runtime.suffix}"
        runtime.build(opened.prepared, library)
        for number in range(_ROUNDS):
            on_round(number, _ROUNDS)
            (latency,) = runtime.time([library], opened.model, measure)
            wholes_ms.append(latency.median_ms)
            for row in rows:
                samples_ms[row.task.key] += runtime.samples_ms(row.task)
    call_ms = {key: statistics.median(samples) for key, samples in samples_ms.items()}
    profiles = profile_tasks(rows, roofline, runtime.session.database)
    tasks = tuple(
        ProfiledTask(profile, groups_of(profile, opened.channels), call_ms[row.task.key])
        for profile, row in zip(profiles, rows, strict=True)
    )
    total_ms = sum(call_ms[row.task.key] * row.task.weight for row in rows)
    return ModelProfile(tasks, roofline, statistics.median(wholes_ms), total_ms)


def groups_of(profile: TaskProfile, channels: ChannelGraph) -> tuple[str, ...]:
    """Returns the channel groups that a task's layers make, read or pass through."""
    layers = {layer for subgraph in profile.subgraphs for layer in subgraph}
    return tuple(
        group.name
        for group in channels.groups
        if any(member.layer in layers for member in group.members)
    )
