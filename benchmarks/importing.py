"""Measures import and task extraction on a few architectures, with both frontends.

    python benchmarks/importing.py                      # measures all models and writes the result
    python benchmarks/importing.py --models=ResNet50    # only prints the result

The models have their usual input size and random weights; building them is not measured. TVM and
Keras are warmed up with a small model first. Figures are medians of three runs (TFLite: one run).
Processor time is given beside wall-clock time, which grows with other work on the machine.
Candidates of the pruning loop are imported the same way.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import record
from absl import app, flags

_MODELS = flags.DEFINE_list(
    "models",
    [],
    "Names in keras.applications or of embedded models; empty for all, and to write the result.",
)

# Limits in seconds, with the Keras frontend: what a pruning run may wait for an import.
_LIMITS_SEC = {"ResNet50": 6.0, "MobileNetV2": 4.0}
_ALL = ("resnet8_fashion", "MobileNetV2", "EfficientNetB0", "ResNet50")
_REPEATS = {"keras": 3, "tflite": 1}


def main(argv: Sequence[str]) -> None:
    """Runs the benchmark."""
    del argv
    import tvm

    from cprune_tf.devices import open_device

    with open_device("local") as device:
        target = tvm.target.Target(device.target(1))
    _measure("resnet8_fashion", target)
    results = {name: _measure(name, target) for name in _MODELS.value or _ALL}
    for name, result in results.items():
        print(name, result)
    if not _MODELS.value:
        print(record.write("importing", {"limits_sec": _LIMITS_SEC, "models": results}))


def _measure(name: str, target: Any) -> dict[str, Any]:
    from cprune_tf.compiler.importer import import_through
    from cprune_tf.compiler.tasks import lower_model

    model = _model(name)
    result: dict[str, Any] = {"params": model.count_params()}
    for frontend, repeats in _REPEATS.items():
        runs = []
        for _ in range(repeats):
            clocks = [_clocks()]
            imported = import_through(frontend, model)
            clocks.append(_clocks())
            lowered = lower_model(imported, target)
            clocks.append(_clocks())
            runs.append(np.diff(clocks, axis=0))
        # [import or tasks, clock or processor]
        seconds = np.median(runs, axis=0)
        result[frontend] = {
            "import_sec": round(seconds[0, 0], 3),
            "tasks_sec": round(seconds[1, 0], 3),
            "total_sec": round(seconds[:, 0].sum(), 3),
            "total_processor_sec": round(seconds[:, 1].sum(), 3),
            "tasks": len(lowered.tasks),
            "untied_layers": len(imported.untied_layers),
        }
    limit_sec = _LIMITS_SEC.get(name)
    if limit_sec is not None:
        result["within_limit"] = bool(result["keras"]["total_sec"] <= limit_sec)
    return result


def _clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _model(name: str) -> Any:
    import keras

    from cprune_tf import models

    builder = getattr(keras.applications, name, None)
    return builder(weights=None) if builder else models.load_model(name)


if __name__ == "__main__":
    app.run(main)
