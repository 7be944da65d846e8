from __future__ import annotations

import dataclasses
import datetime
import json

import pytest

from cprune_tf import report as report_lib
from cprune_tf.report import build as data
from cprune_tf.report import history, html
from cprune_tf.runs.directory import RunDirectory
from cprune_tf.runs.events import (
    RUN_EVENTS,
    Accepted,
    Baseline,
    CandidateJudged,
    CrossChecked,
    DataDescribed,
    Finished,
    RunStarted,
    StageEnded,
)
from cprune_tf.runs.journal import Journal, JournalError
from cprune_tf.runs.records import Record

from . import sample_run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return report_lib.build_report(sample_run.make_run(tmp_path_factory.mktemp("run") / "demo"))


def _row(report, runtime, num_threads):
    return next(
        row for row in report.latencies if (row.runtime, row.num_threads) == (runtime, num_threads)
    )


def test_finished_run(finished):
    assert finished.finished
    assert finished.title == "resnet8_fashion"
    assert finished.status.startswith("Finished: 4 of 9 candidates accepted.")
    assert finished.decision_counts == {
        "accepted": 4,
        "refused_latency": 3,
        "refused_accuracy": 2,
    }
    assert [i.after_candidate for i in finished.iterations] == [0, 1, 3, 6, 8]
    assert finished.device.name == "AMD EPYC 7B13 (x86_64)"
    assert finished.elapsed_sec == 551.2
    assert finished.final_accuracy == 0.9102
    assert finished.config["seed"] == 0
    assert finished.notes == ()


def test_speedups_are_ratios_of_medians_of_the_cross_check(finished):
    assert [(row.runtime, row.num_threads) for row in finished.latencies] == [
        ("tvm", 1),
        ("litert", 1),
        ("tvm", 2),
        ("litert", 2),
    ]
    tvm = _row(finished, "tvm", 1)
    assert tvm.speedup == pytest.approx(0.2706 / 0.1757)
    assert tvm.interleaved and tvm.is_clear
    litert = _row(finished, "litert", 2)
    assert litert.is_clear is False
    assert "1.54× as fast with TVM, 1.46× as fast with LiteRT" in finished.verdict
    assert "required 90.00" in finished.verdict and "met" in finished.verdict


def test_the_report_says_which_images_decided_and_which_are_quoted(tmp_path):
    data = DataDescribed("images", 10_800, 1_200, 2_000)
    report = report_lib.build_report(sample_run.make_run(tmp_path / "run", data=data))
    assert "on the test images. On the validation images, which decided, 91.45" in report.verdict
    assert "(required 90.00" in report.verdict
    assert any("1,200 validation images decided" in note for note in report.notes)
    # The square root of 0.9 x 0.1 / 1,200.
    assert any("of an accuracy is about 0.9 points" in note for note in report.notes)
    assert [row.name for row in report.accuracies] == ["keras", "tvm", "litert", "validation"]
    assert (report.accuracies[-1].original, report.accuracies[-1].pruned) == (0.9145, 0.9102)
    assert "Keras, validation images" in html.render(report, [])


def test_accuracies_on_the_same_images_are_compared_with_the_error_of_their_difference(tmp_path):
    data = DataDescribed("images", 10_800, 1_200, 2_000)
    report = report_lib.build_report(sample_run.make_run(tmp_path / "run", data=data))
    # Of 2,000 images, 30 are gained and 39 lost; on those that decided, 20 and 29.
    tested, decided = 0.00415, 0.00350
    errors = [row.standard_error for row in report.accuracies]
    assert errors == pytest.approx([tested] * 3 + [decided], abs=5e-6)
    parts = report.verdict.replace("\u00a0", " ").split(" on the test images.")
    assert "(−0.43 pp ± 0.42 pp)" in parts[0] and "(−0.43 pp ± 0.35 pp)" in parts[1]
    assert report.iterations[0].standard_error is None
    assert report.iterations[-1].standard_error == pytest.approx(0.00374, abs=5e-6)
    partly = report.decisions[-1]
    assert (partly.num_images, partly.difference) == (750, pytest.approx(-13 / 750))
    page = html.render(report, [])
    assert 'data-path="decisions.8.num_images">750<' in page
    assert 'data-path="iterations.4.standard_error">±' in page


def test_the_report_says_so_if_the_quoted_images_also_decided(tmp_path):
    data = DataDescribed("images", 12_000, 0, 2_000)
    report = report_lib.build_report(sample_run.make_run(tmp_path / "run", data=data))
    assert any("slightly optimistic" in note for note in report.notes)
    assert "validation" not in report.verdict
    assert [row.name for row in report.accuracies] == ["keras", "tvm", "litert"]


