r"""Repeats the experiment of Radu et al. (IISWC 2019): pruning without and with the compiler.

    python benchmarks/uninstructed.py --workdir=runs/uninstructed

In convolutions of ResNet-50, 1 to 50 % of the filters are removed: exactly this share
(uninstructed), or down to the next count that keeps the inner tiles of the layer's fastest program
(instructed). Programs for every count come from transfer, without a search; then all counts of a
layer are timed interleaved. Layers that were measured in this folder are not measured again. Writes
results/uninstructed.json and a plot.
"""

from __future__ import annotations

import json
import pathlib
import statistics
import tempfile
from collections.abc import Sequence
from typing import Any

import record
from absl import app, flags
from workloads import convolution

from cprune_tf.compiler.session import CompilerSession
from cprune_tf.compiler.structure import counts_keeping_structure
from cprune_tf.compiler.tasks import LoweredModel
from cprune_tf.config import MeasureConfig, TuningConfig
from cprune_tf.devices import ModelFile, open_device
from cprune_tf.devices.base import Device

ROOT = pathlib.Path(__file__).resolve().parents[1]
PLOT = ROOT / "docs" / "images" / "uninstructed.svg"
# (kernel, stride, input size, input channels, filters) of layers from the first to the last stage.
_LAYERS = {
    "conv2_1x1a": (1, 1, 56, 256, 64),
    "conv2_3x3": (3, 1, 56, 64, 64),
    "conv2_1x1b": (1, 1, 56, 64, 256),
    "conv3_3x3": (3, 1, 28, 128, 128),
    "conv3_1x1b": (1, 1, 28, 128, 512),
    "conv4_3x3": (3, 1, 14, 256, 256),
    "conv4_1x1a": (1, 1, 14, 1024, 256),
    "conv5_3x3": (3, 1, 7, 512, 512),
    "conv5_1x1b": (1, 1, 7, 512, 2048),
}
_PERCENT = (1, 3, 6, 9, 12, 15, 18, 22, 26, 30, 34, 38, 42, 46, 50)

_TRIALS = flags.DEFINE_integer("trials", 32, "Trials of each unpruned layer.")
_ONLY = flags.DEFINE_list("layers", list(_LAYERS), "Names of the layers to measure.")
_WORKDIR = flags.DEFINE_string("workdir", None, "The folder of the database.", required=True)
_PLOT_ONLY = flags.DEFINE_bool("plot_only", False, "Only draw the committed results.")


def measure(name: str, session: CompilerSession, device: Device, folder: str) -> dict[str, Any]:
    """Measures the latency of one layer at every number of filters.

    Args:
        name: The layer's name in this benchmark.
        session: The session that tunes and prices programs.
        device: The device to time on.
        folder: The folder for the libraries.

    Returns:
        The layer's row in the results, as JSON types.
    """
    layer = _LAYERS[name]
    filters = layer[4]
    base = session.lower(convolution(*layer))
    session.tune(base, _TRIALS.value)
    (row,) = session.task_table(base)
    structured_counts = counts_keeping_structure([row.structure], filters)
    files = {filters: _build(session, base, folder, name, filters)}

    def add(count: int) -> None:
        if count not in files:
            pruned = session.lower(convolution(*layer[:4], count))
            session.price(pruned, base)
            files[count] = _build(session, pruned, folder, name, count)

    pairs = []
    for percent in _PERCENT:
        count = filters - max(1, round(filters * percent / 100))
        instructed_count = max(
            (n for n in structured_counts if n <= count), default=structured_counts[0]
        )
        pairs.append((percent, count, instructed_count))
        add(count)
        add(instructed_count)
    latencies = device.time_models(list(files.values()), 1, MeasureConfig(max_time_sec=1.0))
    latency_us = {n: t.median_ms * 1e3 for n, t in zip(files, latencies, strict=True)}
    points = [
        {
            "percent": percent,
            "filters": count,
            "latency_us": latency_us[count],
            "instructed_filters": instructed_count,
            "instructed_us": latency_us[instructed_count],
        }
        for percent, count, instructed_count in pairs
    ]
    whole_us = latency_us[filters]
    print(f"{name}: {whole_us:.1f} us, inner tile {row.structure.inner}", flush=True)
    return {
        "layer": name,
        "shape": list(layer),
        "lowering": row.lowering,
        "structure_step": row.structure.step,
        "inner_tile": row.structure.inner,
        "latency_us": whole_us,
        "points": points,
        "slower_than_unpruned": [p["filters"] for p in points if p["latency_us"] > whole_us],
    }


