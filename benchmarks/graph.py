r"""Measures analysis and rebuilding on every architecture of keras.applications.

    python benchmarks/graph.py                  # all of them, writes results, plot and docs table
    python benchmarks/graph.py --models=ResNet50,MobileNetV2
    python benchmarks/graph.py --tables_only    # plot and docs table from the committed results

Each architecture runs in a process of its own, at the smallest input that works, with random
weights: 30 % of every prunable group is removed at random, the rebuilt model is compared with the
masked original, saved and loaded again.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from absl import app, flags

ROOT = pathlib.Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "graph.json"
PLOT = ROOT / "docs" / "images" / "graph_cost.svg"
TABLE = ROOT / "docs" / "applications.md"

_SIZES = {"InceptionV3": 75, "InceptionResNetV2": 75, "Xception": 71}
_FRACTION = 0.3
_SAMPLE_SEC = 0.005
_TIMEOUT_SEC = 3600.0

_MODELS = flags.DEFINE_list("models", [], "Names in keras.applications; all where empty.")
_ONE = flags.DEFINE_string("one", None, "Measure this one here and print JSON (used internally).")
_TABLES_ONLY = flags.DEFINE_bool("tables_only", False, "Only write the plot and the docs table.")


class PeakMemory:
    """Samples this process's resident memory while a block runs."""

    def __init__(self) -> None:
        import psutil

        self._process = psutil.Process()
        self._done = threading.Event()
        self.start_bytes = self.peak_bytes = 0

    def __enter__(self) -> PeakMemory:
        self.start_bytes = self.peak_bytes = self._process.memory_info().rss
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *unused: object) -> None:
        self._done.set()
        self._thread.join()

    @property
    def growth_bytes(self) -> int:
        """The peak above where the block began."""
        return self.peak_bytes - self.start_bytes

    def _sample(self) -> None:
        while not self._done.wait(_SAMPLE_SEC):
            self.peak_bytes = max(self.peak_bytes, self._process.memory_info().rss)


def measure(name: str) -> dict[str, Any]:
    """Runs one architecture through everything.

    Args:
        name: In keras.applications.

    Returns:
        Processor times in seconds, memory in bytes, groups, errors.
    """
    import gc

    import numpy as np

    from cprune_tf import graph as graphs

    rng = np.random.default_rng(0)
    model, build_sec = timed(lambda: _build(name))
    _randomise(model, rng)
    gc.collect()
    with PeakMemory() as memory:
        graph, analyze_sec = timed(lambda: graphs.analyze(model))
        removal = {
            g.name: rng.choice(
                g.num_channels, max(1, int(g.num_channels * _FRACTION)), replace=False
            ).tolist()
            for g in graph.prunable
        }
        small, rebuild_sec = timed(
            lambda: graphs.rebuild(model, removal, fold_constants=False, graph=graph)
        )
    _, fold_sec = timed(lambda: graphs.plan_folding(graph.propagation, graph.keep(removal)))
    inputs = rng.normal(size=(2, *model.input_shape[1:])).astype("float32")
    masked_error = _difference(graphs.mask(model, removal, graph=graph), small, inputs)
    return {
        "name": name,
        "input": model.input_shape[1],
        "layers": len(graph.propagation.flat.calls),
        "params": model.count_params(),
        "params_pruned": small.count_params(),
        "groups": len(graph.groups),
        "prunable_groups": len(graph.prunable),
        "units": sum(g.num_channels for g in graph.groups),
        "prunable_units": sum(g.num_channels for g in graph.prunable),
        "protected": {g.name: g.protected for g in graph.groups if g.protected},
        "build_sec": build_sec,
        "analyze_sec": analyze_sec,
        "rebuild_sec": rebuild_sec,
        "fold_sec": fold_sec,
        "weight_bytes": graphs.statistics(model).weight_bytes,
        "memory_growth_bytes": memory.growth_bytes,
        "masked_error": masked_error,
        "loaded_error": _difference(_saved_and_loaded(small), small, inputs),
    }


def _randomise(model: Any, rng: Any) -> None:
    """Biases and means that show when they are mixed up."""
    for weight in model.weights:
        if weight.path.rsplit("/", 1)[-1] in ("bias", "beta", "moving_mean"):
            weight.assign(rng.normal(0.0, 0.1, weight.shape))


def _difference(reference: Any, model: Any, inputs: Any) -> float:
    """Largest difference of two models' outputs, relative to the reference's largest output."""
    import numpy as np

    expected, actual = np.asarray(reference(inputs)), np.asarray(model(inputs))
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


