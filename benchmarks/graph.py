r"""Measures analysis and rebuilding on every architecture of keras.applications.

    python benchmarks/graph.py --checks     # prune, compare with masked, save, load, convert (slow)
    python benchmarks/graph.py              # time and memory; nothing else should run beside it
    python benchmarks/graph.py --models=ResNet50,MobileNetV2
    python benchmarks/graph.py --tables_only    # plot and docs table from the committed results

Every architecture gets the smallest input that works and random weights; 30 % of each prunable
group is removed at random. Each architecture is measured in a separate process; memory is read from
Linux's /proc.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import pathlib
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import graph_page
import record
from absl import app, flags

ROOT = pathlib.Path(__file__).resolve().parents[1]
RESULTS = record.RESULTS / "graph.json"
PLOT = ROOT / "docs" / "images" / "graph_cost.svg"
TABLE = ROOT / "docs" / "applications.md"

_TIMEOUT_SEC = 3600.0

_MODELS = flags.DEFINE_list("models", [], "Names in keras.applications; empty for all.")
_CHECKS = flags.DEFINE_bool("checks", False, "Check the results instead of measuring.")
_ONE = flags.DEFINE_string(
    "one", None, "Measure this architecture in this process and print JSON (internal)."
)
_BESIDE = flags.DEFINE_string("beside", None, "What else ran on the machine, for the docs.")
_TABLES_ONLY = flags.DEFINE_bool("tables_only", False, "Only write the plot and the docs table.")


def measure(name: str) -> dict[str, Any]:
    """Times analysis and rebuild of one architecture; the process must not have done others before.

    Args:
        name: The architecture's name in keras.applications.

    Returns:
        Wall-clock and processor times in seconds and sizes in bytes, all from one pass. "build" is
        the time in which Keras makes the original. Memory figures are peaks of resident memory
        above what the process held before that.
    """
    import zoo

    from cprune_tf import graph as graphs

    _warm_up()
    start = _resident_bytes("VmRSS")
    _forget_peak()
    model, build = timed(lambda: zoo.build(name))
    build_peak = _resident_bytes("VmHWM") - start
    gc.collect()
    settled = _resident_bytes("VmRSS") - start
    _forget_peak()
    graph, analysis = timed(lambda: graphs.analyze(model))
    removal = zoo.random_removal(graph)
    small, rebuild = timed(
        lambda: graphs.rebuild(model, removal, fold_constants=False, graph=graph)
    )
    peak = _resident_bytes("VmHWM") - start
    _, fold = timed(lambda: graphs.plan_folding(graph.propagation, graph.keep(removal)))
    return {
        "input": model.input_shape[1],
        "calls": len(graph.propagation.flat.calls),
        "weight_bytes": graphs.statistics(model).weight_bytes,
        "pruned_weight_bytes": graphs.statistics(small).weight_bytes,
        "build": build,
        "analysis": analysis,
        "rebuild": rebuild,
        "fold": fold,
        "build_peak_bytes": build_peak,
        "built_bytes": settled,
        "rebuild_peak_bytes": peak,
    }


def _warm_up() -> None:
    """Makes Keras and TensorFlow load their late parts, so that these count for neither side."""
    import keras

    from cprune_tf import graph as graphs

    inputs = keras.Input((8, 8, 3))
    x = keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3)(inputs))
    x = keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(x))
    graphs.rebuild(keras.Model(inputs, x), {}, fold_constants=False)
    gc.collect()


def _resident_bytes(key: str) -> int:
    """Returns this process's resident memory in bytes: "VmRSS" now, "VmHWM" at its peak."""
    for line in pathlib.Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {key}")


