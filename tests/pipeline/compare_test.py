"""The comparison of strategies: mostly on runs made of formulas, once for real."""

from __future__ import annotations

import dataclasses
import io
import json
import pathlib
import re
import subprocess
import sys

import pytest
import rich.console

from cprune_tf import api, compare
from cprune_tf import config as configs
from cprune_tf.accuracy import TOP1, Metric
from cprune_tf.baselines.tfmot import running
from cprune_tf.baselines.tfmot.errors import TfmotError
from cprune_tf.baselines.tfmot.sparse_files import SparseFiles, TfliteFile
from cprune_tf.devices import DeviceInfo, DeviceUnreachableError, Latency
from cprune_tf.report.compared import figure, sentences, terminal, types
from cprune_tf.runs import RunDirectoryError
from tests.baselines import tfmot_models
from tests.pipeline.formula_runs import FormulaDevice, Killed, Pruning
from tests.report import sample_run

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIG = configs.from_mapping(
    {
        "strategy": {"max_iterations": 3, "cprune": {"alpha": 0.95, "beta": 0.95}},
        "tuning": {"trials_per_accepted_task": 0},
    }
)
THREE = ("cprune", "global_ranking", "uniform")


def quiet():
    return rich.console.Console(file=io.StringIO(), width=80)


@pytest.fixture
def device(monkeypatch):
    device = FormulaDevice()
    monkeypatch.setattr(compare.devices, "open_device", lambda name, cores: device)
    return device


@pytest.fixture
def pruning(monkeypatch):
    pruning = Pruning()
    monkeypatch.setattr(api, "prune", pruning)
    return pruning


def compared(workdir, names=THREE, resume=False, config=CONFIG):
    plan = compare.make_plan(config, names, workdir, resume=resume)
    return compare.compare_strategies(plan, quiet()).comparison


def shown(comparison, width=80):
    console = rich.console.Console(file=io.StringIO(), width=width)
    console.print(terminal.render(comparison))
    return console.file.getvalue().replace("\u00a0", " ")


def test_rows_follow_from_the_runs_and_the_joint_measurement(tmp_path, device, pruning):
    pruning.accuracies = {"global_ranking": 0.5}
    comparison = compared(tmp_path)
    assert device.timed == [["original", "cprune", "uniform"]]
    first, second, third = comparison.rows
    assert {first.strategy, second.strategy} == {"cprune", "uniform"}
    assert third.strategy == "global_ranking" and third.state == types.UNPRUNED
    assert "no candidate was accepted" in third.remark and third.speedup is None
    assert first.speedup.median > second.speedup.median > 1
    base = comparison.original.latency
    assert first.speedup.median == base.median_ms / first.latency.median_ms
    assert first.speedup.low < first.speedup.median < first.speedup.high
    assert first.state == types.MET and first.deciding_accuracy == 0.88
    assert first.test_accuracy == 0.9102 and comparison.original.test_accuracy == 0.9145
    by_name = {row.strategy: row for row in comparison.rows}
    assert by_name["uniform"].cost == types.SearchCost(65.0, 60.0, 5.0, 1, 1, 1)
    assert by_name["uniform"].accepted == ()
    assert len(by_name["cprune"].accepted) == by_name["cprune"].cost.num_trained - 1
    ratio = second.latency.median_ms / first.latency.median_ms
    assert f"{first.strategy} is the fastest at the required accuracy" in comparison.verdict
    assert f"{ratio:.2f}× as fast as {second.strategy}" in comparison.verdict
    databases = {
        json.loads((tmp_path / name / "config.json").read_text())["tuning"]["database"]
        for name in THREE
    }
    assert databases == {str(tmp_path / "database")}


def test_the_table_fits_into_80_columns_and_the_page_into_one_file(tmp_path, device, pruning):
    pruning.errors = {"uniform": configs.ConfigError("config.x is\n1.")}
    comparison = compared(tmp_path)
    text = shown(comparison)
    assert max(map(len, text.splitlines())) <= 80
    for expected in ("global_ranking", "speed-up", "88.00 %", "91.02 %", "1:05 min", "failed",
                     "uniform: config.x is 1."):  # fmt: skip
        assert expected in text, text
    page = (tmp_path / "comparison.html").read_text()
    values = json.loads((tmp_path / "comparison.json").read_text())
    numbers = re.findall(r'<data value="([^"]+)" data-path="([^"]+)">', page)
    assert len(numbers) > 20
    for value, path in numbers:
        found = values
        for step in path.split("."):
            found = found[int(step)] if isinstance(found, list) else found[step]
        assert float(value) == found, path
    assert comparison.verdict in page
    assert not re.search(r"https?://|<script|#0000[01][0-9a-f]\b", page)
    assert page.count("<svg") == 2 and (tmp_path / "comparison.png").is_file()


