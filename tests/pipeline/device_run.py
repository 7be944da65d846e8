"""One small pruning run, the same on every device: only the device's name differs."""

from __future__ import annotations

import io
import json

import rich.console

import cprune_tf
from tests.pipeline import tiny_config


def prune(model_path, device, workdir, resume=False):
    config = tiny_config.get_config()
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
    report = json.loads((workdir / "report.json").read_text())
    device = report["device"]
    assert (device["details"]["kind"], device["details"]["abi"]) == (kind, abi)
    assert device["emulated"] == emulated
    assert len(events(workdir, "candidate")) >= 1
    assert len(events(workdir, "finished")) == 1
    checked = events(workdir, "cross_check")[-1]
    compared = [result for result in checked["results"] if result["runtime"] != "keras"]
    assert len(compared) == 4  # original and result, TVM and LiteRT
    assert all(result["max_abs_error"] <= 1e-4 for result in compared)
    latencies = [latency for result in compared for latency in result["latencies"]]
    assert latencies
    assert all(latency["conditions"]["emulated"] == emulated for latency in latencies)
    assert (checked["speedups"] == []) == emulated
    assert ("emulated" in (workdir / "report.html").read_text()) == emulated
