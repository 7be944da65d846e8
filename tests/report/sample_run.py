"""Makes run directories like those of real runs, by the same writers, without tuning anything."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

from cprune_tf import config as config_lib
from cprune_tf.devices import DeviceInfo, Latency
from cprune_tf.runs.directory import RunDirectory

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
    ("stage1_conv1", 1, None, None, None, "infeasible",
     "1 of 16 filters would break the program's filter tile of 8; no step is left below 80 %"),
    ("stage3_conv1", 16, 0.1974, 0.1961, 0.9089, "accepted",
     "0.196 ms is 0.896 of the current latency; accuracy 0.9089 is above 0.995 x 0.9098"),
    ("stage2_conv1", 8, 0.1881, 0.1969, None, "refused_latency",
     "0.197 ms is 1.004 of the current latency; at most 0.99 is accepted"),
    ("stage3_conv2", 8, 0.1803, 0.1788, 0.9064, "accepted",
     "0.179 ms is 0.912 of the current latency; accuracy 0.9064 is above 0.995 x 0.9089"),
    ("stem_conv", 4, 0.1712, 0.1699, 0.8952, "refused_accuracy",
     "accuracy 0.8952 is below 0.995 x 0.9064 = 0.9019; this task is never pruned again"),
)  # fmt: skip

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


def device(emulated: bool = False) -> dict[str, Any]:
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
    ).to_json()


def tasks(channels: Mapping[str, int]) -> list[dict[str, Any]]:
    """The tasks of a model with these channels."""
    found = []
    for layer, base_ms in _TASK_MS.items():
        latency_ms = base_ms * channels[layer] / CHANNELS[layer]
        macs = round(2.1e6 * channels[layer] / CHANNELS[layer])
        found.append(
            {
                "name": f"fused_conv2d_{layer}",
                "anchor": "conv2d",
                "weight": 1,
                "layers": [layer, f"{layer}_bn", f"{layer}_relu"],
                "groups": [layer],
                "macs": macs,
                "latency_ms": latency_ms,
                "total_ms": latency_ms,
                "gflops": 2 * macs / latency_ms / 1e6,
                "structure_step": channels[layer] // 4,
                "program": f"filters [1, {channels[layer] // 16}, 16, 1], columns [4, 1, 2, 2]",
                "protected": None,
            }
        )
    found.append(
        {
            "name": "fused_matmul_classifier",
            "anchor": "matmul",
            "weight": 1,
            "layers": ["classifier"],
            "groups": [],
            "macs": 640,
            "latency_ms": 0.0009,
            "total_ms": 0.0009,
            "gflops": 1.42,
            "structure_step": None,
            "program": None,
            "protected": "its channels are the model's output",
        }
    )
    total = sum(task["total_ms"] for task in found)
    return [{**task, "share": task["total_ms"] / total} for task in found]


def _model(channels: Mapping[str, int], latency_ms: float, accuracy: float) -> dict[str, Any]:
    kept = sum(channels.values()) / sum(CHANNELS.values())
    return {
        "accuracy": accuracy,
        "latency": latency(latency_ms),
        "params": round(77_754 * kept**2),
        "macs": round(12_501_632 * kept**1.6),
        "channels": channels,
        "tasks": tasks(channels),
    }


def check_event(emulated: bool) -> dict[str, Any]:
    """The cross-check's event."""
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
            results.append(
                {
                    "deployment": deployment,
                    "runtime": runtime,
                    "accuracy": accuracy - (0.0005 if runtime == "litert" else 0.0),
                    "max_abs_error": 0.0 if runtime == "keras" else 1.1e-6,
                    "max_relative_error": 0.0 if runtime == "keras" else 8.3e-7,
                    "top1_agreement": 1.0 if runtime != "litert" else 0.9995,
                    "file_bytes": None
                    if runtime == "keras"
                    else {"original": 318_764, "pruned": 171_204}[deployment]
                    + (61_440 if runtime == "tvm" else 0),
                    "latencies": [latency(m, n) for n, m in enumerate(medians, start=1)],
                }
            )
    return {
        "device": device(emulated),
        "metric": "top1",
        "num_images": 2000,
        "results": results,
        "speedups": [],
        "problems": [],
    }