def test_a_finished_comparison_is_only_read(tmp_path, device, pruning):
    before = compared(tmp_path, ("uniform", "cprune"))
    page = (tmp_path / "comparison.html").read_bytes()
    (tmp_path / "uniform" / "report.html").unlink()
    assert compared(tmp_path, ("uniform", "cprune"), resume=True) == before
    assert (tmp_path / "uniform" / "report.html").is_file()
    assert (tmp_path / "comparison.html").read_bytes() == page
    assert pruning.pruned == ["uniform", "cprune"] and len(device.timed) == 1
    compared(tmp_path, THREE, resume=True)
    assert pruning.pruned == ["uniform", "cprune", "global_ranking"]
    assert device.timed[1:] == [["original", *THREE]], "all in one call, also the old ones"


def test_a_killed_comparison_goes_on_where_it_was(tmp_path, device, pruning):
    pruning.errors = {"global_ranking": Killed()}
    with pytest.raises(Killed):
        compared(tmp_path)
    pruning.errors = {}
    comparison = compared(tmp_path, resume=True)
    assert pruning.pruned == ["cprune", "global_ranking", "global_ranking", "uniform"]
    assert all(row.has_result for row in comparison.rows)
    assert any("resumed: global_ranking" in note for note in comparison.notes)


def test_a_strategy_that_fails_is_a_row_and_is_tried_again(tmp_path, device, pruning):
    pruning.errors = {"cprune": configs.ConfigError("nothing can be pruned.")}
    comparison = compared(tmp_path, ("cprune", "uniform"))
    failed = comparison.rows[-1]
    assert (failed.strategy, failed.state) == ("cprune", types.FAILED)
    assert failed.remark == "nothing can be pruned."
    assert "no other strategy meets it" in comparison.verdict
    pruning.errors = {}
    assert compared(tmp_path, ("cprune", "uniform"), resume=True).rows[-1].has_result


def test_what_is_no_strategys_fault_ends_the_comparison(tmp_path, device, pruning):
    pruning.early_error = configs.ConfigError("the data do not fit.")
    with pytest.raises(configs.ConfigError, match="do not fit"):
        compared(tmp_path / "early")
    assert pruning.pruned == ["cprune"]
    pruning.early_error = None
    pruning.errors = {"cprune": DeviceUnreachableError("the board is gone")}
    with pytest.raises(DeviceUnreachableError):
        compared(tmp_path / "lost")
    assert not (tmp_path / "lost" / "uniform").exists()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("uniform", "unifrom"), "'unifrom'; expected some of cprune, global_ranking, lat"),
        (("uniform", "cprune", "uniform"), "uniform twice"),
    ],
)
def test_wrong_names_are_refused(tmp_path, names, message):
    with pytest.raises(compare.CompareError, match=message):
        compare.make_plan(CONFIG, names, tmp_path)


def test_runs_that_are_there_need_resume_and_the_same_config(tmp_path, device, pruning):
    compared(tmp_path, ("uniform",))
    with pytest.raises(compare.CompareError, match="--resume"):
        compare.make_plan(CONFIG, ("cprune", "uniform"), tmp_path)
    other = dataclasses.replace(CONFIG, seed=7)
    with pytest.raises(RunDirectoryError, match=r"config\.seed: was 0, is 7"):
        compare.make_plan(other, ("cprune", "uniform"), tmp_path, resume=True)
    assert not (tmp_path / "cprune").exists()
    named = dataclasses.replace(CONFIG.tuning, database="elsewhere")
    plan = compare.make_plan(dataclasses.replace(CONFIG, tuning=named), (), tmp_path / "new")
    assert len(plan.configs) >= 6
    assert {config.tuning.database for config in plan.configs.values()} == {"elsewhere"}


