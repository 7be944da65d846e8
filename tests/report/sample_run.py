"""Makes run directories like those of real runs, by the same writers, without tuning anything."""

from __future__ import annotations

import pathlib
from collections.abc import Generator, Mapping
from typing import Any

from cprune_tf import config as config_lib
from cprune_tf.accuracy import PairedDifference
from cprune_tf.devices import DeviceInfo, Latency
from cprune_tf.runs.directory import RunDirectory
from cprune_tf.runs.events import (
    Accepted,
    Baseline,
    CandidateJudged,
    CountRuledOut,
    CrossChecked,
    DataDescribed,
    Evaluated,
    Exported,
    Finished,
    LongTermTrained,
    PatternsTrained,
    RunStarted,
    StageEnded,
    Stopped,
)
from cprune_tf.runs.results import (
    CrossCheck,
    ExportedFile,
    ModelRecord,
    RuntimeResult,
    TaskRecord,
)

Events = Generator[Any, None, None]

CONFIG = config_lib.from_mapping(
    {"strategy": {"required_accuracy": 0.9}, "training": {"long_term": {"epochs": 12}}}
)

CHANNELS = {
    "stem_conv": 16,
    "stage1_conv1": 16,
    "stage1_conv2": 16,
    "stage2_conv1": 32,
    "stage2_conv2": 32,
    "stage2_shortcut": 32,
    "stage3_conv1": 64,
    "stage3_conv2": 64,
    "stage3_shortcut": 64,
}

_TASK_MS = {
    "stem_conv": 0.0163,
    "stage1_conv1": 0.0291,
    "stage1_conv2": 0.0317,
    "stage2_conv1": 0.0246,
    "stage2_conv2": 0.0402,
    "stage2_shortcut": 0.0051,
    "stage3_conv1": 0.0289,
    "stage3_conv2": 0.0611,
    "stage3_shortcut": 0.0068,
}

# What was tried: layer, channels removed, predicted, measured, accuracy, decision, reason.
_TRIED: tuple[tuple[str, int, float | None, float | None, float | None, str, str], ...] = (
    ("stage3_conv2", 16, 0.2441, 0.2398, 0.9121, "accepted",
     "0.240 ms is 0.886 of the current latency; accuracy 0.9121 is above 0.995 x 0.9145"),
    ("stage3_conv2", 16, 0.2389, None, None, "refused_latency",
     "predicted 0.239 ms is 0.996 of the current latency; at most 0.99 is accepted"),
    ("stage2_conv2", 8, 0.2214, 0.2188, 0.9098, "accepted",
     "0.219 ms is 0.912 of the current latency; accuracy 0.9098 is above 0.995 x 0.9121"),
    ("stage1_conv2", 4, 0.2057, 0.2039, 0.8987, "refused_accuracy",
     "accuracy 0.8987 is below 0.995 x 0.9098 = 0.9053; this task is never pruned again"),
    ("stage1_conv1", 1, 0.2201, None, None, "refused_latency",
     "predicted 0.220 ms is 1.006 of the current latency; at most 0.99 is accepted"),
    ("stage3_conv1", 16, 0.1974, 0.1961, 0.9089, "accepted",
     "0.196 ms is 0.896 of the current latency; accuracy 0.9089 is above 0.995 x 0.9098"),
    ("stage2_conv1", 8, 0.1881, 0.1969, None, "refused_latency",
     "0.197 ms is 1.004 of the current latency; at most 0.99 is accepted"),
    ("stage3_conv2", 8, 0.1803, 0.1788, 0.9064, "accepted",
     "0.179 ms is 0.912 of the current latency; accuracy 0.9064 is above 0.995 x 0.9089"),
    ("stem_conv", 4, 0.1712, 0.1699, 0.8952, "refused_accuracy",
     "accuracy 0.8952 is below 0.995 x 0.9064 = 0.9019; this task is never pruned again"),
)  # fmt: skip

# Removed channels of one target, and their price / the current model's.
RULED_OUT = ((1, 1.021), (2, 1.004), (3, 0.997))

_STAGES = (
    ("Read model and data", 6.2),
    ("Tune the original model", 171.4),
    ("Prune", 224.9),
    ("Train the result", 61.0),
    ("Tune the result", 48.3),
    ("Export", 9.7),
    ("Cross-check", 21.5),
)


def latency(median_ms: float, num_threads: int = 1) -> Latency:
    """A latency with quartiles around its median."""
    return Latency(
        median_ms, median_ms * 0.991, median_ms * 1.014, median_ms * 0.972, 240, num_threads
    )


