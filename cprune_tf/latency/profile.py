"""The whole model on one page: its tasks, whose layers and channels they are, and the overhead.

The roofline and the tiles of good programs are TVM's, so the model must be opened with TVM.
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
    """A task and whose channels decide its shape.

    Attributes:
        task: The task, held against the roofline.
        groups: Channel groups on its subgraphs' inputs and outputs.
        timed_ms: Of one call, timed in turns with the whole model.
    """

    task: TaskProfile
    groups: tuple[str, ...]
    timed_ms: float


@dataclasses.dataclass(frozen=True)
class ModelProfile:
    """A tuned model's latency, explained.

    Attributes:
        tasks: Costliest first.
        roofline: The device's limits.
        whole_ms: Median latency of the built library.
        tasks_ms: Sum of all subgraphs, timed in turns with the whole model.
    """

    tasks: tuple[ProfiledTask, ...]
    roofline: Roofline
    whole_ms: float
    tasks_ms: float

    @property
    def overhead_ms(self) -> float:
        """What the whole takes beyond its tasks: the runtime, and caches that others filled."""
        return self.whole_ms - self.tasks_ms

    @property
    def overhead_fraction(self) -> float:
        """The overhead relative to the whole."""
        return self.overhead_ms / self.whole_ms

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON types."""
        return {
            "whole_ms": self.whole_ms,
            "tasks_ms": self.tasks_ms,
            "overhead_ms": self.overhead_ms,
            "overhead_fraction": self.overhead_fraction,
            "roofline": dataclasses.asdict(self.roofline),
            "tasks": [
                {
                    **dataclasses.asdict(each.task),
                    "groups": list(each.groups),
                    "timed_ms": each.timed_ms,
                }
                for each in self.tasks
            ],
        }


def profile_model(
    opened: OpenedModel,
    roofline: Roofline,
    measure: MeasureConfig,
    *,
    on_round: Callable[[int, int], None] = lambda done, total: None,
) -> ModelProfile:
    """Builds a tuned model and times it and its tasks in turns.

    Args:
        opened: The model, opened with TVM and tuned.
        roofline: The device's limits.
        measure: How the whole model is timed.
        on_round: Called with (rounds done, rounds in all).

    Returns:
        The profile.

    Raises:
        ConfigError: If the model was opened with another runtime than TVM.
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
    """The channel groups that a task's layers make, read or pass through."""
    layers = {layer for subgraph in profile.subgraphs for layer in subgraph}
    return tuple(
        group.name
        for group in channels.groups
        if any(member.layer in layers for member in group.members)
    )
