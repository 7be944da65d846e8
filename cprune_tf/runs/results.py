"""The results of a run's stages, in the form that the journal keeps and the report shows."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from cprune_tf.accuracy import Evaluation, PairedDifference
from cprune_tf.devices.base import DeviceInfo
from cprune_tf.devices.latency import Latency


@dataclasses.dataclass(frozen=True)
class TaskRecord:
    """One task of a tuned model.

    Attributes:
        name: A readable name, unique within the model.
        anchor: The operator that does the work, e.g. "conv2d".
        weight: How many subgraphs share the task.
        layers: Keras layers of all the task's subgraphs.
        groups: Channel groups that the task's filters belong to.
        macs: Multiply-adds of one call.
        latency_ms: Latency of one call of the task's fastest program.
        total_ms: latency_ms x weight.
        share: total_ms as a fraction (0..1) of the sum over all tasks.
        gflops: Rate of the fastest program in 1e9 floating-point operations per second.
        structure_step: Number of filters whose removal keeps the fastest program's structure; None
            if the task cannot be pruned or its runtime does not expose programs.
        program: How the fastest program tiles its axes; "" if the runtime does not expose programs.
        protected: Why the task cannot be pruned; None if it can.
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
        iteration: The model's iteration; 0 for the original.
        accuracy: Accuracy of the trained model, 0..1.
        latency: Latency of the whole model on the device.
        latency_ratio: Median latency / the original's, measured side by side.
        params: Number of parameters.
        macs: Multiply-adds of one inference; None if a size is unknown.
        channels: Number of output channels of every layer that makes channels.
        tasks: The model's tasks, which together make up its latency.
        model: The `.keras` file, relative to the run directory.
        history: The file that lists the removals that led to the model, relative to the run
            directory; "" for the original.
        paired: The difference of the accuracy from the original's; None for the original itself, or
            if the caller's own function evaluates.
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
    paired: PairedDifference | None = None

    @property
    def evaluation(self) -> Evaluation:
        """The accuracy, which rests on all images that decide."""
        return Evaluation.whole(self.accuracy, self.paired)


@dataclasses.dataclass(frozen=True)
class PatternLayer:
    """What stays of the weights of a pattern-sparse layer.

    Attributes:
        name: The layer's name.
        height: Of its kernels.
        width: Of its kernels.
        num_inputs: Input channels that a filter reads.
        num_outputs: Number of filters.
        block_size: Filters that share their kernels and patterns.
        num_kernels: num_inputs x num_outputs.
        num_kept: Kernels of which anything stays.
        num_patterns: Patterns that these kernels keep to.
        num_weights: Weights that stay.
        fkw_bytes: The bytes of the weights and their indices in FKW form.
    """

    name: str
    height: int
    width: int
    num_inputs: int
    num_outputs: int
    block_size: int
    num_kernels: int
    num_kept: int
    num_patterns: int
    num_weights: int
    fkw_bytes: int


@dataclasses.dataclass(frozen=True)
class DrawnPattern:
    """A pattern of a model.

    Attributes:
        height: Of the kernels that it is for.
        width: Of the kernels that it is for.
        entries: The entries that stay, counted row by row from 0.
        natural_share: The part (0..1) of the original's kernels whose natural pattern it is.
        used_share: The part (0..1) of the kept kernels of that size that have it.
    """

    height: int
    width: int
    entries: tuple[int, ...]
    natural_share: float
    used_share: float


@dataclasses.dataclass(frozen=True)
class PatternEpoch:
    """How far weights were from their projections after an epoch, as parts of their norm.

    Attributes:
        patterns: From the patterns; the mean over all layers.
        connectivity: From the connectivity; None where the method does not tell.
    """

    patterns: float
    connectivity: float | None


@dataclasses.dataclass(frozen=True)
class ExportedFile:
    """A file that a run delivers.

    Attributes:
        name: A readable name.
        path: The file's path, relative to the run directory.
        bytes: The file's size.
    """

    name: str
    path: str
    bytes: int


