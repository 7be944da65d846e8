"""The contents of a report. All its forms show these fields only, so they always agree.

A number that was not measured is None, never a guess. Accuracies are fractions (0..1). Fields with
times have their unit in the name.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from cprune_tf.accuracy import Metric
from cprune_tf.runs.results import DrawnPattern, ExportedFile, PatternEpoch, TaskRecord


@dataclasses.dataclass(frozen=True)
class Latency:
    """The measured latency of one call of a whole model.

    Attributes:
        median_ms: Median of the samples.
        q1_ms: Lower quartile of the samples.
        q3_ms: Upper quartile of the samples.
        min_ms: The fastest sample.
        count: Number of samples.
        num_threads: Number of threads of the call.
        processor: The processor that ran the model, on a device whose GPU is used; "" on a device
            that uses only its CPU.
    """

    median_ms: float
    q1_ms: float
    q3_ms: float
    min_ms: float
    count: int
    num_threads: int
    processor: str = ""


@dataclasses.dataclass(frozen=True)
class LatencyComparison:
    """The latency of a whole model before and after pruning.

    Attributes:
        runtime: "tvm" or "litert".
        num_threads: Number of threads of both measurements.
        original: The original's latency, or None.
        pruned: The result's latency, or None.
        speedup: Median of the original / median of the result; None if one of them is missing or
            the device is emulated.
        is_clear: Whether the interquartile ranges do not overlap; None if there is no speed-up.
        interleaved: Whether both were timed interleaved in one session (the cross-check).
            Otherwise each was timed when its model was made.
        processor: The processor that ran both models; see Latency.
    """

    runtime: str
    num_threads: int
    original: Latency | None
    pruned: Latency | None
    speedup: float | None
    is_clear: bool | None
    interleaved: bool
    processor: str = ""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One quantity before and after pruning.

    Attributes:
        name: The runtime, for accuracies; the quantity or the kind of file, for sizes.
        original: The original's value, or None.
        pruned: The result's value, or None.
        ratio: pruned / original, or None.
        difference: pruned - original, or None.
        standard_error: Of the difference, for accuracies on the same images; None if unknown.
    """

    name: str
    original: float | None
    pruned: float | None
    ratio: float | None
    difference: float | None
    standard_error: float | None = None


@dataclasses.dataclass(frozen=True)
class Iteration:
    """A model that became the current one; number 0 is the original.

    Attributes:
        iteration: The model's number.
        after_candidate: Number of candidates tried up to this model; 0 for the original.
        accuracy: Accuracy after short-term training, 0..1.
        latency: Latency of the whole tuned model.
        params: Number of parameters.
        macs: Multiply-adds of one inference; None if a size is unknown.
        channels: Number of channels by layer name.
        model: The model's file, relative to the run directory.
        difference: The accuracy minus the original's on the same images; None for the original, or
            if the caller's own function evaluated.
        standard_error: Of the difference; None if there is none.
    """

    iteration: int
    after_candidate: int
    accuracy: float
    latency: Latency
    params: int
    macs: int | None
    channels: dict[str, int]
    model: str
    difference: float | None = None
    standard_error: float | None = None


@dataclasses.dataclass(frozen=True)
class Decision:
    """The decision about one candidate.

    The current model is the one that the candidate was made from and would replace.

    Attributes:
        number: The candidate's number, from 1.
        iteration: The iteration of the current model.
        task: The task that the strategy aimed at, or what else it calls the candidate.
        layers: The Keras layers of that task.
        removed: Number of removed channels by channel group.
        step: Number of channels removed from each group of the target.
        price_ms: Whole-model latency predicted with transferred programs; None if not predicted.
        price_ratio: price_ms / the latency that the current model had when it was made, or None.
        current_latency_ms: The current model's latency; if the candidate was measured, this was
            measured side by side with it.
        measured: The candidate's whole-model latency; None if it was not measured.
        latency_ratio: Median of measured / current_latency_ms; None if it was not measured.
        accuracy: Accuracy after short-term training, 0..1; None if the candidate was not trained.
            An estimate if it was refused before all images were evaluated.
        num_images: Number of images that were evaluated; None if the candidate was not trained, or
            if the caller's own function evaluated.
        difference: The accuracy on these images minus the original's, or None.
        standard_error: Of the difference, or None.
        current_accuracy: The current model's accuracy, 0..1.
        decision: "accepted", "refused_latency" or "refused_accuracy".
        reason: Why the candidate was accepted or refused.
        elapsed_sec: Time spent on the candidate.
    """

    number: int
    iteration: int
    task: str
    layers: tuple[str, ...]
    removed: dict[str, int]
    step: int
    price_ms: float | None
    price_ratio: float | None
    current_latency_ms: float
    measured: Latency | None
    latency_ratio: float | None
    accuracy: float | None
    num_images: int | None
    difference: float | None
    standard_error: float | None
    current_accuracy: float
    decision: str
    reason: str
    elapsed_sec: float


