from __future__ import annotations

import datetime

import pytest

from benchmarks import effort
from benchmarks.effort import MODELS, PROGRAM, TRAINING, Work
from cprune_tf import config as configs
from cprune_tf.devices import DeviceError
from cprune_tf.runs.events import Baseline, CandidateJudged, RunStarted, Stopped
from cprune_tf.runs.records import Record
from tests.report import sample_run

START = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)


def records(*times_and_kinds):
    """Records at these seconds; their fields do not matter."""
    return [
        Record(number, START + datetime.timedelta(seconds=sec), object.__new__(kind))
        for number, (sec, kind) in enumerate(times_and_kinds, start=1)
    ]


def work(what, start, elapsed, count=1):
    return Work(what, START.timestamp() + start, elapsed, count)


ONE_SESSION = records((0, RunStarted), (100, Baseline), (160, CandidateJudged), (200, Stopped))


def test_only_what_lies_between_baseline_and_end_counts():
    done = [
        work(PROGRAM, 50, 10, 7),  # the original's tuning
        work(PROGRAM, 110, 4, 1),
        work(PROGRAM, 115, 4, 0),  # the same program once more
        work(MODELS, 120, 10, 3),
        work(TRAINING, 130, 25),
        work(MODELS, 250, 10, 4),  # the cross-check
    ]
    found = effort.search_effort(ONE_SESSION, done)
    assert found == effort.SearchEffort(75, 25, 18, 1, 3, 1)
    assert found.num_measurements == 4


def test_the_time_between_two_sessions_and_a_lost_training_do_not_count():
    killed = records(
        (0, RunStarted),
        (100, Baseline),
        (110, CandidateJudged),
        # It timed a model until 130 and was killed while it trained.
        (1000, RunStarted),
        (1060, CandidateJudged),
        (1070, Stopped),
    )
    done = [work(MODELS, 120, 10, 3), work(TRAINING, 1010, 40)]
    found = effort.search_effort(killed, done)
    assert found == effort.SearchEffort(30 + 70 - 40, 40, 10, 0, 3, 2)


def test_a_run_that_still_prunes_is_refused():
    with pytest.raises(ValueError, match="has not ended"):
        effort.search_effort(ONE_SESSION[:-1], [])


def test_a_torn_line_is_cut_off_and_failed_measurements_count(tmp_path):
    path = tmp_path / "run" / effort.ACTIVITY
    recorder = effort.Recorder(path)
    with recorder.doing(TRAINING):
        pass
    recorder.close()
    path.write_bytes(path.read_bytes() + b'{"what": "trai')
    recorder = effort.Recorder(path)
    with effort.RecordingDevice(recorder) as device:
        for _ in range(2):
            with pytest.raises(DeviceError, match="no file"):
                device.time_kernel(tmp_path / "missing.so", "main", [])
    recorder.close()
    found = effort.read_work(tmp_path / "run")
    assert [(one.what, one.count) for one in found] == [(TRAINING, 1), (PROGRAM, 1), (PROGRAM, 0)]


def test_programs_are_copied_only_to_runs_that_have_not_begun(tmp_path):
    source, root = tmp_path / "source", tmp_path / "run"
    source.mkdir()
    (source / "records.json").write_text("a")
    (source / "database.lock").write_text("")
    root.mkdir()
    effort.copy_tuning(source, root)
    assert [path.name for path in (root / "tuning").iterdir()] == ["records.json"]
    (source / "records.json").write_text("b")
    effort.copy_tuning(source, root)
    assert (root / "tuning" / "records.json").read_text() == "a"


def test_what_cannot_be_counted_is_refused():
    effort.check_config(sample_run.CONFIG)
    for fields in ({"device": "adb:"}, {"tuning": {"database": "shared"}}):
        with pytest.raises(configs.ConfigError, match="expected"):
            effort.check_config(configs.from_mapping(fields))
