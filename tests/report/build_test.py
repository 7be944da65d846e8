from __future__ import annotations

import json

import pytest

from cprune_tf import report as report_lib
from cprune_tf.report import build as data
from cprune_tf.report import history
from cprune_tf.runs.directory import RunDirectory
from cprune_tf.runs.journal import Journal, JournalError

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
        "refused_latency": 2,
        "refused_accuracy": 2,
        "infeasible": 1,
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
        run.journal.append(
            "baseline", accuracy=0.9, required_accuracy=0.89, latency=sample_run.latency(1.0)
        )
        run.journal.append("accepted", iteration=1, accuracy=0.88, latency=sample_run.latency(1.25))
    verdict = report_lib.build_report(tmp_path).verdict
    assert "0.80× as fast with TVM (slower)" in verdict
    assert "MISSED" in verdict


def test_events_without_their_fields_are_not_measured(tmp_path):
    kinds = (
        "run_started", "stage", "baseline", "candidate", "accepted", "stopped",
        "long_term_trained", "exported", "cross_check", "something_new", "finished",
    )  # fmt: skip
    with Journal(tmp_path / "journal.jsonl") as journal:
        for kind in kinds:
            journal.append(kind)
        journal.append("candidate", removed=3, measured={"q1_ms": 1}, accuracy="high", layers=None)
    written = report_lib.write_report(tmp_path)
    assert written.report.finished
    assert len(written.report.decisions) == 2
    assert written.report.final_accuracy is None
    assert "not measured" in written.html_path.read_text()


def test_resumed_sessions_add_up(tmp_path):
    root = sample_run.make_run(tmp_path, until="accepted")
    with RunDirectory.open(root, sample_run.CONFIG, resume=True) as run:
        run.journal.append("run_started", resumed=True, device=sample_run.device())
        run.journal.append("stage", name="Tune the original model", elapsed_sec=8.6)
        run.journal.append("finished", elapsed_sec=100.0)
    report = report_lib.build_report(root)
    assert report.sessions == 2
    assert {s.name: s.elapsed_sec for s in report.stages}["Tune the original model"] == 180.0
    assert 100.0 <= report.elapsed_sec < 110.0
    assert any("2 sessions" in note for note in report.notes)


def test_elapsed_time_of_a_killed_session_comes_from_its_events():
    times = ("2026-01-01T00:00:00.000Z", "2026-01-01T00:01:30.500Z")
    events = [{"event": "run_started", "time": times[0]}, {"event": "stage", "time": times[1]}]
    assert history.elapsed_sec(events) == 90.5
    assert history.elapsed_sec([]) is None


def test_iteration_journalled_twice_counts_once():
    events = [
        {"event": "baseline", "iteration": 0},
        {"event": "accepted", "iteration": 1, "accuracy": 0.5},
        {"event": "accepted", "iteration": 1, "accuracy": 0.6},
    ]
    assert [i.accuracy for i in history.iterations(events)] == [None, 0.6]


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
    """The event is made by the cross-check's own class, so both agree on the format."""
    cross_check = pytest.importorskip("cprune_tf.cross_check")
    from cprune_tf.devices.base import DeviceInfo

    event = sample_run.check_event(emulated=False)
    results = tuple(
        cross_check.RuntimeResult(**{**result, "latencies": tuple(result["latencies"])})
        for result in event["results"]
    )
    check = cross_check.CrossCheck(
        device=DeviceInfo.from_json(event["device"]),
        metric="top1",
        num_images=2000,
        results=results,
        speedups=(),
        problems=("something is wrong.",),
    )
    with Journal(tmp_path / "journal.jsonl") as journal:
        journal.append("cross_check", **check.to_json())
    report = data.build_report(tmp_path)
    assert report.cross_check.problems == ("something is wrong.",)
    assert report.cross_check.num_images == 2000
    assert len(report.cross_check.checks) == 6
    assert report.cross_check.checks[1].max_relative_error == 8.3e-7
    assert _row(report, "tvm", 2).original.median_ms == 0.1893
    assert report.device.name == "AMD EPYC 7B13 (x86_64)"