def device(emulated: bool = False) -> DeviceInfo:
    """What a device tells about itself."""
    return DeviceInfo(
        kind="local",
        abi="aarch64" if emulated else "x86_64",
        cpu_name="AMD EPYC 7B13",
        num_cores=2,
        features=("avx", "avx2", "fma", "sse4_2"),
        memory_bytes=8_345_821_184,
        max_frequency_mhz=None,
        governor=None,
        temperature_celsius=None,
        os="Linux 6.1.0-28-amd64",
        python="3.11.2",
        runtimes={"tvm": "0.27.0.post1", "litert": "ai-edge-litert 2.3.0"},
        emulated=emulated,
    )


def tasks(channels: Mapping[str, int]) -> tuple[TaskRecord, ...]:
    """The tasks of a model with these channels."""
    latencies = {
        layer: base_ms * channels[layer] / CHANNELS[layer] for layer, base_ms in _TASK_MS.items()
    }
    classifier_ms = 0.0009
    total_ms = sum(latencies.values()) + classifier_ms
    rows = [
        _convolution(layer, channels[layer], latency_ms, latency_ms / total_ms)
        for layer, latency_ms in latencies.items()
    ]
    classifier = TaskRecord(
        name="fused_matmul_classifier",
        anchor="matmul",
        weight=1,
        layers=("classifier",),
        groups=(),
        macs=640,
        latency_ms=classifier_ms,
        total_ms=classifier_ms,
        share=classifier_ms / total_ms,
        gflops=1.42,
        structure_step=None,
        program="",
        protected="its channels are the model's output",
    )
    return (*rows, classifier)


def _convolution(layer: str, channels: int, latency_ms: float, share: float) -> TaskRecord:
    macs = round(2.1e6 * channels / CHANNELS[layer])
    return TaskRecord(
        name=f"fused_conv2d_{layer}",
        anchor="conv2d",
        weight=1,
        layers=(layer, f"{layer}_bn", f"{layer}_relu"),
        groups=(layer,),
        macs=macs,
        latency_ms=latency_ms,
        total_ms=latency_ms,
        share=share,
        gflops=2 * macs / latency_ms / 1e6,
        structure_step=channels // 4,
        program=f"filters [1, {channels // 16}, 16, 1], columns [4, 1, 2, 2]",
        protected=None,
    )


def paired(accuracy: float) -> PairedDifference:
    """The difference from the original's accuracy on 2,000 images."""
    difference = round(2000 * (accuracy - 0.9145))
    return PairedDifference(2000, 20 + max(difference, 0), 20 - min(difference, 0))


def _paired_of_candidate(accuracy: float | None) -> PairedDifference | None:
    if accuracy is None:
        return None
    # A clear refusal was evaluated on a part of the images.
    return PairedDifference(750, 5, 18) if accuracy == 0.8952 else paired(accuracy)


def model_fields(
    iteration: int,
    latency_ms: float,
    accuracy: float,
    channels: Mapping[str, int] = CHANNELS,
) -> dict[str, Any]:
    """What a ModelRecord, a Baseline or an Accepted event is made of."""
    kept = sum(channels.values()) / sum(CHANNELS.values())
    name = f"models/iter_{iteration:04d}"
    return {
        "iteration": iteration,
        "accuracy": accuracy,
        "latency": latency(latency_ms),
        "latency_ratio": latency_ms / 0.2706,
        "params": round(77_754 * kept**2),
        "macs": round(12_501_632 * kept**1.6),
        "channels": channels,
        "tasks": tasks(channels),
        "model": f"{name}.keras",
        "history": f"{name}.history.json" if iteration else "",
        "paired": paired(accuracy) if iteration else None,
    }


def cross_check(emulated: bool = False, problems: tuple[str, ...] = ()) -> CrossCheck:
    """What a cross-check finds."""
    times = {
        ("original", "tvm"): (0.2706, 0.1893),
        ("original", "litert"): (0.2683, 0.1811),
        ("pruned", "tvm"): (0.1757, 0.1264),
        ("pruned", "litert"): (0.1842, 0.1803),
    }
    results = []
    for deployment in ("original", "pruned"):
        accuracy = 0.9145 if deployment == "original" else 0.9102
        for runtime in ("keras", "tvm", "litert"):
            medians = times.get((deployment, runtime), ())
            size = {"original": 318_764, "pruned": 171_204}[deployment]
            result = RuntimeResult(
                deployment=deployment,
                runtime=runtime,
                accuracy=accuracy - (0.0005 if runtime == "litert" else 0.0),
                max_abs_error=0.0 if runtime == "keras" else 1.1e-6,
                max_relative_error=0.0 if runtime == "keras" else 8.3e-7,
                top1_agreement=1.0 if runtime != "litert" else 0.9995,
                file_bytes={"keras": None, "tvm": size + 61_440, "litert": size}[runtime],
                latencies=tuple(latency(m, n) for n, m in enumerate(medians, start=1)),
                paired=PairedDifference(2000, 30, 39) if deployment == "pruned" else None,
            )
            results.append(result)
    return CrossCheck(
        device=device(emulated),
        metric="top1",
        num_images=2000,
        results=tuple(results),
        speedups=(),
        problems=problems,
    )


