from __future__ import annotations

import io
import os
import pathlib
import subprocess
import sys

import pytest
import rich.console

from cprune_tf import report as report_lib
from cprune_tf.report import terminal

from . import sample_run

_ROOT = pathlib.Path(__file__).parents[2]


def _shown(report, width=150) -> str:
    console = rich.console.Console(file=io.StringIO(), width=width)
    console.print(terminal.render(report))
    return console.file.getvalue().replace("\u00a0", " ")


def test_tables_hold_the_report(tmp_path):
    shown = _shown(report_lib.build_report(sample_run.make_run(tmp_path / "run")))
    for expected in (
        "latency, TVM, 1 thread",
        "0.271 ms [0.268–0.274]",
        "1.54× speed",
        "1.00× speed, not clear",
        "−0.43 pp",
        "refused: accuracy",
        "3 latency refusals left out",
        "0.886x of the current",
        "Channel counts ruled out by their price: 3 (stem_conv: 1, 2, 3 removed",
        "0.997x to 1.021x of the current",
        "8.3e-07",
        "final.tflite",
    ):
        assert expected in shown, expected


@pytest.mark.parametrize("until", ["run_started", "baseline", "candidate", "accepted", "exported"])
@pytest.mark.parametrize("width", [40, 200])
def test_partial_runs_are_shown(tmp_path, until, width):
    report = report_lib.build_report(sample_run.make_run(tmp_path / "run", until=until))
    assert "Not finished" in _shown(report, width)


def test_emulated_is_labelled(tmp_path):
    run = sample_run.make_run(tmp_path / "run", emulated=True, problems=("look here.",))
    shown = _shown(report_lib.build_report(run))
    assert "latency, TVM, 1 thread, emulated" in shown
    assert "×" not in shown
    assert "! look here." in shown


def _run_tool(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(_ROOT / "tools" / "report.py"), *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(_ROOT), "COLUMNS": "150"},
    )


def test_command_line(tmp_path):
    run = sample_run.make_run(tmp_path / "run")
    result = _run_tool(f"--workdir={run}")
    assert result.returncode == 0, result.stderr
    assert "1.54× as fast with TVM" in result.stdout
    assert str(run / "report.html") in result.stdout
    assert (run / "report.json").exists()


def test_command_line_errors_are_one_line(tmp_path):
    result = _run_tool(f"--workdir={tmp_path / 'nothing'}")
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "holds no journal.jsonl" in result.stderr
