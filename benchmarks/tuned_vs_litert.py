r"""Tunes dense models and times them against LiteRT: same device, threads and run.

    python benchmarks/tuned_vs_litert.py --trials=48 --workdir=runs/tuned_vs_litert
    python benchmarks/tuned_vs_litert.py --models=resnet20 --workdir=runs/tuned_vs_litert

Pretrained models come from --pretrained; DS-CNN is rebuilt with random weights, on which its
latency does not depend. The peak is the speed of multiply-adds in registers on the core. Shares of
the peak count the operations of a direct convolution, although Winograd needs fewer. The overhead
of the runtime is the latency of the same library with empty kernels. The same command continues a
run that was stopped; results/tuned_vs_litert.json is updated after each model.
"""

from __future__ import annotations

import json
import math
import pathlib
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import record
import tvm
from absl import app, flags
from workloads import PRETRAINED, ds_cnn

from cprune_tf.compiler.executable import schedule_model, write_library
from cprune_tf.compiler.roofline import measure_roofline
from cprune_tf.compiler.session import CompilerSession
from cprune_tf.compiler.tasks import LoweredModel
from cprune_tf.config import MeasureConfig, TuningConfig
from cprune_tf.devices import Device, ModelFile, open_device

_FILES = {
    "resnet8": "resnet8_cifar10_mlperf_tiny.h5",
    "mobilenet_vww": "mobilenet_v1_025_vww96_mlperf_tiny.h5",
    "resnet20": "resnet20_cifar10.h5",
    "mobilenet_v1": "mobilenet_v1_224_imagenet1001.keras",
}
_ALL = ["resnet8", "ds_cnn", "mobilenet_vww", "resnet20", "mobilenet_v1"]

_MODELS = flags.DEFINE_list("models", _ALL, "Names of the models to measure.")
_PRETRAINED = flags.DEFINE_string("pretrained", str(PRETRAINED), "Folder of pretrained models.")
_TRIALS = flags.DEFINE_integer("trials", 48, "Trials for each task that matters.")
_THREADS = flags.DEFINE_integer("threads", 1, "Number of threads of both runtimes.")
_ROUNDS = flags.DEFINE_integer("rounds", 9, "Number of interleaved comparisons.")
_WORKDIR = flags.DEFINE_string("workdir", None, "The folder of the databases.", required=True)


def load(name: str) -> Any:
    """Loads or builds a model by its name in this benchmark."""
    from cprune_tf import models

    if name == "ds_cnn":
        return ds_cnn()
    return models.load_model(str(pathlib.Path(_PRETRAINED.value) / _FILES[name]))


def compare(device: Device, files: Sequence[ModelFile]) -> dict[str, Any]:
    """Times files interleaved, several times; returns latencies and ratios to "litert"."""
    config = MeasureConfig(num_threads=_THREADS.value)
    litert = [file.name for file in files].index("litert")
    runs = [
        [latency.median_ms for latency in device.time_models(files, _THREADS.value, config)]
        for _ in range(_ROUNDS.value)
    ]
    return {
        file.name: {
            "latency_ms": _summary([run[i] for run in runs]),
            "ratio": _summary([run[i] / run[litert] for run in runs]),
        }
        for i, file in enumerate(files)
    }


def emptied(mod: tvm.IRModule) -> tvm.IRModule:
    """Empties the kernels of a scheduled model, so that only the runtime's work remains."""
    functions = {
        name: function.with_body(tvm.tirx.Evaluate(0))
        if isinstance(function, tvm.tirx.PrimFunc)
        else function
        for name, function in mod.functions.items()
    }
    return tvm.IRModule(functions, attrs=mod.attrs)


def _summary(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def measure(name: str, device: Device, folder: pathlib.Path) -> dict[str, Any]:
    """Tunes one model, builds it and compares it with LiteRT."""
    from cprune_tf import litert

    model = load(name)
    config = TuningConfig(trials_per_round=16, warm_start="")
    start = time.monotonic()
    with CompilerSession(
        device, folder / "tuning", config, num_threads=_THREADS.value, seed=0
    ) as session:
        lowered = session.lower(model)
        num_before = len(session.database)
        session.tune(lowered, _TRIALS.value, _say(name))
        tuning_sec = time.monotonic() - start
        scheduled = schedule_model(lowered, session.database)
        write_library(scheduled, session.target, folder / "model.so")
        write_library(emptied(scheduled), session.target, folder / "runtime.so")
        (folder / "model.tflite").write_bytes(litert.convert(model))
        inputs = (("float32", (1, *model.input_shape[1:])),)
        files = [
            ModelFile("tvm", "tvm", str(folder / "model.so"), inputs),
            ModelFile("runtime", "tvm", str(folder / "runtime.so"), inputs),
            ModelFile("litert", "litert", str(folder / "model.tflite"), inputs),
        ]
        peak_gflops = measure_roofline(device, _THREADS.value).peak_gflops
        compared = compare(device, files)
        latency_ms = {key: values["latency_ms"]["median"] for key, values in compared.items()}
        flops = sum(task.flops * task.weight for task in lowered.tasks)
        gflops = {key: flops / latency_ms[key] / 1e6 for key in ("tvm", "litert")}
        return {
            "model": name,
            "target": str(session.target),
            "num_programs": len(session.database),
            "num_new_programs": len(session.database) - num_before,
            "tuning_sec": tuning_sec,
            "peak_gflops": peak_gflops,
            "gflops": gflops,
            "share_of_peak": {key: value / peak_gflops for key, value in gflops.items()},
            "runtime_share": latency_ms["runtime"] / latency_ms["tvm"],
            "sum_of_tasks_ms": lowered.latency_ms(session.database),
            "compared": compared,
            "tasks": _tasks(session, lowered),
        }


def _tasks(session: CompilerSession, lowered: LoweredModel) -> list[dict[str, Any]]:
    return [
        {
            "layers": list(row.task.layers),
            "weight": row.task.weight,
            "lowering": row.lowering,
            "latency_us": row.latency_ms * 1e3,
            "gflops": row.gflops,
            "share": row.share,
            "program": str(row.structure),
        }
        for row in session.task_table(lowered)
    ]


def _say(name: str) -> Callable[[int, int, str], None]:
    return lambda done, planned, text: print(f"{name}: {done}/{planned} {text}", flush=True)


def main(argv: Sequence[str]) -> None:
    """Measures the models that the flags name, and writes the results."""
    del argv
    path = record.RESULTS / "tuned_vs_litert.json"
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    rows = {row["model"]: row for row in content.get("models", [])}
    with open_device("local") as device:
        for name in _MODELS.value:
            folder = pathlib.Path(_WORKDIR.value) / name
            folder.mkdir(parents=True, exist_ok=True)
            rows[name] = measure(name, device, folder)
            measured_rows = [rows[model] for model in _ALL if model in rows]
            ratios = [row["compared"]["tvm"]["ratio"]["median"] for row in measured_rows]
            record.write(
                "tuned_vs_litert",
                {
                    "num_threads": _THREADS.value,
                    "trials_per_task": _TRIALS.value,
                    "geometric_mean_ratio": math.exp(statistics.fmean(map(math.log, ratios))),
                    "models": measured_rows,
                },
            )
            print(f"{name}: {rows[name]['compared']}", flush=True)
    print(path)


if __name__ == "__main__":
    app.run(main)