class _WithoutTfmot(Pruning):
    """Its runs of contenders fail before the original is measured."""

    def __call__(self, model, *, sparsifier, **given):
        if sparsifier is not None:
            raise TfmotError(f"TFMOT's process ended: {sparsifier.pattern}.")
        super().__call__(model, sparsifier=None, **given)


def test_a_contender_that_fails_costs_the_strategies_nothing(tmp_path, device, monkeypatch):
    monkeypatch.setattr(running, "require_packages", lambda: None)
    monkeypatch.setattr(api, "prune", _WithoutTfmot())
    comparison = compared(tmp_path, ("tfmot_2_4", "uniform"))
    first, failed = comparison.rows
    assert first.strategy == "uniform" and first.has_result
    assert (failed.strategy, failed.state) == ("tfmot_2_4", types.FAILED)
    assert failed.remark == "TFMOT's process ended: 2:4."


@pytest.mark.skipif(tfmot_models.is_installed(), reason="it is installed")
def test_a_contender_without_its_tool_is_refused_before_any_run(tmp_path):
    with pytest.raises(TfmotError, match="pip install"):
        compare.make_plan(CONFIG, ("uniform", "tfmot_magnitude"), tmp_path / "new")


def test_a_note_says_what_zeros_are_worth():
    def one(size, gzip, ms):
        return TfliteFile("x", size, gzip, Latency(ms, ms, ms, ms, 40, 1))

    sparse = SparseFiles(0.8, one(9000, 8000, 1.0), one(9000, 4000, 1.1), one(3000, 2900, 0.9), 0.0)
    row = dataclasses.replace(_row("tfmot_magnitude", 1.0, 0.9), sparse=sparse)
    timing = _timing(sample_run.device(), row)
    (note,) = (n for n in sentences.notes([row], timing, {}, "", TOP1) if "removes no filter" in n)
    said = note.replace("\u00a0", " ")
    for expected in ("80 % of the weights", "9.00 kB (4.00 kB with gzip)", "3.00 kB (2.90 kB)",
                     "the original takes 1.00 ms", "the one with it 0.900 ms"):  # fmt: skip
        assert expected in said, said
    wrong = dataclasses.replace(row, sparse=dataclasses.replace(sparse, max_relative_error=0.5))
    emulated = _timing(sample_run.device(emulated=True), wrong)
    said = " ".join(sentences.notes([wrong], emulated, {}, "", TOP1))
    assert "outputs differ by 0.5" in said and "the original takes" not in said


def _row(name, ms, accuracy, state=types.MET):
    latency = Latency(ms, 0.95 * ms, 1.05 * ms, ms, 40, 1)
    speedup = types.Speedup(1 / ms, 0.9 / ms, 1.1 / ms)
    return types.Row(name, state, "", accuracy, accuracy, latency, speedup, 1, None, (), name)


def test_the_verdict_says_what_the_numbers_allow():
    fast, slow, close = _row("a", 0.4, 0.9), _row("b", 0.6, 0.9), _row("c", 0.41, 0.9)
    assert sentences.verdict([fast, slow], 0.89, False, TOP1) == (
        "a is the fastest at the required accuracy of 89.00\u00a0%: 2.50× as fast as the original, "
        "and 1.50× as fast as b, the second."
    )
    assert "no clear difference" in sentences.verdict([fast, close], 0.89, False, TOP1)
    missed = [_row("a", 0.4, 0.7, types.MISSED), _row("b", 0.6, 0.8, types.MISSED)]
    assert "b comes closest with 80.00" in sentences.verdict(missed, 0.89, False, TOP1)
    assert "×" not in sentences.verdict([fast, slow], 0.89, True, TOP1)
    assert "No strategy" in sentences.verdict([], 0.89, False, TOP1)


def test_a_contender_for_classifiers_is_refused_for_another_task(tmp_path):
    config = dataclasses.replace(
        CONFIG, strategy=dataclasses.replace(CONFIG.strategy, metric="mean_io_u")
    )
    with pytest.raises(compare.CompareError, match="tfmot_2_4, which are for classifiers"):
        compare.make_plan(config, ("uniform", "tfmot_2_4"), tmp_path / "out")