def make_run(
    root: pathlib.Path,
    *,
    until: str = "finished",
    patterns: PatternsTrained | None = None,
    emulated: bool = False,
    problems: tuple[str, ...] = (),
    num_tried: int = len(_TRIED),
    data: DataDescribed | None = None,
) -> pathlib.Path:
    """Writes a run directory.

    Args:
        root: The directory.
        until: The kind of event after which the run was killed.
        patterns: What was trained towards patterns, before the first candidate was judged.
        emulated: Whether the device is.
        problems: The cross-check's.
        num_tried: Candidates tried at most.
        data: Which images decided and are quoted; None: the journal does not say.

    Returns:
        The directory.
    """
    with RunDirectory.create(root, CONFIG) as run:
        if data is not None:
            run.journal.append(data)
        for event in _events(run, emulated, problems, num_tried):
            if patterns is not None and isinstance(event, CandidateJudged):
                run.journal.append(patterns)
                patterns = None
            run.journal.append(event)
            if event.kind == until:
                break
    return root


def _events(run: RunDirectory, emulated: bool, problems: tuple[str, ...], num_tried: int) -> Events:
    yield RunStarted("0.1.0", run.config_hash, "resnet8_fashion", device(emulated), False)
    stages = [StageEnded(name, elapsed) for name, elapsed in _STAGES]
    yield stages[0]
    yield Evaluated(0.9145)
    run.write_bytes("models/iter_0000.keras", b"k" * 421_900)
    yield Baseline(**model_fields(0, 0.2706, 0.9145), required_accuracy=0.9, metric="top1")
    yield stages[1]
    channels = yield from _search(run, num_tried)
    yield Stopped("every task is protected or was refused", 4)
    yield stages[2]
    run.write_bytes("final.keras", b"k" * 243_100)
    yield LongTermTrained(0.9102, 12, "trained", "final.keras", paired=paired(0.9102))
    yield from stages[3:6]
    yield Exported(
        (
            ExportedFile("Keras model", "final.keras", 243_100),
            ExportedFile("LiteRT model", "final.tflite", 171_204),
            ExportedFile("TVM library", "final.so", 232_644),
        )
    )
    assert sum(channels.values()) < sum(CHANNELS.values()) or not num_tried
    yield CrossChecked.of(cross_check(emulated, problems))
    yield stages[6]
    yield Finished(551.2, 2_143_289_344)


def _search(run: RunDirectory, num_tried: int) -> Generator[Any, None, dict[str, int]]:
    channels, current = dict(CHANNELS), ModelRecord(**model_fields(0, 0.2706, 0.9145))
    for index, row in enumerate(_TRIED[:num_tried]):
        layer, count, price_ms, measured_ms, reached, decision, reason = row
        accepted = None
        if decision == "accepted" and measured_ms is not None and reached is not None:
            channels = {**channels, layer: channels[layer] - count}
            fields = model_fields(current.iteration + 1, measured_ms, reached, channels)
            accepted = ModelRecord(**fields)
        yield CandidateJudged(
            index=index,
            iteration=current.iteration,
            key=layer,
            task=f"fused_conv2d_{layer}",
            layers=(layer,),
            removed={layer: count},
            step=count,
            price_ms=price_ms,
            current_latency_ms=current.latency.median_ms,
            measured=None if measured_ms is None else latency(measured_ms),
            accuracy=reached,
            current_accuracy=current.accuracy,
            decision=decision,
            reason=reason,
            elapsed_sec=4.2 if measured_ms is None else 31.7,
            accepted=accepted,
            paired=_paired_of_candidate(reached),
        )
        if accepted is not None:
            current = accepted
            run.write_bytes(accepted.model, b"k" * 300_000)
            yield Accepted(**fields)
    for step, ratio in RULED_OUT[: num_tried and None]:
        yield CountRuledOut("stem_conv", step, ratio, f"priced at {ratio:.1%} of the current")
    return channels