@dataclasses.dataclass(frozen=True)
class RuledOut:
    """Channel counts of one target that were not proposed, because their price ruled them out.

    Attributes:
        key: The target's key.
        steps: Numbers of channels that would have been removed, in the order of pricing.
        lowest_ratio: The lowest price / the current model's price.
        highest_ratio: The highest price / the current model's price.
        reason: Why the last count was ruled out.
    """

    key: str
    steps: tuple[int, ...]
    lowest_ratio: float
    highest_ratio: float
    reason: str


@dataclasses.dataclass(frozen=True)
class LayerChannels:
    """A layer's channels before and after pruning.

    Attributes:
        layer: The layer's name.
        before: Number of channels in the original.
        after: Number of channels in the pruned model, 0 if the layer vanished; None if there is no
            pruned model.
        kept: after / before; None if `after` is None.
    """

    layer: str
    before: int
    after: int | None
    kept: float | None


@dataclasses.dataclass(frozen=True)
class Shippable:
    """One file that could be shipped, with all that decides which one is.

    Attributes:
        deployment: "original" or "pruned".
        runtime: The file's label; see `runs.results.file_label`.
        latencies: By number of threads, in rising order; None where it was not measured.
        accuracy: Accuracy on the test images, 0..1; None if only the caller's own function tells.
        file_bytes: Size of the file.
        suffices: Whether it loses no more than was allowed, from the original in Keras on the test
            images; None if that is unknown.
        is_best: Whether it is the fastest of those that suffice, at the run's number of threads.
    """

    deployment: str
    runtime: str
    latencies: tuple[Latency | None, ...]
    accuracy: float | None
    file_bytes: int
    suffices: bool | None
    is_best: bool


@dataclasses.dataclass(frozen=True)
class RuntimeCheck:
    """One runtime's outputs for the test images, compared with Keras.

    Attributes:
        deployment: "original" or "pruned".
        runtime: "keras", "tvm" or "litert".
        accuracy: Accuracy on the test images, 0..1; None if only the caller's own function tells.
        max_abs_error: Largest absolute difference from Keras's outputs; None if outputs are not
            finite numbers.
        max_relative_error: max_abs_error / the largest absolute output of Keras; None if it is not
            finite.
        top1_agreement: Fraction (0..1) of the images with the same first class as in Keras; None
            if the outputs are no classes.
        file_bytes: Size of the deployed file; None for Keras.
        standard_error: Of the difference from the original's accuracy on the same runtime and
            images; None for the original.
    """

    deployment: str
    runtime: str
    accuracy: float | None
    max_abs_error: float | None
    max_relative_error: float | None
    top1_agreement: float | None
    file_bytes: int | None
    standard_error: float | None = None


@dataclasses.dataclass(frozen=True)
class CrossCheck:
    """The same models and inputs through Keras, TVM and LiteRT on the device.

    Attributes:
        num_images: Number of images that were run on every runtime.
        checks: One check for each model and runtime.
        problems: Sentences that say what is wrong; empty if nothing is.
    """

    num_images: int
    checks: tuple[RuntimeCheck, ...]
    problems: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class StageTime:
    """The time spent on a stage.

    Attributes:
        name: The stage's name.
        elapsed_sec: Time spent on the stage in all sessions of the run.
        share: elapsed_sec as a fraction (0..1) of the sum over all stages.
    """

    name: str
    elapsed_sec: float
    share: float


@dataclasses.dataclass(frozen=True)
class Device:
    """The device that latencies were measured on.

    Attributes:
        name: A readable name; None if the device was not recorded.
        emulated: Whether the device is emulated, so that its latencies mean nothing; None if
            unknown.
        details: Everything else that is recorded about the device, as JSON types.
    """

    name: str | None
    emulated: bool | None
    details: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class SparseLayer:
    """What stays of a pattern-sparse layer.

    Attributes:
        layer: The layer's name.
        kernel: The size of its kernels, in words.
        block_size: Filters that share their kernels and patterns.
        num_kernels: Its kernels before.
        num_kept: Those of which anything stays.
        rate: num_kernels / num_kept.
        num_patterns: Patterns that these keep to.
        density: The part (0..1) of its weights that stays.
    """

    layer: str
    kernel: str
    block_size: int
    num_kernels: int
    num_kept: int
    rate: float
    num_patterns: int
    density: float