def test_another_score_is_named_with_its_unit_and_direction():
    error = Metric("mean_absolute_error", is_minimized=True)
    met, missed = _row("a", 0.4, -0.1), _row("b", 0.6, -0.25, types.MISSED)
    worse = dataclasses.replace(missed, strategy="c", deciding_accuracy=-0.5)
    assert "the required mean absolute error of at most 0.2000: 2.50" in sentences.verdict(
        [met], -0.2, False, error
    )
    assert sentences.verdict([worse, missed], -0.2, False, error) == (
        "No strategy meets the required mean absolute error of at most 0.2000; b comes closest "
        "with 0.2500."
    )


def _timing(info: DeviceInfo, *rows):
    original = types.TimedModel(types.ORIGINAL, "0", Latency(1, 1, 1, 1, 40, 1))
    return types.Timing(info, "", (original, *(types.TimedModel(r.strategy, "1", r.latency)
                                              for r in rows)))  # fmt: skip


def test_notes_say_who_reached_the_target():
    rows = [_row("a", 0.405, 0.9), _row("b", 0.6, 0.9)]
    wanted = {"strategy": {"target_speedup": 2.5}}
    notes = " ".join(sentences.notes(rows, _timing(sample_run.device(), *rows), wanted, "", TOP1))
    assert "target of 2.50×" in notes and "Reached, within 2 %, by: a." in notes
    timing = _timing(sample_run.device(emulated=True), *rows)
    assert "emulated" in " ".join(sentences.notes(rows, timing, {}, "", TOP1))


def test_the_front_holds_what_none_beats_in_both():
    positions = [(1.0, 0.9), (2.0, 0.89), (2.0, 0.88), (1.5, 0.885), (3.0, 0.8)]
    assert figure.undominated(positions) == [(1.0, 0.9), (2.0, 0.89), (3.0, 0.8)]


def _command(*flags):
    command = [sys.executable, str(ROOT / "tools" / "compare.py"), *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)


def test_the_command_refuses_wrong_names_and_flags_in_one_line(tmp_path):
    workdir = tmp_path / "out"
    config = f"--config={ROOT / 'configs' / 'fashion_resnet8.py'}"
    for flag, expected in (
        ("--strategies=uniform,magic", "performance_aware, predictive, uniform"),
        ("--target_speedup=0.5", "0 or more than 1"),
    ):
        done = _command(config, f"--workdir={workdir}", flag)
        assert done.returncode == 2, done.stderr
        assert done.stderr.count("\n") == 1 and expected in done.stderr
    assert not workdir.exists()


@pytest.mark.slow
def test_two_strategies_for_real(tiny_model_path, tmp_path):
    flags = (
        f"--config={pathlib.Path(__file__).with_name('tiny_config.py')}",
        f"--config.model={tiny_model_path}",
        "--strategies=uniform,performance_aware",
        f"--workdir={tmp_path / 'out'}",
        "--resume",
    )
    done = _command(*flags)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    values = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert {row["state"] for row in values["rows"]} <= {"met", "unpruned"}
    assert values["rows"][0]["speedup"]["median"] > 1
    said = " ".join(done.stdout.replace("│", " ").split())
    assert " ".join(values["verdict"].split()) in said
    (shared,) = (tmp_path / "out" / "database").iterdir()
    assert (shared / "device.json").is_file()
    again = _command(*flags)
    assert again.returncode == 0 and "Timing" not in again.stdout
    assert json.loads((tmp_path / "out" / "comparison.json").read_text()) == values


@tfmot_models.needs_tfmot
@pytest.mark.slow
def test_tfmot_beside_a_strategy_for_real(tiny_model_path, tmp_path):
    done = _command(
        f"--config={pathlib.Path(__file__).with_name('tiny_config.py')}",
        f"--config.model={tiny_model_path}",
        "--strategies=tfmot_magnitude",
        f"--workdir={tmp_path}",
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (row,) = json.loads((tmp_path / "comparison.json").read_text())["rows"]
    assert row["state"] == "met" and row["speedup"]["median"] == pytest.approx(1, abs=0.3)
    assert row["sparse"]["zeros"] == pytest.approx(0.8, abs=0.01)
    assert row["sparse"]["sparse"]["file_bytes"] < 0.5 * row["sparse"]["dense"]["file_bytes"]
    report = json.loads((tmp_path / "tfmot_magnitude" / "report.json").read_text())
    assert not [problem for problem in report["cross_check"]["problems"] if "differ" in problem]
    assert "removes no filter" in done.stdout
