"""What a report holds. Everything shown anywhere is a field here, so all its forms agree.

A number that was not measured is None, never a guess. Accuracies are fractions (0..1), times carry
their unit in the name.
"""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Latency:
    """Samples of one call of a whole model.

    Attributes:
        median_ms: Their median.
        q1_ms: Lower quartile.
        q3_ms: Upper quartile.
        min_ms: The fastest.
        count: How many.
        num_threads: Threads of the call.
        processor: What computed on a device whose GPU is used; "": there is only the CPU.
    """

    median_ms: float
    q1_ms: float | None = None
    q3_ms: float | None = None
    min_ms: float | None = None
    count: int | None = None
    num_threads: int | None = None
    processor: str = ""


@dataclasses.dataclass(frozen=True)
class LatencyComparison:
    """The same call before and after pruning.

    Attributes:
        runtime: "tvm" or "litert".
        num_threads: Threads of both.
        original: The first model's, or None.
        pruned: The result's, or None.
        speedup: Ratio of the medians; None where one is missing or the device is emulated.
        is_clear: Whether the quartile ranges are apart; None where that is not known.
        interleaved: Whether both were timed turn by turn in one session (the cross-check); else
            each was timed when its model was made.
        processor: What computed both; see Latency.
    """

    runtime: str
    num_threads: int | None
    original: Latency | None
    pruned: Latency | None
    speedup: float | None
    is_clear: bool | None
    interleaved: bool
    processor: str = ""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One quantity before and after.

    Attributes:
        name: What: a runtime for accuracies, a quantity or a kind of file for the others.
        original: The first model's, or None.
        pruned: The result's, or None.
        ratio: pruned / original, or None.
        difference: pruned - original, or None.
    """

    name: str
    original: float | None
    pruned: float | None
    ratio: float | None
    difference: float | None


@dataclasses.dataclass(frozen=True)
class Task:
    """One distinct workload of a compiled model.

    Attributes:
        name: Its name.
        anchor: Its main operator.
        weight: How many subgraphs share it.
        layers: The Keras layers it came from.
        groups: The channel groups its filters belong to.
        macs: Of one call.
        latency_ms: Of one call, by its fastest program.
        total_ms: latency_ms x weight.
        share: Of the sum over all tasks.
        gflops: Speed of that program.
        structure_step: Filters whose removal keeps its structure; None where it has no such axis.
        program: That program's structure, for people.
        protected: Why its filters are not removed, or None.
    """

    name: str
    anchor: str | None
    weight: int | None
    layers: tuple[str, ...]
    groups: tuple[str, ...]
    macs: float | None
    latency_ms: float | None
    total_ms: float | None
    share: float | None
    gflops: float | None
    structure_step: int | None
    program: str | None
    protected: str | None


@dataclasses.dataclass(frozen=True)
class Iteration:
    """A model that became the current one; number 0 is the original.

    Attributes:
        iteration: Its number.
        after_candidate: The candidates tried before it was there (0 for the original).
        accuracy: After its short training.
        latency: Of the whole tuned model.
        params: Parameters.
        macs: Multiply-accumulates of one call.
        channels: Layer to channel count.
        model: Its file, relative to the run directory.
    """

    iteration: int
    after_candidate: int
    accuracy: float | None
    latency: Latency | None
    params: int | None
    macs: int | None
    channels: dict[str, int]
    model: str | None


@dataclasses.dataclass(frozen=True)
class Decision:
    """What became of one candidate.

    Attributes:
        number: 1 for the first one of the run.
        iteration: Of the model it would have replaced.
        task: The task that was to be made faster.
        layers: The layers whose filters were to go.
        removed: Channel group to the number of channels.
        step: The structure step that led to it.
        price_ms: Whole-model latency predicted by transferred programs.
        current_latency_ms: Of the model it would have replaced.
        measured: Its own whole-model latency, where it came so far.
        accuracy: After its short training, where it came so far.
        current_accuracy: Of the model it would have replaced.
        decision: "accepted", "refused_latency", "refused_accuracy" or "infeasible".
        reason: Why.
        elapsed_sec: What it took.
    """

    number: int
    iteration: int | None
    task: str | None
    layers: tuple[str, ...]
    removed: dict[str, int]
    step: int | None
    price_ms: float | None
    current_latency_ms: float | None
    measured: Latency | None
    accuracy: float | None
    current_accuracy: float | None
    decision: str
    reason: str | None
    elapsed_sec: float | None


@dataclasses.dataclass(frozen=True)
class LayerChannels:
    """A layer's channels before and after; `after` is None where not known."""

    layer: str
    before: int
    after: int | None
    kept: float | None