def test_sizes_and_accuracies(finished):
    sizes = {row.name: row for row in finished.sizes}
    assert list(sizes) == ["parameters", "MACs", ".keras file", ".tflite file", "TVM library"]
    assert (sizes[".keras file"].original, sizes[".keras file"].pruned) == (421_900, 243_100)
    assert (sizes[".tflite file"].original, sizes[".tflite file"].pruned) == (318_764, 171_204)
    assert sizes["parameters"].ratio == sizes["parameters"].pruned / 77_754
    assert [row.name for row in finished.accuracies] == ["keras", "tvm", "litert"]
    assert finished.accuracies[2].difference == pytest.approx(0.9097 - 0.9140)


def test_layers_and_tasks(finished):
    layers = {row.layer: row for row in finished.layers}
    assert (layers["stage3_conv2"].before, layers["stage3_conv2"].after) == (64, 40)
    assert layers["stem_conv"].kept == 1.0
    original, pruned = finished.iterations[0], finished.iterations[-1]
    left = {name: n for name, n in pruned.channels.items() if name != "stage3_conv2"}
    shorter = history.layers(original, dataclasses.replace(pruned, channels=left))
    vanished = next(row for row in shorter if row.layer == "stage3_conv2")
    assert (vanished.before, vanished.after, vanished.kept) == (64, 0, 0.0)
    assert finished.tasks_original[0].name == "fused_conv2d_stage3_conv2"
    assert sum(task.share for task in finished.tasks_pruned) == pytest.approx(1)
    shares = [task.total_ms for task in finished.tasks_pruned]
    assert shares == sorted(shares, reverse=True)


def test_same_directory_same_report(tmp_path):
    root = sample_run.make_run(tmp_path / "run")
    first = report_lib.write_report(root)
    page, figure = first.html_path.read_bytes(), (root / "figures/history.png").read_bytes()
    second = report_lib.write_report(root)
    assert second.report == first.report
    assert second.html_path.read_bytes() == page
    assert (root / "figures/history.png").read_bytes() == figure


@pytest.mark.parametrize(
    ("until", "num_latencies", "verdict"),
    [
        ("run_started", 0, "Nothing has been measured yet."),
        ("baseline", 1, "No candidate has been accepted"),
        ("candidate", 1, "No candidate has been accepted"),
        ("accepted", 1, "With 1 thread: 1.13× as fast with TVM."),
        ("exported", 1, "With 1 thread: 1.51× as fast with TVM."),
        ("cross_check", 4, "With 1 thread: 1.54× as fast with TVM, 1.46×"),
    ],
)
def test_partial_run_says_so_and_invents_nothing(tmp_path, until, num_latencies, verdict):
    report = report_lib.build_report(sample_run.make_run(tmp_path / "run", until=until))
    assert not report.finished
    assert report.status.startswith("Not finished")
    assert repr(until) in report.status
    assert report.verdict.startswith(verdict)
    assert len(report.latencies) == num_latencies
    assert report.peak_memory_bytes is None
    if until in ("run_started", "baseline", "candidate"):
        assert all(row.pruned is None for row in report.sizes)
        assert all(row.after is None for row in report.layers)
        assert all(row.speedup is None for row in report.latencies)
    if until == "accepted":
        assert not report.latencies[0].interleaved


def test_finished_without_an_accepted_candidate(tmp_path):
    report = report_lib.build_report(sample_run.make_run(tmp_path / "run", num_tried=0))
    assert report.finished
    assert report.tasks_pruned == ()
    assert {row.name: row.ratio for row in report.sizes}["parameters"] == 1.0


def test_emulated_latencies_give_no_speedup(tmp_path):
    report = report_lib.build_report(sample_run.make_run(tmp_path / "run", emulated=True))
    assert report.device.emulated
    assert all(row.speedup is None and row.is_clear is None for row in report.latencies)
    assert "×" not in report.verdict
    assert any("emulated" in note for note in report.notes)


def test_slower_and_missed_are_said(tmp_path):
    with RunDirectory.create(tmp_path, sample_run.CONFIG) as run:
        original = sample_run.model_fields(0, 1.0, 0.9)
        run.journal.append(Baseline(**original, required_accuracy=0.89))
        run.journal.append(Accepted(**sample_run.model_fields(1, 1.25, 0.88)))
    verdict = report_lib.build_report(tmp_path).verdict
    assert "0.80× as fast with TVM (slower)" in verdict
    assert "MISSED" in verdict


