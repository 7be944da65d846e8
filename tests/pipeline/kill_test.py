"""Kills a run at every stage, for real, and resumes it each time."""

from __future__ import annotations

import collections
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIG = pathlib.Path(__file__).with_name("tiny_config.py")
# Killed as soon as the journal holds this event for the first time; "" : in the first tuning.
_END = ("candidate_measured", "candidate", "stopped", "long_term_trained", "exported",
        "cross_check")  # fmt: skip
STAGES = {
    "cprune": ("", "baseline", *_END),
    "latency_budget": ("", "baseline", "candidate_planned", _END[0], "soft_started", *_END[1:]),
    "netadapt": ("", "baseline", "candidate_planned", "proposal_trained", *_END),
    "performance_aware": ("", "baseline", "candidate_planned", *_END),
    "predictive": ("", "baseline", "candidate_planned", *_END),
    "uniform": ("", "baseline", "candidate_planned", *_END),
}
# Where CI kills; every start takes half a minute, so all stages of all strategies are for `slow`.
_FEW = ("", "candidate_measured", "long_term_trained", "cross_check")
_TIMEOUT_SEC = 300.0


def _start(
    strategy: str, model: pathlib.Path, workdir: pathlib.Path, log: pathlib.Path
) -> subprocess.Popen:
    command = [
        sys.executable,
        str(ROOT / "tools" / "prune.py"),
        f"--config={CONFIG}",
        f"--config.model={model}",
        f"--config.strategy.name={strategy}",
        f"--workdir={workdir}",
        "--resume",
    ]
    with log.open("a") as stream:
        return subprocess.Popen(
            command, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
        )


def _events(workdir: pathlib.Path) -> list[dict]:
    """Complete lines only: the writer may be in the middle of one."""
    path = workdir / "journal.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.split("\n")[:-1]]


def _num_records(workdir: pathlib.Path) -> int:
    path = workdir / "tuning" / "database_tuning_record.json"
    return path.read_text().count("\n") if path.exists() else 0


def _reached(workdir: pathlib.Path, stage: str) -> bool:
    if not stage:
        return _num_records(workdir) >= 3
    return any(event["event"] == stage for event in _events(workdir))


def _run_until(
    stage: str, strategy: str, model: pathlib.Path, workdir: pathlib.Path, log: pathlib.Path
) -> bool:
    """Starts the run, kills it at a stage, and says whether it had to be started for that."""
    if _reached(workdir, stage):  # two events may be written before a kill arrives
        return False
    process = _start(strategy, model, workdir, log)
    deadline = time.monotonic() + _TIMEOUT_SEC
    while not _reached(workdir, stage):
        assert process.poll() is None, f"ended before {stage!r}:\n{log.read_text()[-4000:]}"
        assert time.monotonic() < deadline, f"no {stage!r} in time:\n{log.read_text()[-4000:]}"
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return True


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(("cprune", _FEW), id="cprune-few"),
        *(pytest.param(pair, id=pair[0], marks=pytest.mark.slow) for pair in STAGES.items()),
    ],
)
def killed(request) -> tuple[str, tuple[str, ...]]:
    """A strategy, and the stages at which its run is killed."""
    return request.param


@pytest.fixture(scope="module")
def strategy(killed) -> str:
    return killed[0]


@pytest.fixture(scope="module")
def stages(killed) -> tuple[str, ...]:
    return killed[1]


@pytest.fixture(scope="module")
def killed_run(strategy, stages, tiny_model_path, tmp_path_factory) -> pathlib.Path:
    workdir = tmp_path_factory.mktemp("killed") / "run"
    log = workdir.parent / "log.txt"
    kills = sum(_run_until(stage, strategy, tiny_model_path, workdir, log) for stage in stages)
    assert kills >= len(stages) - 2
    process = _start(strategy, tiny_model_path, workdir, log)
    assert process.wait(_TIMEOUT_SEC) == 0, log.read_text()[-4000:]
    return workdir


def test_ends_in_a_valid_result(killed_run):
    finished = [event for event in _events(killed_run) if event["event"] == "finished"]
    assert len(finished) == 1
    model = keras.models.load_model(killed_run / "final.keras")
    outputs = model(np.zeros((2, 28, 28, 1), "float32")).numpy()
    np.testing.assert_allclose(outputs.sum(-1), 1.0, atol=1e-5)
    check = next(event for event in _events(killed_run) if event["event"] == "cross_check")
    for result in check["results"]:
        assert result["max_relative_error"] < 1e-3
    html = (killed_run / "report.html").read_text()
    assert "tiny" in html


def test_repeats_no_decision_and_no_whole_measurement(killed_run, stages):
    events = _events(killed_run)
    counts = collections.Counter(event["event"] for event in events)
    for once in ("evaluated", "baseline", "stopped", "long_term_trained", "exported",
                 "cross_check", "finished"):  # fmt: skip
        assert counts[once] == 1, (once, counts)
    assert counts["run_started"] >= len(stages) - 1
    indices = [event["index"] for event in events if event["event"] == "candidate"]
    assert indices == list(range(len(indices)))
    # A strategy may measure several plans of one candidate, but none of them twice.
    measured = [
        (event["index"], json.dumps(event["removed"]))
        for event in events
        if event["event"] == "candidate_measured"
    ]
    assert len(measured) == len(set(measured))
    planned = [
        (event["index"], event["attempt"])
        for event in events
        if event["event"] == "candidate_planned"
    ]
    assert len(planned) == len(set(planned))
    trained = [
        (event["index"], event["key"]) for event in events if event["event"] == "proposal_trained"
    ]
    assert len(trained) == len(set(trained))
    softly = [event["index"] for event in events if event["event"] == "soft_started"]
    assert len(softly) == len(set(softly))
    accepted = [event["iteration"] for event in events if event["event"] == "accepted"]
    assert accepted == list(range(1, len(accepted) + 1))


def test_measures_no_program_twice(killed_run):
    lines = (killed_run / "tuning" / "database_tuning_record.json").read_text().splitlines()
    programs = []
    for line in lines:
        workload, record = json.loads(line)
        programs.append((workload, json.dumps(record[0])))
    repeated = [count for count in collections.Counter(programs).values() if count > 1]
    assert not repeated


def test_resuming_a_finished_run_changes_nothing(killed_run, strategy, tiny_model_path, tmp_path):
    before = _num_records(killed_run)
    candidates = [event for event in _events(killed_run) if event["event"] == "candidate"]
    process = _start(strategy, tiny_model_path, killed_run, tmp_path / "log.txt")
    assert process.wait(_TIMEOUT_SEC) == 0, (tmp_path / "log.txt").read_text()
    assert _num_records(killed_run) == before
    assert [e for e in _events(killed_run) if e["event"] == "candidate"] == candidates