def _forget_peak() -> None:
    """Resets the peak of resident memory to the current value."""
    pathlib.Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def timed(function: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """Returns a function's result, and its wall-clock and processor time in seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = function()
    times = {"wall_sec": time.perf_counter() - wall, "cpu_sec": time.process_time() - cpu}
    return result, times


def run_all(chosen: Sequence[str]) -> None:
    """Checks or measures each architecture and updates the results file after each."""
    examine = _checked if _CHECKS.value else _measured
    failed: list[str] = []
    for name in chosen:
        result = examine(name)
        if result is None:
            failed.append(name)
            continue
        results = {r["name"]: r for r in _results()}
        results[name] = {**results.get(name, {"name": name}), **result}
        _write([results[key] for key in sorted(results)])
        print(f"{name}: {_summary(result)}", flush=True)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def _checked(name: str) -> dict[str, Any] | None:
    """Checks one architecture in this process; prints a failure and returns None."""
    import keras
    import zoo

    try:
        return {"checks": dataclasses.asdict(zoo.check(name))}
    except Exception:
        print(f"{name} failed:\n{traceback.format_exc()}", file=sys.stderr, flush=True)
        return None
    finally:
        keras.backend.clear_session()
        gc.collect()


def _measured(name: str) -> dict[str, Any] | None:
    """Measures one architecture in a new process; prints a failure and returns None."""
    process = subprocess.run(
        [sys.executable, __file__, f"--one={name}"],
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_SEC,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    if process.returncode:
        print(f"{name} failed:\n{process.stderr[-3000:]}", file=sys.stderr, flush=True)
        return None
    return {"cost": json.loads(process.stdout.strip().splitlines()[-1])}


def _summary(result: dict[str, Any]) -> str:
    if checks := result.get("checks"):
        return ", ".join(
            f"{key} error {checks[f'{key}_error']:.1e}" for key in ("masked", "loaded", "tflite")
        )
    cost = result["cost"]
    times = ", ".join(f"{k} {cost[k]['wall_sec']:.2f} s" for k in ("build", "analysis", "rebuild"))
    return f"{times}, memory {graph_page.memory(cost):.2f}x"


def _write(architectures: list[dict[str, Any]]) -> None:
    beside = _content().get("beside", "") if _BESIDE.value is None else _BESIDE.value
    record.write("graph", {"beside": beside, "architectures": architectures})


def _content() -> dict[str, Any]:
    """Reads the results file; empty if there is none."""
    if not RESULTS.exists():
        return {}
    return dict(json.loads(RESULTS.read_text(encoding="utf-8")))


def _results() -> list[dict[str, Any]]:
    return list(_content().get("architectures", []))


def write_table() -> None:
    """Writes docs/applications.md from the results."""
    TABLE.write_text(graph_page.page(_content()), encoding="utf-8")


def write_plot() -> None:
    """Draws time against the number of calls."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "graph"
    from matplotlib import pyplot

    costs = [r["cost"] for r in _results() if "cost" in r]
    figure, axis = pyplot.subplots(figsize=(7, 4.5))
    calls = [cost["calls"] for cost in costs]
    for key, label in (("build", "Keras builds the original"), ("rebuild", "rebuild")):
        axis.scatter(calls, [cost[key]["wall_sec"] for cost in costs], label=label, s=18)
    axis.scatter(calls, [cost["analysis"]["wall_sec"] for cost in costs], label="analysis", s=18)
    axis.set(xlabel="calls of layers and operations", ylabel="seconds", xlim=0, ylim=0)
    axis.set_title("Analysis and rebuild of keras.applications")
    axis.legend()
    axis.grid(alpha=0.3)
    PLOT.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PLOT, metadata={"Date": None})


def main(argv: Sequence[str]) -> None:
    """Measures the architectures, and writes the plot and the table."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    if _ONE.value:
        print(json.dumps(measure(_ONE.value)))
        return
    if _TABLES_ONLY.value:
        if _BESIDE.value is not None:
            _write(_results())
    else:
        import zoo

        run_all(_MODELS.value or zoo.names())
    if any("cost" in r and "checks" in r for r in _results()):
        write_plot()
        write_table()


if __name__ == "__main__":
    app.run(main)
