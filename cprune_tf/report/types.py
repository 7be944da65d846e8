"""What a report holds. Everything shown anywhere is a field here, so all its forms agree.

A number that was not measured is None, never a guess. Accuracies are fractions (0..1), times carry
their unit in the name.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from cprune_tf.runs.results import ExportedFile, TaskRecord


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
    q1_ms: float
    q3_ms: float
    min_ms: float
    count: int
    num_threads: int
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
        is_clear: Whether the quartile ranges are apart; None where there is no speed-up.
        interleaved: Whether both were timed turn by turn in one session (the cross-check); else
            each was timed when its model was made.
        processor: What computed both; see Latency.
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
class Iteration:
    """A model that became the current one; number 0 is the original.

    Attributes:
        iteration: Its number.
        after_candidate: The candidates tried before it was there (0 for the original).
        accuracy: After its short training.
        latency: Of the whole tuned model.
        params: Parameters.
        macs: Multiply-accumulates of one inference; None where a size is unknown.
        channels: Layer to channel count.
        model: Its file, relative to the run directory.
    """

    iteration: int
    after_candidate: int
    accuracy: float
    latency: Latency
    params: int
    macs: int | None
    channels: dict[str, int]
    model: str


@dataclasses.dataclass(frozen=True)
class Decision:
    """What became of one candidate.

    Attributes:
        number: 1 for the first one of the run.
        iteration: Of the model it would have replaced.
        task: The task that was to be made faster; "" where the strategy aimed at no single one.
        layers: The layers of that task.
        removed: Channel group to the number of channels.
        step: Channels removed from each group of the target.
        price_ms: Whole-model latency predicted by transferred programs, or None.
        price_ratio: price_ms / the latency that the current model had when it was made, or None.
        current_latency_ms: Of the model it would have replaced; where the candidate was measured,
            this was measured beside it.
        measured: Its own whole-model latency, where it came so far.
        latency_ratio: measured / current_latency_ms, side by side; None where it was not measured.
        accuracy: After its short training, where it came so far.
        current_accuracy: Of the model it would have replaced.
        decision: "accepted", "refused_latency" or "refused_accuracy".
        reason: Why.
        elapsed_sec: What it took.
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
    current_accuracy: float
    decision: str
    reason: str
    elapsed_sec: float


@dataclasses.dataclass(frozen=True)
class RuledOut:
    """Channel counts of one target that were not proposed, since their price ruled them out.

    Attributes:
        key: Of the target.
        steps: The channels that would have been removed, in the order they were priced.
        lowest_ratio: The lowest of their prices / the current model's.
        highest_ratio: The highest.
        reason: Why the last one was ruled out.
    """

    key: str
    steps: tuple[int, ...]
    lowest_ratio: float
    highest_ratio: float
    reason: str


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
        max_abs_error: Largest difference of an output from Keras'; None where outputs are not
            finite numbers.
        max_relative_error: The same, relative to Keras' largest output.
        top1_agreement: Fraction of the images with the same first class as in Keras.
        file_bytes: Size of what runs; None for Keras.
    """

    deployment: str
    runtime: str
    accuracy: float
    max_abs_error: float | None
    max_relative_error: float | None
    top1_agreement: float
    file_bytes: int | None


@dataclasses.dataclass(frozen=True)
class CrossCheck:
    """The same models and inputs through Keras, TVM and LiteRT on the device.

    Attributes:
        num_images: Images that were run on every runtime.
        checks: One for each model and runtime.
        problems: What is not as it should be, in sentences; empty: nothing.
    """

    num_images: int
    checks: tuple[RuntimeCheck, ...]
    problems: tuple[str, ...]


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
        metric: "top1" or "top5": what `accuracy` means in iterations and decisions; None before the
            original was measured.
        required_accuracy: Below it nothing is accepted.
        final_accuracy: The result's, by Keras.
        device: Where latencies were measured.
        latencies: Before and after on each runtime and thread count; the tuned-for one first.
        accuracies: Before and after on each runtime.
        sizes: Before and after of parameters, MACs and files (bytes).
        iterations: The accepted models, the original first.
        decisions: Every candidate.
        decision_counts: Decision to how many.
        ruled_out: Channel counts that were ruled out by their price, by target.
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
    ruled_out: tuple[RuledOut, ...]
    layers: tuple[LayerChannels, ...]
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
