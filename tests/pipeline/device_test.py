"""The whole chain on other devices than this machine: prune there, cross-check there, report."""

from __future__ import annotations

import io
import json
import threading

import pytest
import rich.console

import cprune_tf
from cprune_tf.devices import DeviceUnreachableError
from tests.devices import servers
from tests.pipeline import tiny_config

pytestmark = pytest.mark.slow


def _prune(model_path, device, workdir, resume=False):
    config = tiny_config.get_config()
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


def _cross_check(workdir):
    lines = (workdir / "journal.jsonl").read_text().splitlines()
    return [e for e in map(json.loads, lines) if e["event"] == "cross_check"][-1]


def _num_records(workdir):
    path = workdir / "tuning" / "database_tuning_record.json"
    return path.read_text().count("\n") if path.exists() else 0


def test_a_model_is_pruned_for_the_emulated_board(rig, tiny_model_path, tmp_path):
    with servers.running(python=rig.board_python, environment=rig.environment()) as server:
        device = f"rpc://127.0.0.1:{server.port}"
        result = _prune(tiny_model_path, device, tmp_path / "run")
    assert (result.report.device.abi, result.report.device.emulated) == ("aarch64", True)
    assert len(result.history) >= 1
    checked = _cross_check(result.workdir)
    compared = [r for r in checked["results"] if r["runtime"] != "keras"]
    assert len(compared) == 4
    assert all(r["max_abs_error"] <= 1e-4 for r in compared)
    assert all(latency["conditions"]["emulated"] for r in compared for latency in r["latencies"])
    assert checked["speedups"] == []
    assert "emulated" in (result.workdir / "report.html").read_text()


def test_a_run_whose_board_was_lost_resumes_when_it_is_back(tiny_model_path, tmp_path):
    workdir = tmp_path / "run"
    with servers.running() as server:
        device = f"rpc://127.0.0.1:{server.port}?reconnect_sec=1"

        def kill_in_the_middle():
            servers.wait_for(lambda: _num_records(workdir) >= 3)
            server.kill()

        killer = threading.Thread(target=kill_in_the_middle)
        killer.start()
        with pytest.raises(DeviceUnreachableError, match=r"cannot be reached.*--resume"):
            _prune(tiny_model_path, device, workdir)
        killer.join()
    measured = _num_records(workdir)
    with servers.running(port=server.port):
        result = _prune(tiny_model_path, device, workdir, resume=True)
    assert result.report.finished
    assert _num_records(workdir) > measured >= 3
