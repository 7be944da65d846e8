"""One small pruning run, the same on every device: only the device's name differs."""

from __future__ import annotations

import io
import json

import numpy as np
import rich.console

import cprune_tf
from cprune_tf.devices import ModelFile, open_device
from tests.pipeline import tiny_config

# The scores of an int8 file are multiples of this. Kernels of different processors may round the
# layers before them differently; on the rig, all scores were equal.
_INT8_STEP = 1 / 256


def prune(model_path, device, workdir, resume=False, int8=False):
    config = tiny_config.get_config()
    if int8:
        config.runtime, config.precision = "litert", "int8"
        config.strategy.name = "uniform"
        config.quantization.num_images = 64
    config.data.max_test = 64  # an emulator needs a second for each
    config.strategy.max_iterations = 2
    config.tuning.trials_per_task = 4
    config.tuning.trials_per_round = 4
    config.tuning.trials_per_accepted_task = 0
    config.tuning.final_trials_per_task = 4
    return cprune_tf.prune(
        str(model_path),
        device=device,
        config=config.to_dict(),
        workdir=workdir,
        resume=resume,
        console=rich.console.Console(file=io.StringIO(), width=100),
    )


def events(workdir, name):
    lines = (workdir / "journal.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == name]


def num_records(workdir):
    path = workdir / "tuning" / "database_tuning_record.json"
    return path.read_text().count("\n") if path.exists() else 0


def check(workdir, kind, abi, *, emulated):
    """That a run went all the way, on such a device, and computed what Keras does."""
    compared, checked = _compared(workdir, kind, abi, emulated)
    assert len(compared) == 4  # original and result, TVM and LiteRT
    assert all(result["max_abs_error"] <= 1e-4 for result in compared)
    assert (checked["speedups"] == []) == emulated


def check_int8(workdir, kind, abi):
    """The same of a run for int8 in LiteRT on an emulated device: its numbers, not its times."""
    compared, checked = _compared(workdir, kind, abi, True)
    errors = {
        (result["deployment"], result["runtime"]): result["max_abs_error"] for result in compared
    }
    assert set(errors) == {
        (name, label) for name in ("original", "pruned") for label in ("litert", "litert int8")
    }
    for (_, label), error in errors.items():
        low, high = (1e-3, 0.15) if label == "litert int8" else (0.0, 1e-4)
        assert low <= error <= high, errors
    assert [event["decision"] for event in events(workdir, "candidate")] == ["accepted"]
    assert not [problem for problem in checked["problems"] if "Keras" in problem]
    deployed = workdir / "deploy" / "model.tflite"
    assert deployed.read_bytes() == (workdir / "final.tflite").read_bytes()
    assert not list(workdir.glob("*.so"))


def check_same_scores(workdir, device):
    """That the result's int8 file computes on a device what it computes here."""
    images = np.random.default_rng(0).random((8, 28, 28, 1), dtype=np.float32)
    file = ModelFile("final", "litert", workdir / "final.tflite")
    with open_device("local") as here:
        (expected,) = here.run_model(file, images)
    (scores,) = device.run_model(file, images)
    print("largest difference from the scores here:", np.abs(scores - expected).max())
    np.testing.assert_allclose(scores, expected, atol=1.01 * _INT8_STEP)
    assert np.unique(scores).size > 3


def _compared(workdir, kind, abi, emulated):
    """What a finished run's cross-check found in the files' outputs, and all of it."""
    report = json.loads((workdir / "report.json").read_text())
    device = report["device"]
    assert (device["details"]["kind"], device["details"]["abi"]) == (kind, abi)
    assert device["emulated"] == emulated
    assert len(events(workdir, "candidate")) >= 1
    assert len(events(workdir, "finished")) == 1
    checked = events(workdir, "cross_check")[-1]
    compared = [result for result in checked["results"] if result["runtime"] != "keras"]
    latencies = [latency for result in compared for latency in result["latencies"]]
    assert latencies
    assert all(latency["conditions"]["emulated"] == emulated for latency in latencies)
    assert ("emulated" in (workdir / "report.html").read_text()) == emulated
    return compared, checked