@dataclasses.dataclass(frozen=True)
class RuntimeCheck:
    """One runtime's outputs for the test inputs, against Keras.

    Attributes:
        deployment: "original" or "pruned".
        runtime: "keras", "tvm" or "litert".
        accuracy: On the test set.
        max_abs_error: Largest difference of an output from Keras'.
        max_relative_error: The same, relative to Keras' largest output.
        top1_agreement: Fraction of the images with the same first class as in Keras.
        file_bytes: Size of what runs; None for Keras.
    """

    deployment: str
    runtime: str
    accuracy: float | None
    max_abs_error: float | None
    max_relative_error: float | None
    top1_agreement: float | None
    file_bytes: int | None


@dataclasses.dataclass(frozen=True)
class CrossCheck:
    """The same models and inputs through Keras, TVM and LiteRT on the device.

    Attributes:
        num_images: Images that were run on every runtime.
        checks: One for each model and runtime.
        problems: What is not as it should be, in sentences; empty: nothing.
    """

    num_images: int | None
    checks: tuple[RuntimeCheck, ...]
    problems: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class ExportedFile:
    """A file made for use elsewhere; `bytes` is its size."""

    name: str
    path: str
    bytes: int | None


@dataclasses.dataclass(frozen=True)
class StageTime:
    """Time spent in a stage over all sessions of the run."""

    name: str
    elapsed_sec: float
    share: float


@dataclasses.dataclass(frozen=True)
class Device:
    """Where latencies were measured.

    Attributes:
        name: For people.
        emulated: Whether its latencies mean nothing; None where not known.
        details: Everything else it told.
    """

    name: str | None
    emulated: bool | None
    details: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Report:
    """A run, told from its directory alone.

    Attributes:
        title: The pruned model's name.
        finished: Whether the run came to its end.
        status: One sentence: how it ended or where it stands.
        verdict: One sentence: what came out of it.
        stop_reason: Why the loop ended, or None.
        version: Of the package.
        config_hash: Short name of the config.
        sessions: How often the run was started or resumed.
        metric: "top1" or "top5": what `accuracy` means in iterations and decisions.
        required_accuracy: Below it nothing is accepted.
        final_accuracy: The result's, by Keras.
        device: Where latencies were measured.
        latencies: Before and after on each runtime and thread count; the tuned-for one first.
        accuracies: Before and after on each runtime.
        sizes: Before and after of parameters, MACs and files (bytes).
        iterations: The accepted models, the original first.
        decisions: Every candidate.
        decision_counts: Decision to how many.
        layers: Channels before and after.
        tasks_original: The original's tasks, the slowest first.
        tasks_pruned: Those of the last accepted model; empty where there is none.
        cross_check: Or None.
        files: What was exported.
        stages: Time by stage, in the order they ended.
        elapsed_sec: Over all sessions, as far as the journal tells.
        peak_memory_bytes: Of the run's process, or None.
        long_term_epochs: Of the training at the end, or None.
        notes: What a reader has to know before trusting the numbers.
        environment: environment.json.
        config: config.json.
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
    required_accuracy: float | None
    final_accuracy: float | None
    device: Device
    latencies: tuple[LatencyComparison, ...]
    accuracies: tuple[Comparison, ...]
    sizes: tuple[Comparison, ...]
    iterations: tuple[Iteration, ...]
    decisions: tuple[Decision, ...]
    decision_counts: dict[str, int]
    layers: tuple[LayerChannels, ...]
    tasks_original: tuple[Task, ...]
    tasks_pruned: tuple[Task, ...]
    cross_check: CrossCheck | None
    files: tuple[ExportedFile, ...]
    stages: tuple[StageTime, ...]
    elapsed_sec: float | None
    peak_memory_bytes: int | None
    long_term_epochs: int | None
    notes: tuple[str, ...]
    environment: dict[str, Any]
    config: dict[str, Any]
