"""What the stages of a run give, in the form that the journal keeps and the report shows."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from cprune_tf.devices.latency import Latency


@dataclasses.dataclass(frozen=True)
class TaskRecord:
    """One task of a tuned model.

    Attributes:
        name: Readable and unique within the model.
        anchor: The operator that does the work, e.g. "conv2d".
        weight: How many subgraphs share it.
        layers: Keras layers of all its subgraphs.
        groups: Channel groups that its filters belong to.
        macs: Multiply-adds of one call.
        latency_ms: Of one call of its fastest program.
        total_ms: latency_ms x weight.
        share: Of the sum over all tasks, 0..1.
        gflops: Reached by the fastest program.
        structure_step: Filters whose removal keeps that program's structure; None where the task
            cannot be pruned, or its runtime shows no programs.
        program: How the fastest program tiles its axes; "" where the runtime shows none.
        protected: Why it cannot be pruned; None where it can.
    """

    name: str
    anchor: str
    weight: int
    layers: tuple[str, ...]
    groups: tuple[str, ...]
    macs: float
    latency_ms: float
    total_ms: float
    share: float
    gflops: float
    structure_step: int | None
    program: str
    protected: str | None


@dataclasses.dataclass(frozen=True)
class ModelRecord:
    """A model that became the current one.

    Attributes:
        iteration: 0 for the original.
        accuracy: Of the trained model, 0..1.
        latency: Of the whole model on the device.
        latency_ratio: latency / the original's, measured side by side.
        params: Parameters.
        macs: Multiply-adds of one inference.
        channels: Output channels of every layer that makes channels.
        tasks: What its latency is made of.
        model: The `.keras` file, relative to the run directory.
        history: The file of the removals that led to it; "" for the original.
    """

    iteration: int
    accuracy: float
    latency: Latency
    latency_ratio: float
    params: int
    macs: float
    channels: Mapping[str, int]
    tasks: tuple[TaskRecord, ...]
    model: str
    history: str = ""


@dataclasses.dataclass(frozen=True)
class ExportedFile:
    """A file that a run delivers.

    Attributes:
        name: For people.
        path: Relative to the run directory.
        bytes: Its size.
    """

    name: str
    path: str
    bytes: int
