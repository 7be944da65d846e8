r"""Compares our tuner with TVM's stock `tune_relax`: trials per second and final latency.

    python benchmarks/tuning_throughput.py --trials=32 --workdir=runs/tuning_throughput

Both tune the tasks of MLPerf Tiny's ResNet-8 for one thread from scratch, with equally many trials
per task in rounds of the same size; our tuner runs first. Then the libraries are timed interleaved.
The stock tuner runs with LocalBuilder and LocalRunner, the defaults of `tune_relax`. Our tuner is
measured twice: with the direct lowering alone (the stock tuner's search space), and with all
lowerings. All libraries are built in the same way; only the programs differ.
Writes results/tuning_throughput.json.
"""

from __future__ import annotations

import json
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import record
from absl import app, flags
from workloads import PRETRAINED, direct_only

from cprune_tf.compiler.executable import apply_programs, write_library
from cprune_tf.compiler.session import CompilerSession
from cprune_tf.config import MeasureConfig, TuningConfig
from cprune_tf.devices import ModelFile, open_device

_MODEL = flags.DEFINE_string(
    "model",
    str(PRETRAINED / "resnet8_cifar10_mlperf_tiny.h5"),
    "A model's name or path.",
)
_TRIALS = flags.DEFINE_integer("trials", 32, "Trials for each task.")
_ROUND = flags.DEFINE_integer("round", 16, "Trials in a round.")
_ROUNDS = flags.DEFINE_integer("rounds", 9, "Number of interleaved comparisons.")
_WORKDIR = flags.DEFINE_string("workdir", None, "The folder of the databases.", required=True)
_STOCK = flags.DEFINE_bool("stock", False, "Run the stock tuner in this process (internal).")


def tune_ours(
    device: Any, model: Any, folder: pathlib.Path, *, all_lowerings: bool
) -> dict[str, Any]:
    """Tunes with our tuner and builds a library."""
    # Without early stopping; tasks that hardly matter still get only their first round.
    config = TuningConfig(trials_per_round=_ROUND.value, max_rounds_without_gain=0, warm_start="")
    start = time.monotonic()
    with CompilerSession(device, folder / "tuning", config, num_threads=1, seed=0) as session:
        lowered = session.lower(model)
        if not all_lowerings:
            lowered = direct_only(lowered)
        summary = session.tune(lowered, _TRIALS.value, lambda *status: print(*status, flush=True))
        seconds = time.monotonic() - start
        session.build(lowered, folder / "model.so")
    return {
        "num_trials": summary.num_trials,
        "num_failed": summary.num_failed,
        "seconds": seconds,
        "trials_per_sec": summary.num_trials / seconds,
    }


def tune_stock(folder: pathlib.Path) -> dict[str, Any]:
    """Tunes with `tune_relax` in a separate process, which starts its own worker processes."""
    start = time.monotonic()
    subprocess.run(
        [
            *(sys.executable, __file__, "--stock", f"--workdir={folder}"),
            *(f"--model={_MODEL.value}", f"--trials={_TRIALS.value}", f"--round={_ROUND.value}"),
        ],
        check=True,
    )
    seconds = time.monotonic() - start
    records = (folder / "tuning" / "database_tuning_record.json").read_text().splitlines()
    # Failed trials are recorded too, with 1e10 seconds.
    failed = sum(json.loads(line)[1][1][0] >= 1e9 for line in records)
    return {
        "num_trials": len(records),
        "num_failed": failed,
        "seconds": seconds,
        "trials_per_sec": len(records) / seconds,
    }


def run_stock(folder: pathlib.Path) -> None:
    """Runs the stock tuner on the same fused tasks and builds a library."""
    import tvm
    from tvm.s_tir import meta_schedule as ms

    from cprune_tf import models
    from cprune_tf.compiler.building import lowering
    from cprune_tf.compiler.importer import import_model

    imported = import_model(models.load_model(_MODEL.value))
    with open_device("local") as device:
        target = tvm.target.Target(device.target(1))
    mod = lowering.lower(imported.mod, target)
    tasks = len({function for _, function in lowering.subgraph_calls(mod)})
    (folder / "tuning").mkdir(parents=True, exist_ok=True)
    database = ms.relax_integration.tune_relax(
        mod,
        {},
        target,
        str(folder / "tuning"),
        max_trials_global=_TRIALS.value * tasks,
        max_trials_per_task=_TRIALS.value,
        num_trials_per_iter=_ROUND.value,
        seed=1,
    )
    scheduled = apply_programs(mod, imported.params, target, database)
    write_library(scheduled, target, folder / "model.so")


def main(argv: Sequence[str]) -> None:
    """Runs all tuners, compares their libraries, and writes the results."""
    del argv
    root = pathlib.Path(_WORKDIR.value)
    if _STOCK.value:
        run_stock(root)
        return
    from cprune_tf import models

    model = models.load_model(_MODEL.value)
    results: dict[str, Any] = {}
    with open_device("local") as device:
        for name in ("direct", "all_lowerings", "stock"):
            # A tuner that has finished in this folder is not run again.
            result_path = root / name / "tuned.json"
            if result_path.exists():
                results[name] = json.loads(result_path.read_text())
            elif name == "stock":
                results[name] = tune_stock(root / name)
            else:
                results[name] = tune_ours(
                    device, model, root / name, all_lowerings=name == "all_lowerings"
                )
            result_path.write_text(json.dumps(results[name]))
            print(name, results[name], flush=True)
        inputs = (("float32", (1, *model.input_shape[1:])),)
        files = [ModelFile(name, "tvm", str(root / name / "model.so"), inputs) for name in results]
        runs = [device.time_models(files, 1, MeasureConfig()) for _ in range(_ROUNDS.value)]
    for number, name in enumerate(results):
        latencies = [run[number].median_ms for run in runs]
        ratios = [run[number].median_ms / run[-1].median_ms for run in runs]
        results[name] |= {
            "latency_ms": statistics.median(latencies),
            "latency_over_stock": [min(ratios), statistics.median(ratios), max(ratios)],
            "speed_over_stock": results[name]["trials_per_sec"]
            / results["stock"]["trials_per_sec"],
        }
    path = record.write(
        "tuning_throughput",
        {
            "model": pathlib.Path(_MODEL.value).name,
            "num_threads": 1,
            "trials_per_task": _TRIALS.value,
            "trials_per_round": _ROUND.value,
            "tuners": results,
        },
    )
    print(json.dumps(results, indent=1))
    print(path)


if __name__ == "__main__":
    app.run(main)