def file_label(runtime: str, precision: str, further_threads: int = 0) -> str:
    """Returns what a kind of file is called: its runtime, with the precision where that tells more.

    Args:
        runtime: "tvm" or "litert".
        precision: The dtype in which the file stores weights. TVM computes in float32 with each.
        further_threads: The number of threads that a library was made for, if that is one of
            config.measure.further_threads.

    Returns:
        "tvm", "tvm for 4 threads", "litert", "litert float16" or "litert int8".
    """
    if further_threads:
        return f"{runtime} for {further_threads} thread{'' if further_threads == 1 else 's'}"
    return runtime if runtime == "tvm" or precision == "float32" else f"{runtime} {precision}"


@dataclasses.dataclass(frozen=True)
class RuntimeResult:
    """The outputs and latencies of one deployment on one runtime.

    Attributes:
        deployment: The deployment's name.
        runtime: "keras", or the label of a file; see `file_label`.
        accuracy: Accuracy of the outputs, 0..1; None if only the caller's own function tells.
        max_abs_error: Largest absolute difference from Keras's outputs, all of them together.
        max_relative_error: max |a - b| / max |b|, where b are Keras's values of one output; the
            largest of all outputs.
        top1_agreement: Fraction (0..1) of the images with the same first class as in Keras; None
            if the model is no classifier.
        file_bytes: Size of the deployed file; None for Keras.
        latencies: One latency for each number of threads; empty for Keras.
        paired: The difference of the accuracy from that of the first deployment, on the same
            runtime; None for the first deployment.
    """

    deployment: str
    runtime: str
    accuracy: float | None
    max_abs_error: float
    max_relative_error: float
    top1_agreement: float | None
    file_bytes: int | None
    latencies: tuple[Latency, ...]
    paired: PairedDifference | None = None


@dataclasses.dataclass(frozen=True)
class Speedup:
    """How many times faster a deployment is than the first deployment.

    Attributes:
        deployment: Name of the deployment.
        baseline: Name of the first deployment.
        runtime: The label of both files; see `file_label`.
        num_threads: Number of threads of both deployments.
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
        device: The device that TVM and LiteRT ran on.
        metric: The name of the metric that all accuracies are of; see `accuracy.Metric`.
        num_images: Number of images that were run on every runtime.
        results: One result for each deployment and runtime.
        speedups: Speed-ups of each other deployment over the first, by runtime and number of
            threads; empty on an emulated device.
        problems: Sentences that say what is wrong; empty if nothing is.
    """

    device: DeviceInfo
    metric: str
    num_images: int
    results: tuple[RuntimeResult, ...]
    speedups: tuple[Speedup, ...]
    problems: tuple[str, ...]

    def result(self, deployment: str, runtime: str) -> RuntimeResult:
        """Returns the result of a deployment on a runtime; raises KeyError if there is none."""
        for result in self.results:
            if (result.deployment, result.runtime) == (deployment, runtime):
                return result
        available = ", ".join(f"{r.deployment}/{r.runtime}" for r in self.results)
        raise KeyError(
            f"There is no result for {deployment}/{runtime}; expected one of {available}."
        )

    def latency(self, deployment: str, runtime: str, num_threads: int) -> Latency:
        """Returns the latency of a deployment; raises KeyError if it was not measured."""
        latencies = self.result(deployment, runtime).latencies
        for latency in latencies:
            if latency.num_threads == num_threads:
                return latency
        raise KeyError(
            f"{deployment}/{runtime} was not timed with {num_threads} threads, only with "
            f"{[latency.num_threads for latency in latencies]}."
        )

    def to_json(self) -> dict[str, Any]:
        """Returns the same fields as JSON types."""
        return {**dataclasses.asdict(self), "device": self.device.to_json()}