@dataclasses.dataclass(frozen=True)
class Stored:
    """The bytes of weights in one form.

    Attributes:
        name: The form, or the file.
        bytes: Its size.
    """

    name: str
    bytes: int


@dataclasses.dataclass(frozen=True)
class Patterns:
    """The patterns of a run.

    Attributes:
        method: How weights came to them: "admm", "one_shot" or "straight_through".
        is_delivered: Whether the result has them.
        num_epochs: Epochs of the training towards them.
        epochs: How far weights were from their projections after each; may be empty.
        drawn: The patterns.
        layers: What stays of each sparse layer.
        storage: In how many bytes.
    """

    method: str
    is_delivered: bool
    num_epochs: int
    epochs: tuple[PatternEpoch, ...]
    drawn: tuple[DrawnPattern, ...]
    layers: tuple[SparseLayer, ...]
    storage: tuple[Stored, ...]


@dataclasses.dataclass(frozen=True)
class Report:
    """The report of a run, built from its directory alone.

    Attributes:
        title: Name of the pruned model.
        finished: Whether the run is finished.
        status: One to three sentences: whether the run is finished, and how many candidates it
            accepted.
        verdict: One or two sentences: the result of the run.
        stop_reason: Why pruning ended; None if it has not ended.
        version: The version of this package that started the last session; None if unknown.
        config_hash: A short name of the config; None if unknown.
        sessions: How many times the run was started or resumed.
        metric: The name of the metric that all accuracies are of, "top1" for example; None before
            the original was measured.
        is_minimized: Whether the metric is minimised. All accuracies are its negatives then, so
            that higher is better.
        required_accuracy: The accuracy (0..1) that the result must have, or None.
        final_accuracy: The result's accuracy (0..1) in Keras, or None.
        device: The device that latencies were measured on.
        runtime: The runtime that measured during the run: "tvm" or "litert".
        latencies: Latencies before and after pruning, for each runtime and number of threads; the
            number that the model was tuned for comes first.
        accuracies: Accuracies before and after pruning, on each runtime.
        shippable: All files that could be shipped, the fastest first; empty without a cross-check.
        shippable_threads: The numbers of threads that their latencies were measured with.
        sizes: Parameters, MACs and file sizes (bytes) before and after pruning.
        iterations: The accepted models, the original first.
        decisions: The decisions about all candidates, oldest first.
        decision_counts: Number of candidates by decision.
        ruled_out: Channel counts that their price ruled out, by target.
        layers: Channels of each layer before and after pruning.
        patterns: The patterns that weights keep to; None in a run without them.
        tasks_original: The original's tasks, the one with the largest share first.
        tasks_pruned: Tasks of the last accepted model; empty if no candidate was accepted.
        cross_check: The cross-check without its latencies; None if it was not made.
        files: The exported files.
        stages: Time by stage, in the order in which the stages ended.
        elapsed_sec: Duration of all sessions, according to the journal; None if unknown.
        peak_memory_bytes: Peak memory of the run's main process, or None.
        long_term_epochs: Number of planned epochs of the training at the end, or None.
        notes: Sentences that a reader needs to know to interpret the numbers.
        environment: The contents of environment.json.
        config: The contents of config.json.
    """

    title: str
    finished: bool
    status: str
    verdict: str
    stop_reason: str | None
    version: str | None
    config_hash: str | None
    sessions: int
    metric: str | None
    is_minimized: bool
    required_accuracy: float | None
    final_accuracy: float | None
    device: Device
    runtime: str
    latencies: tuple[LatencyComparison, ...]
    accuracies: tuple[Comparison, ...]
    shippable: tuple[Shippable, ...]
    shippable_threads: tuple[int, ...]
    sizes: tuple[Comparison, ...]
    iterations: tuple[Iteration, ...]
    decisions: tuple[Decision, ...]
    decision_counts: dict[str, int]
    ruled_out: tuple[RuledOut, ...]
    layers: tuple[LayerChannels, ...]
    patterns: Patterns | None
    tasks_original: tuple[TaskRecord, ...]
    tasks_pruned: tuple[TaskRecord, ...]
    cross_check: CrossCheck | None
    files: tuple[ExportedFile, ...]
    stages: tuple[StageTime, ...]
    elapsed_sec: float | None
    peak_memory_bytes: int | None
    long_term_epochs: int | None
    notes: tuple[str, ...]
    environment: dict[str, Any]
    config: dict[str, Any]

    @property
    def judged_by(self) -> Metric:
        """The metric that all accuracies are of; "accuracy" before the original was measured."""
        return Metric(self.metric or "accuracy", self.is_minimized)
