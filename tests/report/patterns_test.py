"""The patterns of a run in all forms of its report."""

from __future__ import annotations

import dataclasses
import io
import json

import pytest
import rich.console

from cprune_tf import report as report_lib
from cprune_tf.report import formats, terminal
from cprune_tf.runs.events import PatternsTrained
from cprune_tf.runs.results import DrawnPattern, PatternEpoch, PatternLayer

from . import sample_run

EVENT = PatternsTrained(
    index=0,
    method="admm",
    num_epochs=3,
    epochs=(PatternEpoch(0.5, 0.4), PatternEpoch(0.25, None), PatternEpoch(0.1, 0.05)),
    patterns=(
        DrawnPattern(1, 3, (0, 1), 0.6, 1.0),
        *(DrawnPattern(3, 3, (0, 1, 3, 4), 0.1, 0.125) for _ in range(10)),
    ),
    layers=(
        PatternLayer("stem_conv", 3, 3, 3, 16, 1, 48, 48, 8, 192, 1000),
        PatternLayer("stage1_conv1", 3, 3, 16, 16, 4, 256, 64, 6, 256, 1200),
    ),
    kept="models/patterns.npz",
    weights="models/patterns.keras",
)


def test_layers_rates_and_bytes(tmp_path):
    run = sample_run.make_run(tmp_path / "run", patterns=EVENT)
    found = report_lib.build_report(run).patterns
    assert [layer.rate for layer in found.layers] == [1.0, 4.0]
    assert found.layers[1].density == pytest.approx(1 / 9)
    storage = {one.name: one.bytes for one in found.storage}
    assert storage["sparse layers, dense"] == 4 * 9 * (48 + 256)
    assert storage["sparse layers, CSR"] == 8 * (192 + 256) + 2 * 4 * 17
    assert storage["sparse layers, FKW"] == 2200
    assert storage["final.keras"] == 243_100 and "final.so" not in storage
    # The candidate with patterns was not the one that was delivered.
    assert not found.is_delivered
    assert report_lib.build_report(sample_run.make_run(tmp_path / "plain")).patterns is None


def test_what_is_delivered_is_said(tmp_path):
    run = sample_run.make_run(tmp_path / "run", until="accepted")
    accepted = report_lib.build_report(run).iterations[1].after_candidate
    event = dataclasses.replace(EVENT, index=accepted - 1)
    run = sample_run.make_run(tmp_path / "other", until="accepted", patterns=event)
    assert report_lib.build_report(run).patterns.is_delivered


def test_page_and_tables_show_them(tmp_path):
    written = report_lib.write_report(sample_run.make_run(tmp_path / "run", patterns=EVENT))
    assert {"patterns.png", "residuals.png"} <= set(written.figure_names)
    page = written.html_path.read_text()
    assert 'id="patterns"' in page and "The result does not have them." in page
    values = json.loads(written.json_path.read_text())["patterns"]
    assert f'data-path="patterns.layers.1.rate">{values["layers"][1]["rate"]:.2f}×' in page
    console = rich.console.Console(file=io.StringIO(), width=150)
    console.print(terminal.render(written.report))
    shown = console.file.getvalue()
    rate, density = "4.00×", formats.percent(1 / 9)
    for expected in ("Patterns (11, admm, which the result", "64 of 256", rate, density, "CSR"):
        assert expected in shown, expected


def test_a_method_that_tells_nothing_has_no_curve(tmp_path):
    event = dataclasses.replace(EVENT, method="one_shot", epochs=())
    written = report_lib.write_report(sample_run.make_run(tmp_path / "run", patterns=event))
    assert "patterns.png" in written.figure_names and "residuals.png" not in written.figure_names