def make_run(
    root: pathlib.Path,
    *,
    until: str = "finished",
    emulated: bool = False,
    problems: tuple[str, ...] = (),
    num_tried: int = len(_TRIED),
) -> pathlib.Path:
    """Writes a run directory.

    Args:
        root: The directory.
        until: The kind of event after which the run was killed.
        emulated: Whether the device is.
        problems: The cross-check's.
        num_tried: Candidates tried at most.

    Returns:
        The directory.
    """
    with RunDirectory.create(root, CONFIG) as run:
        for event, fields in _events(run, emulated, problems, num_tried):
            run.journal.append(event, **fields)
            if event == until:
                break
    return root


def _events(run: RunDirectory, emulated: bool, problems: tuple[str, ...], num_tried: int) -> Any:
    hash_ = run.config_hash
    yield (
        "run_started",
        {
            "version": "0.1.0",
            "config_hash": hash_,
            "model": "resnet8_fashion",
            "device": device(emulated),
            "resumed": False,
        },
    )
    stages = {name: {"name": name, "elapsed_sec": elapsed} for name, elapsed in _STAGES}
    yield "stage", stages["Read model and data"]
    run.write_bytes("models/iter_0000.keras", b"k" * 421_900)
    original = _model(CHANNELS, 0.2706, 0.9145)
    yield (
        "baseline",
        {
            "iteration": 0,
            "model": "models/iter_0000.keras",
            "required_accuracy": 0.9,
            "metric": "top1",
            **original,
        },
    )
    yield "stage", stages["Tune the original model"]
    channels = yield from _search(run, num_tried)
    yield "stopped", {"reason": "every task is protected or was refused", "iteration": 4}
    yield "stage", stages["Prune"]
    run.write_bytes("final.keras", b"k" * 243_100)
    yield "long_term_trained", {"accuracy": 0.9102, "epochs": 12, "model": "final.keras"}
    for name in list(stages)[3:6]:
        yield "stage", stages[name]
    yield (
        "exported",
        {
            "files": [
                {"name": "Keras model", "path": "final.keras", "bytes": 243_100},
                {"name": "LiteRT model", "path": "final.tflite", "bytes": 171_204},
                {"name": "TVM library", "path": "final.so", "bytes": 232_644},
            ]
        },
    )
    assert sum(channels.values()) < sum(CHANNELS.values()) or not num_tried
    yield "cross_check", {**check_event(emulated), "problems": problems}
    yield "stage", stages["Cross-check"]
    yield "finished", {"elapsed_sec": 551.2, "peak_memory_bytes": 2_143_289_344}


def _search(run: RunDirectory, num_tried: int) -> Any:
    channels, current_ms, accuracy, iteration = dict(CHANNELS), 0.2706, 0.9145, 0
    for index, row in enumerate(_TRIED[:num_tried], start=1):
        layer, count, price_ms, measured_ms, reached, decision, reason = row
        yield (
            "candidate",
            {
                "index": index,
                "iteration": iteration,
                "task": f"fused_conv2d_{layer}",
                "layers": [layer],
                "removed": {layer: count},
                "step": count,
                "price_ms": price_ms,
                "current_latency_ms": current_ms,
                "measured": None if measured_ms is None else latency(measured_ms),
                "accuracy": reached,
                "current_accuracy": accuracy,
                "decision": decision,
                "reason": reason,
                "elapsed_sec": 4.2 if measured_ms is None else 31.7,
            },
        )
        if decision == "accepted" and measured_ms is not None and reached is not None:
            iteration, current_ms, accuracy = iteration + 1, measured_ms, reached
            channels = {**channels, layer: channels[layer] - count}
            name = f"models/iter_{iteration:04d}"
            run.write_bytes(f"{name}.keras", b"k" * 300_000)
            yield (
                "accepted",
                {
                    "iteration": iteration,
                    "model": f"{name}.keras",
                    "history": f"{name}.history.json",
                    **_model(channels, measured_ms, reached),
                },
            )
    return channels
