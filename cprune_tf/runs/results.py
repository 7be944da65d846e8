"""What the stages of a run give, in the form that the journal keeps and the report shows."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from cprune_tf.devices.base import DeviceInfo
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
        macs: Multiply-adds of one inference; None where a size is unknown.
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
    macs: int | None
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


@dataclasses.dataclass(frozen=True)
class RuntimeResult:
    """What one deployment does on one runtime.

    Attributes:
        deployment: The deployment's name.
        runtime: "keras", "tvm" or "litert".
        accuracy: Of its outputs against the labels, 0 to 1.
        max_abs_error: Largest absolute difference to Keras's outputs.
        max_relative_error: max |a - b| / max |b|, b being Keras's outputs.
        top1_agreement: Fraction of the images with the same first class as in Keras.
        file_bytes: Size of the file; None for Keras.
        latencies: One for each number of threads; none for Keras.
    """

    deployment: str
    runtime: str
    accuracy: float
    max_abs_error: float
    max_relative_error: float
    top1_agreement: float
    file_bytes: int | None
    latencies: tuple[Latency, ...]


@dataclasses.dataclass(frozen=True)
class Speedup:
    """How many times faster a deployment is than the first one.

    Attributes:
        deployment: The faster one, hopefully.
        baseline: The first deployment.
        runtime: "tvm" or "litert".
        num_threads: Threads of both.
        ratio: Median of the baseline / median of the deployment.
        low: Lower quartile of the baseline / upper quartile of the deployment.
        high: Upper quartile of the baseline / lower quartile of the deployment.
    """

    deployment: str
    baseline: str
    runtime: str
    num_threads: int
    ratio: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class CrossCheck:
    """The comparison of deployments and runtimes on one device.

    Attributes:
        device: Where it was made.
        metric: "top1" or "top5".
        num_images: Images that were run on every runtime.
        results: One for each deployment and runtime.
        speedups: Of each further deployment over the first, by runtime and number of threads;
            none on an emulated device.
        problems: What is not as it should be, in words; empty: nothing.
    """

    device: DeviceInfo
    metric: str
    num_images: int
    results: tuple[RuntimeResult, ...]
    speedups: tuple[Speedup, ...]
    problems: tuple[str, ...]

    def result(self, deployment: str, runtime: str) -> RuntimeResult:
        """The result of a deployment on a runtime; KeyError where there is none."""
        for result in self.results:
            if (result.deployment, result.runtime) == (deployment, runtime):
                return result
        known = ", ".join(f"{r.deployment}/{r.runtime}" for r in self.results)
        raise KeyError(f"There is no result for {deployment}/{runtime}; there are {known}.")

    def latency(self, deployment: str, runtime: str, num_threads: int) -> Latency:
        """The latency of a deployment on a runtime; KeyError where it was not measured."""
        latencies = self.result(deployment, runtime).latencies
        for latency in latencies:
            if latency.num_threads == num_threads:
                return latency
        raise KeyError(
            f"{deployment}/{runtime} was not timed with {num_threads} threads, only with "
            f"{[latency.num_threads for latency in latencies]}."
        )

    def to_json(self) -> dict[str, Any]:
        """The same fields as JSON types."""
        return {**dataclasses.asdict(self), "device": self.device.to_json()}