def test_run_of_another_version_is_refused(tmp_path):
    line = {"seq": 0, "time": "2026-01-01T00:00:00.000Z", "event": "run_started"}
    (tmp_path / "journal.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(JournalError, match="format 1; this version reads format 3"):
        data.build_report(tmp_path)


def test_decisions_compare_with_the_current_model(finished):
    first, second = finished.decisions[:2]
    assert first.latency_ratio == pytest.approx(0.2398 / 0.2706)
    assert first.price_ratio == pytest.approx(0.2441 / 0.2706)
    assert (second.latency_ratio, second.measured) == (None, None)
    assert second.price_ratio == pytest.approx(0.2389 / 0.2398)


def test_a_price_is_compared_with_the_latency_it_was_scaled_to():
    original = Baseline(**sample_run.model_fields(0, 1.0, 0.9))
    judged = CandidateJudged(
        index=0, iteration=0, key="a", task="", layers=(), removed={"a": 1}, step=1, price_ms=0.95,
        current_latency_ms=2.0, measured=sample_run.latency(1.9), accuracy=0.9,
        current_accuracy=0.9, decision="refused_latency", reason="", elapsed_sec=1.0, accepted=None,
    )  # fmt: skip
    (decision,) = history.decisions(_records(original, judged))
    assert (decision.price_ratio, decision.latency_ratio) == (0.95, 0.95)


def test_ruled_out_counts_are_told_by_target(finished):
    (target,) = finished.ruled_out
    assert (target.key, target.steps) == ("stem_conv", (1, 2, 3))
    assert (target.lowest_ratio, target.highest_ratio) == (0.997, 1.021)
    assert target.reason == "priced at 99.7% of the current"


def test_resumed_sessions_add_up(tmp_path):
    root = sample_run.make_run(tmp_path, until="accepted")
    with RunDirectory.open(root, sample_run.CONFIG, resume=True) as run:
        run.journal.append(RunStarted("0.1.0", "abc", "m", sample_run.device(), True))
        run.journal.append(StageEnded("Tune the original model", 8.6))
        run.journal.append(Finished(100.0, 2**30))
    report = report_lib.build_report(root)
    assert report.sessions == 2
    assert {s.name: s.elapsed_sec for s in report.stages}["Tune the original model"] == 180.0
    assert 100.0 <= report.elapsed_sec < 110.0
    assert any("2 sessions" in note for note in report.notes)


def _records(*events):
    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)
    times = (start + n * datetime.timedelta(seconds=90.5) for n in range(len(events)))
    return [Record(n, *pair) for n, pair in enumerate(zip(times, events, strict=True), start=1)]


def test_elapsed_time_of_a_killed_session_comes_from_its_events():
    started = RunStarted("0.1.0", "abc", "m", sample_run.device(), False)
    assert history.elapsed_sec(_records(started, StageEnded("Prune", 3.0))) == 90.5
    assert history.elapsed_sec([]) is None


def test_iteration_journalled_twice_counts_once():
    original = Baseline(**sample_run.model_fields(0, 1.0, 0.7))
    accepted = [Accepted(**sample_run.model_fields(1, 0.9, value)) for value in (0.5, 0.6)]
    iterations = history.iterations(_records(original, *accepted))
    assert [i.accuracy for i in iterations] == [0.7, 0.6]


def test_torn_journal_of_a_running_run_is_read_and_left_alone(tmp_path):
    root = sample_run.make_run(tmp_path, until="accepted")
    with open(root / "journal.jsonl", "ab") as journal:
        journal.write(b'{"seq": 5, "ev')
    before = (root / "journal.jsonl").read_bytes()
    assert len(data.build_report(root).iterations) == 2
    assert (root / "journal.jsonl").read_bytes() == before


def test_changed_environment_is_noted(tmp_path):
    root = sample_run.make_run(tmp_path, until="accepted")
    stored = json.loads((root / "environment.json").read_text())
    stored["packages"]["numpy"] = "1.0"
    (root / "environment.json").write_text(json.dumps(stored))
    RunDirectory.open(root, sample_run.CONFIG, resume=True).close()
    assert any("packages.numpy: was '1.0'" in note for note in data.build_report(root).notes)


def test_wrong_directories_are_refused(tmp_path):
    with pytest.raises(report_lib.ReportError, match=r"holds no journal\.jsonl"):
        data.build_report(tmp_path / "nothing")
    (tmp_path / "journal.jsonl").write_text('broken\n{"seq": 1, "event": "x"}\n')
    with pytest.raises(JournalError, match="line 1"):
        data.build_report(tmp_path)
    (tmp_path / "journal.jsonl").write_text("")
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(report_lib.ReportError, match="expected a JSON object"):
        data.build_report(tmp_path)


def test_reads_what_the_cross_check_writes(tmp_path):
    """The event is made of the cross-check's own class, so both agree on the format."""
    check = sample_run.cross_check(problems=("something is wrong.",))
    unusable = dataclasses.replace(check.results[2], max_abs_error=float("inf"))
    check = dataclasses.replace(check, results=(*check.results[:2], unusable, *check.results[3:]))
    with Journal(tmp_path / "journal.jsonl", RUN_EVENTS) as journal:
        journal.append(CrossChecked.of(check))
    report = data.build_report(tmp_path)
    assert report.cross_check.problems == ("something is wrong.",)
    assert report.cross_check.num_images == 2000
    assert len(report.cross_check.checks) == 6
    assert report.cross_check.checks[1].max_relative_error == 8.3e-7
    assert report.cross_check.checks[2].max_abs_error is None, "shown as not measured"
    assert _row(report, "tvm", 2).original.median_ms == 0.1893
    assert report.device.name == "AMD EPYC 7B13 (x86_64)"