def _build(
    session: CompilerSession, lowered: LoweredModel, folder: str, name: str, count: int
) -> ModelFile:
    path = pathlib.Path(folder) / f"{name}_{count}.so"
    session.build(lowered, path)
    return ModelFile(f"{name} {count}", "tvm", str(path))


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Computes the figures that the docs quote."""
    at_12 = [p for row in rows for p in row["points"] if p["percent"] == 12]
    slowdowns_at_12 = [
        p["latency_us"] / row["latency_us"]
        for row in rows
        for p in row["points"]
        if p["percent"] == 12
    ]
    slowdowns = [max(p["latency_us"] for p in row["points"]) / row["latency_us"] for row in rows]
    gains = [p["latency_us"] / p["instructed_us"] for row in rows for p in row["points"]]
    return {
        "slower_points": sum(len(row["slower_than_unpruned"]) for row in rows),
        "slower_instructed_points": sum(
            p["instructed_us"] > row["latency_us"] for row in rows for p in row["points"]
        ),
        "points": sum(len(row["points"]) for row in rows),
        "largest_slowdown": max(slowdowns),
        "slower_layers_at_12_percent": sum(ratio > 1 for ratio in slowdowns_at_12),
        "largest_slowdown_at_12_percent": max(slowdowns_at_12),
        "gain_of_instructed_at_12_percent": statistics.geometric_mean(
            p["latency_us"] / p["instructed_us"] for p in at_12
        ),
        "gain_of_instructed": statistics.geometric_mean(gains),
        "largest_gain": max(gains),
    }


def plot(rows: list[dict[str, Any]]) -> None:
    """Draws the latency relative to the unpruned layer against the share of removed filters."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "uninstructed"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(3, 3, figsize=(10, 8), sharex=True, sharey=True)
    for axis, row in zip(axes.flat, rows, strict=False):
        percent = [p["percent"] for p in row["points"]]
        for key, label in (("latency_us", "uninstructed"), ("instructed_us", "instructed")):
            values = [p[key] / row["latency_us"] for p in row["points"]]
            axis.plot(percent, values, marker=".", label=label)
        axis.axhline(1.0, color="gray", linewidth=0.8)
        kernel, _, size, inputs, filters = row["shape"]
        axis.set_title(f"{kernel}x{kernel}, {size}x{size}, {inputs} to {filters}", fontsize=9)
        axis.grid(alpha=0.3)
    axes[0][0].legend(fontsize=8)
    figure.supxlabel("% of the filters removed")
    figure.supylabel("latency / unpruned")
    figure.tight_layout()
    figure.savefig(PLOT, metadata={"Date": None})


def main(argv: Sequence[str]) -> None:
    """Measures the layers, and writes and draws the results."""
    del argv
    path = record.RESULTS / "uninstructed.json"
    if not _PLOT_ONLY.value:
        config = TuningConfig(trials_per_round=16, programs_per_task=8)
        journal = pathlib.Path(_WORKDIR.value) / "layers.json"
        layers = json.loads(journal.read_text()) if journal.exists() else {}
        rows = []
        with (
            open_device("local") as device,
            CompilerSession(device, _WORKDIR.value, config, num_threads=1, seed=0) as session,
        ):
            for name in _ONLY.value:
                if name not in layers:
                    with tempfile.TemporaryDirectory() as folder:
                        layers[name] = measure(name, session, device, folder)
                    journal.write_text(json.dumps(layers))
                rows.append(layers[name])
                values = {"trials": _TRIALS.value, "summary": summary(rows), "layers": rows}
                path = record.write("uninstructed", {"num_threads": 1, **values})
    content = json.loads(path.read_text(encoding="utf-8"))
    plot(content["layers"])
    print(json.dumps(content["summary"], indent=1))
    print(path)


if __name__ == "__main__":
    app.run(main)
