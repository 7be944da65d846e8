"""The scripts that measure how good the strategies are, from end to end with tiny settings."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIG = f"--config={ROOT / 'configs' / 'fashion_resnet8.py'}"


def run(script: str, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / script), *flags]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=900, check=False, env=environment
    )


def succeeded(script: str, *flags: str) -> str:
    done = run(script, *flags)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize(
    ("script", "flag", "expected"),
    [
        ("search_cost.py", "--config.tuning.database=shared", "expected none"),
        ("strategies.py", "--reference=magic", "'magic'; expected one of latency_budget"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_any_work(tmp_path, script, flag, expected):
    done = run(script, CONFIG, f"--workdir={tmp_path / 'out'}", flag)
    assert done.returncode == 2 and expected in done.stderr, done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_search_cost_counts_what_each_search_did(tmp_path):
    flags = (CONFIG, f"--workdir={tmp_path}", "--quick", "--rounds=1")
    said = succeeded("search_cost.py", *flags)
    assert "no result" in said
    values = json.loads((tmp_path / "search_cost.json").read_text())
    transfer, retune, predictive = (row["effort"] for row in values["rows"])
    for spent in (transfer, retune, predictive):
        assert spent["search_sec"] > spent["device_sec"] > 0
        assert spent["num_sessions"] == 1
    assert retune["num_models"] > 0 and transfer["num_programs"] > 0
    assert values["predictions"]["random assignments"]["count"] == 2
    assert len(values["bars"]) == 7 and "date" in values and "environment" in values
    again = succeeded("search_cost.py", *flags)
    assert "Prune" not in again, "finished runs are only read"


@pytest.mark.slow
def test_strategies_are_compared_before_and_after_tuning(tmp_path):
    flags = (
        CONFIG,
        f"--workdir={tmp_path}",
        "--quick",
        "--rounds=1",
        "--seeds=0",
        "--strategies=cprune,uniform,global_ranking:random",
        "--reference=cprune",
    )
    succeeded("strategies.py", *flags)
    values = json.loads((tmp_path / "strategies.json").read_text())
    rows = {row["strategy"]: row for row in values["rows"]}
    assert set(rows) == {"cprune", "uniform", "global_ranking_random"}
    assert rows["uniform"]["epochs"] >= rows["cprune"]["epochs"], "equal training"
    for model in values["before_and_after_tuning"]["0"]:
        assert model["macs"] > 0 and model["untuned_ms"] > model["tuned_ms"] > 0
    assert len(values["rerankings"]) == 3


@pytest.mark.slow
def test_a_residual_network_goes_on_where_the_hours_ended(tmp_path):
    flags = (
        CONFIG,
        "--model=resnet8_fashion",
        "--name=ResNet-8",
        f"--workdir={tmp_path}",
        "--quick",
        "--target_speedup=1.1",
    )
    stopped = succeeded("residual_networks.py", *flags, "--hours=0.008")
    assert "The time is over in seed 0" in stopped
    said = succeeded("residual_networks.py", *flags)
    assert "no result" in said
    (entry,) = json.loads((tmp_path / "residual_networks.json").read_text())["models"].values()
    assert entry["seeds"] == [0] and entry["unfinished_seeds"] == []
    reached = entry["runs"]["0"]
    assert reached["num_sessions"] >= 1 and reached["speedup"] > 0
    assert set(entry["summary"]) >= {"speedup", "points_all_test", "hours"}
