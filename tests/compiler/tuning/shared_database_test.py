"""Runs that share a database, each with a folder of its own that it would use otherwise."""

from __future__ import annotations

import json
import pathlib

import pytest

from cprune_tf.compiler.database import RECORDS, DatabaseError
from cprune_tf.compiler.session import CompilerSession
from cprune_tf.compiler.tuning.shared_database import ABOUT
from cprune_tf.config import TuningConfig
from cprune_tf.storage.lock import LockedError

from .. import workloads

TRIALS = 3


@pytest.fixture
def config(tmp_path):
    return TuningConfig(
        trials_per_task=TRIALS,
        trials_per_round=TRIALS,
        database=str(tmp_path / "shared"),
        warm_start="",
        num_build_workers=1,
    )


@pytest.fixture
def run(device, config, tmp_path):
    """Opens a session as one more run would."""

    def opened(name, num_threads=1):
        folder = tmp_path / name / "tuning"
        return CompilerSession(device, folder, config, num_threads=num_threads, seed=0)

    return opened


def _folders(config):
    return sorted(path for path in pathlib.Path(config.database).iterdir() if path.is_dir())


def test_what_one_run_measured_no_other_measures_again(run, config, tmp_path):
    model = workloads.conv_model(4, 8)
    with run("first") as session:
        first = session.lower(model)
        assert session.tune(first, TRIALS).num_trials >= TRIALS
        latency_ms = first.latency_ms(session.database)
    (folder,) = _folders(config)
    measured = (folder / RECORDS).read_bytes()
    with run("second") as session:
        again = session.lower(model)
        assert session.tune(again, TRIALS).num_trials == 0
        assert again.latency_ms(session.database) == latency_ms
        session.build(again, tmp_path / "model.so")
    assert (folder / RECORDS).read_bytes() == measured
    assert not (tmp_path / "first").exists() and not (tmp_path / "second").exists()


def test_what_was_measured_for_other_threads_is_another_folder(run, config, device):
    if device.info().num_cores < 2:
        pytest.skip("this machine has one core")
    with run("one") as session:
        one_target = str(session.target)
    with run("two", num_threads=2) as session:
        assert len(session.database) == 0
        two_target = str(session.target)
    told = [json.loads((folder / ABOUT).read_text()) for folder in _folders(config)]
    assert {about["target"] for about in told} == {one_target, two_target}
    assert {about["cpu"] for about in told} == {device.info().cpu_name}


def test_two_runs_do_not_measure_at_the_same_time(run):
    otherwise = r"wait until it ends.*another tuning\.database"
    with run("first"), pytest.raises(LockedError, match=otherwise):
        run("second")
    run("third").close()


def test_a_database_that_cannot_be_opened_is_let_go(run, config):
    run("first").close()
    (folder,) = _folders(config)
    (folder / RECORDS).write_text("no\nJSON\n")
    for _ in range(2):  # the second time as well: nothing is left locked
        with pytest.raises(DatabaseError, match="is corrupt"):
            run("second")
    (folder / RECORDS).write_text("")
    run("third").close()


def test_a_place_without_folders_is_refused_by_its_name(run, config):
    pathlib.Path(config.database).write_text("a file")
    with pytest.raises(DatabaseError, match=r"config\.tuning\.database is .*shared"):
        run("first")
