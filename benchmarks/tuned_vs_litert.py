r"""Tunes the embedded ResNet-8 and times it against LiteRT: same device, threads and run.

    python benchmarks/tuned_vs_litert.py --trials=192 --workdir=runs/tuned_vs_litert

A run that was stopped goes on where it was. Writes results/tuned_vs_litert.json.
"""

from __future__ import annotations

import pathlib
import statistics
import time
from collections.abc import Sequence
from typing import Any

import record
from absl import app, flags

from cprune_tf.compiler.session import CompilerSession
from cprune_tf.config import MeasureConfig, TuningConfig
from cprune_tf.devices import ModelFile, open_device

_MODEL = flags.DEFINE_string("model", "resnet8_fashion", "A model's name or path.")
_TRIALS = flags.DEFINE_integer("trials", 192, "Trials for each task that matters.")
_THREADS = flags.DEFINE_integer("threads", 1, "Threads of both.")
_ROUNDS = flags.DEFINE_integer("rounds", 9, "Interleaved comparisons.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Where the database lies.", required=True)


def compare(device: Any, files: list[ModelFile], threads: int, rounds: int) -> dict[str, Any]:
    """Times files against each other several times; ratios to the last one."""
    measure = MeasureConfig(num_threads=threads)
    runs = [device.time_models(files, threads, measure) for _ in range(rounds)]
    ratios = [[a.median_ms / run[-1].median_ms for a in run] for run in runs]
    return {
        file.name: {
            "latency_ms": _summary([run[i].median_ms for run in runs]),
            "ratio": _summary([row[i] for row in ratios]),
        }
        for i, file in enumerate(files)
    }


def _summary(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def main(argv: Sequence[str]) -> None:
    """Tunes, builds, compares."""
    del argv
    from cprune_tf import litert, models

    root = pathlib.Path(_WORKDIR.value)
    model = models.load_model(_MODEL.value)
    config = TuningConfig(trials_per_round=32, population_size=256)
    start = time.monotonic()
    with (
        open_device("local") as device,
        CompilerSession(
            device, root / "tuning", config, num_threads=_THREADS.value, seed=0
        ) as session,
    ):
        lowered = session.lower(model)
        session.tune(lowered, _TRIALS.value, lambda *now: print(*now, flush=True))
        tuning_sec = time.monotonic() - start
        session.build(lowered, root / "model.so")
        (root / "model.tflite").write_bytes(litert.convert(model))
        inputs = (("float32", (1, *model.input_shape[1:])),)
        files = [
            ModelFile("tvm", "tvm", str(root / "model.so"), inputs),
            ModelFile("litert", "litert", str(root / "model.tflite"), inputs),
        ]
        compared = compare(device, files, _THREADS.value, _ROUNDS.value)
        tasks = [
            {
                "layers": list(row.task.layers),
                "latency_us": row.latency_ms * 1e3,
                "gflops": row.gflops,
                "share": row.share,
                "program": str(row.structure),
            }
            for row in session.task_table(lowered)
        ]
        path = record.write(
            "tuned_vs_litert",
            {
                "model": _MODEL.value,
                "num_threads": _THREADS.value,
                "trials_per_task": _TRIALS.value,
                "num_programs": len(session.database),
                "tuning_sec": tuning_sec,
                "sum_of_tasks_ms": lowered.latency_ms(session.database),
                "compared": compared,
                "tasks": tasks,
            },
        )
    for name, values in compared.items():
        print(f"{name:8s} {values['latency_ms']} ratio {values['ratio']}")
    print(path)


if __name__ == "__main__":
    app.run(main)
