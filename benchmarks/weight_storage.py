r"""Measures what 16-bit storage of weights costs and saves.

    python benchmarks/weight_storage.py --workdir=runs/weights

Each network is tuned once for one thread and built with each type of weights. The libraries are
timed interleaved, and their outputs on random images are compared with those of the float32
library. Writes results/weight_storage.json.
"""

from __future__ import annotations

import json
import pathlib
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
import record
from absl import app, flags
from workloads import PRETRAINED

from cprune_tf import models
from cprune_tf.compiler.session import CompilerSession
from cprune_tf.config import WEIGHT_TYPES, MeasureConfig, TuningConfig
from cprune_tf.devices import Device, ModelFile, open_device

_MODELS = flags.DEFINE_list(
    "models",
    ["resnet20_cifar10.h5", "mobilenet_v1_224_imagenet1001.keras"],
    "Names of files in the folder of pretrained models.",
)
_PRETRAINED = flags.DEFINE_string("pretrained", str(PRETRAINED), "Folder of pretrained models.")
_TRIALS = flags.DEFINE_integer("trials", 32, "Trials for each task.")
_IMAGES = flags.DEFINE_integer("images", 8, "Number of random images.")
_ROUNDS = flags.DEFINE_integer("rounds", 9, "Number of interleaved comparisons.")
_WORKDIR = flags.DEFINE_string("workdir", None, "The folder of the databases.", required=True)


def compare(device: Device, model: Any, folder: pathlib.Path) -> dict[str, Any]:
    """Builds one model with every type of weights and compares the libraries with the first."""
    inputs = (("float32", (1, *model.input_shape[1:])),)
    files = []
    for weights in WEIGHT_TYPES:
        with CompilerSession(
            device, folder / "tuning", TuningConfig(), num_threads=1, seed=0, weights=weights
        ) as session:
            lowered = session.lower(model)
            session.tune(lowered, _TRIALS.value)
            session.build(lowered, folder / f"{weights}.so")
        files.append(ModelFile(weights, "tvm", str(folder / f"{weights}.so"), inputs))
    rng = np.random.default_rng(0)
    images = rng.normal(size=(_IMAGES.value, *model.input_shape[1:])).astype(np.float32)
    outputs = [device.run_model(file, images)[0] for file in files]
    runs = [device.time_models(files, 1, MeasureConfig()) for _ in range(_ROUNDS.value)]
    result = {}
    for number, file in enumerate(files):
        ratios = [run[number].median_ms / run[0].median_ms for run in runs]
        result[file.name] = {
            "library_bytes": pathlib.Path(file.path).stat().st_size,
            "latency_ms": statistics.median(run[number].median_ms for run in runs),
            "latency_over_float32": [min(ratios), statistics.median(ratios), max(ratios)],
            "max_relative_error": float(
                np.abs(outputs[number] - outputs[0]).max() / np.abs(outputs[0]).max()
            ),
        }
    return result


def main(argv: Sequence[str]) -> None:
    """Compares the libraries of all models and writes the results."""
    del argv
    results = {}
    with open_device("local") as device:
        for name in _MODELS.value:
            model = models.load_model(str(pathlib.Path(_PRETRAINED.value) / name))
            stem = pathlib.Path(name).stem
            results[stem] = compare(device, model, pathlib.Path(_WORKDIR.value) / stem)
            print(stem, json.dumps(results[stem], indent=1), flush=True)
    content = {"num_threads": 1, "trials_per_task": _TRIALS.value, "models": results}
    print(record.write("weight_storage", content))


if __name__ == "__main__":
    app.run(main)
