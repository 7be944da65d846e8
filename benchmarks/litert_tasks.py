r"""Measures whether LiteRT's tasks, timed alone, add up to whole models, and what staircases cost.

    python benchmarks/litert_tasks.py --workdir=runs/litert_tasks

For each network: the sum of its tasks against the whole model, measured in turns; the same sum for
models with fewer channels, as a price against the measured ratio; and the time that a staircase of
every channel group takes. The machine should do nothing else. Writes results/litert_tasks.json.
"""

from __future__ import annotations

import json
import pathlib
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

import record
from absl import app, flags
from workloads import PRETRAINED

from cprune_tf import graph, models
from cprune_tf.config import MeasureConfig, TuningConfig
from cprune_tf.latency.lab import resized
from cprune_tf.latency.sampling import sample_staircase
from cprune_tf.latency.workspace import OpenedModel, open_model

_MODELS = flags.DEFINE_list(
    "models",
    [
        "resnet20_cifar10.h5",
        "resnet56_cifar10.h5",
        "mobilenet_v1_025_vww96_mlperf_tiny.h5",
        "mobilenet_v1_224_imagenet1001.keras",
    ],
    "Names of files in the folder of pretrained models.",
)
_PRETRAINED = flags.DEFINE_string("pretrained", str(PRETRAINED), "Folder of pretrained models.")
_PRECISION = flags.DEFINE_string("precision", "float32", "The precision that LiteRT computes in.")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "How often a sum and its whole model are measured.")
_KEPT = flags.DEFINE_list("kept", ["0.75", "0.5"], "Fractions of the channels that models keep.")
_STAIRCASES = flags.DEFINE_bool("staircases", True, "Whether to measure staircases.")
_WORKDIR = flags.DEFINE_string("workdir", None, "The folder of the measurements.", required=True)


def compare(model: Any, folder: pathlib.Path) -> dict[str, Any]:
    """Compares sums of tasks with whole models, each round with new measurements."""
    channels = graph.analyze(model)
    candidates = {"whole": model}
    for fraction in _KEPT.value:
        keep = {
            group.name: max(1, round(group.num_channels * float(fraction)))
            for group in channels.prunable
        }
        candidates[fraction] = resized(model, channels, keep)
    rounds = []
    for _ in range(_ROUNDS.value):
        with (
            tempfile.TemporaryDirectory(dir=folder) as fresh,
            _open(model, pathlib.Path(fresh)) as opened,
        ):
            rounds.append(_measured(opened, candidates, pathlib.Path(fresh)))
    result: dict[str, Any] = {"layers": len(model.layers)}
    for name in candidates:
        sums, wholes = zip(*(measured[name] for measured in rounds), strict=True)
        ratios = [tasks / whole for tasks, whole in zip(sums, wholes, strict=True)]
        result[name] = {
            "tasks_ms": statistics.median(sums),
            "whole_ms": statistics.median(wholes),
            "tasks_over_whole": [min(ratios), statistics.median(ratios), max(ratios)],
        }
        if name != "whole":
            result[name]["price_over_measured"] = statistics.median(
                (tasks / whole) / (m["whole"][0] / m["whole"][1])
                for m, tasks, whole in zip(rounds, sums, wholes, strict=True)
            )
    return result


def _measured(
    opened: OpenedModel, candidates: Mapping[str, Any], folder: pathlib.Path
) -> dict[str, tuple[float, float]]:
    """Returns (sum of the tasks, whole model), both in ms, of each candidate."""
    runtime = opened.runtime
    prepared = {name: runtime.prepare(model) for name, model in candidates.items()}
    paths = []
    for name, candidate in prepared.items():
        runtime.price(candidate, opened.prepared)
        paths.append(folder / f"{name}{runtime.suffix}")
        runtime.build(candidate, paths[-1])
    latencies = runtime.time(paths, opened.model, MeasureConfig())
    return {
        name: (runtime.tasks_ms(candidate), latency.median_ms)
        for (name, candidate), latency in zip(prepared.items(), latencies, strict=True)
    }


def time_staircases(model: Any, folder: pathlib.Path) -> dict[str, Any]:
    """Measures a staircase of every prunable group, from nothing."""
    start = time.monotonic()
    with (
        tempfile.TemporaryDirectory(dir=folder) as fresh,
        _open(model, pathlib.Path(fresh)) as opened,
    ):
        opened.tune(1)
        with opened.lab() as lab:
            for group in opened.channels.prunable:
                sample_staircase(lab, group)
            points = len(lab.store)
    return {
        "groups": len(opened.channels.prunable),
        "points": points,
        "seconds": time.monotonic() - start,
    }


def _open(model: Any, folder: pathlib.Path) -> Any:
    return open_model(
        model, "local", folder, TuningConfig(), runtime="litert", precision=_PRECISION.value
    )


def main(argv: Sequence[str]) -> None:
    """Measures all networks and writes the results."""
    del argv
    folder = pathlib.Path(_WORKDIR.value)
    folder.mkdir(parents=True, exist_ok=True)
    results = {}
    for name in _MODELS.value:
        loaded = models.load_model(str(pathlib.Path(_PRETRAINED.value) / name))
        model = graph.functional_twin(loaded)
        stem = pathlib.Path(name).stem
        results[stem] = compare(model, folder)
        if _STAIRCASES.value:
            results[stem]["staircases"] = time_staircases(model, folder)
        print(stem, json.dumps(results[stem], indent=1), flush=True)
    content = {"num_threads": 1, "precision": _PRECISION.value, "models": results}
    print(record.write("litert_tasks", content))


if __name__ == "__main__":
    app.run(main)