def _saved_and_loaded(model: Any) -> Any:
    import keras

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.keras")
        model.save(path)
        return keras.models.load_model(path)


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    """A result and the seconds of processor time it took."""
    start = time.process_time()
    result = function()
    return result, time.process_time() - start


def _build(name: str) -> Any:
    import keras

    keras.utils.set_random_seed(0)
    size = _SIZES.get(name, 32)
    return getattr(keras.applications, name)(
        weights=None, input_shape=(size, size, 3), classes=10, classifier_activation=None
    )


def names() -> list[str]:
    """All architectures."""
    import keras

    return sorted(n for n in dir(keras.applications) if n[0].isupper())


def run_all(chosen: Sequence[str]) -> None:
    """Measures each in a fresh process and keeps the results file up to date."""
    held = {r["name"]: r for r in _results()}
    failed: list[str] = []
    for name in chosen:
        done = subprocess.run(
            [sys.executable, __file__, f"--one={name}"],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_SEC,
            check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"},
        )
        if done.returncode:
            print(f"{name} failed:\n{done.stderr[-3000:]}", file=sys.stderr, flush=True)
            failed.append(name)
            continue
        held[name] = json.loads(done.stdout.strip().splitlines()[-1])
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        ordered = [held[key] for key in sorted(held)]
        RESULTS.write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")
        r = held[name]
        print(
            f"{name}: analysis {r['analyze_sec']:.2f} s, rebuild {r['rebuild_sec']:.2f} s, "
            f"error {r['masked_error']:.1e}",
            flush=True,
        )
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def _results() -> list[dict[str, Any]]:
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []


def write_table() -> None:
    """Writes docs/applications.md from the results."""
    lines = [
        "# keras.applications, pruned",
        "",
        "Written by `python benchmarks/graph.py`; do not edit. Every architecture with random",
        "weights, at the smallest input that works, 30 % of each prunable group removed at random.",
        "*Error* is the largest difference between the rebuilt model and the masked original,",
        "relative to the largest output; every rebuilt model was saved, loaded and compared again.",
        "*Calls* counts calls of layers and operations. Times are seconds of processor time",
        "(analysis plus rebuild; a busy machine makes wall time meaningless), with the time Keras",
        "takes to build the original beside them. *Memory* is how much the process grew at its",
        "peak during analysis and rebuild, relative to the model's weights.",
        "",
        "| architecture | calls | groups | prunable | prunable units | params | after | error "
        "| analysis | rebuild | Keras build | memory |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    results = _results()
    for r in results:
        lines.append(
            f"| {r['name']} | {r['layers']} | {r['groups']} | {r['prunable_groups']} "
            f"| {100 * r['prunable_units'] / r['units']:.1f} % | {r['params'] / 1e6:.1f} M "
            f"| {r['params_pruned'] / 1e6:.1f} M | {r['masked_error']:.1e} "
            f"| {r['analyze_sec']:.2f} | {r['rebuild_sec']:.2f} | {r['build_sec']:.2f} "
            f"| {r['memory_growth_bytes'] / r['weight_bytes']:.2f}x |"
        )
    lines += ["", "## What is protected, and why", "", "| architecture | group | reason |"]
    lines.append("|---|---|---|")
    for r in results:
        lines += [f"| {r['name']} | {group} | {why} |" for group, why in r["protected"].items()]
    lines += ["", "![time against calls](images/graph_cost.svg)", ""]
    TABLE.write_text("\n".join(lines), encoding="utf-8")


def write_plot() -> None:
    """Draws time against the number of calls."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "graph"
    from matplotlib import pyplot

    results = _results()
    figure, axis = pyplot.subplots(figsize=(7, 4.5))
    calls = [r["layers"] for r in results]
    axis.scatter(calls, [r["rebuild_sec"] for r in results], label="rebuild", s=18)
    axis.scatter(calls, [r["analyze_sec"] for r in results], label="analysis", s=18)
    axis.set(
        xlabel="calls of layers and operations", ylabel="seconds of processor time", xlim=0, ylim=0
    )
    axis.set_title("Analysis and rebuild of keras.applications")
    axis.legend()
    axis.grid(alpha=0.3)
    PLOT.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PLOT, metadata={"Date": None})


def main(argv: Sequence[str]) -> None:
    """Measures and writes what the flags ask for."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    if _ONE.value:
        print(json.dumps(measure(_ONE.value)))
        return
    if not _TABLES_ONLY.value:
        run_all(_MODELS.value or names())
    write_plot()
    write_table()


if __name__ == "__main__":
    app.run(main)
