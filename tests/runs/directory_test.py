from __future__ import annotations

import dataclasses
import getpass
import json
import os
import platform
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from cprune_tf import config as config_lib
from cprune_tf.runs.differences import flatten
from cprune_tf.runs.directory import RunDirectory, RunDirectoryError, config_hash
from cprune_tf.runs.events import EnvironmentChanged, Evaluated
from cprune_tf.runs.journal import JournalError
from cprune_tf.storage.lock import LockedError

_CONFIG = config_lib.PruneConfig()
_OTHER = config_lib.from_mapping({"seed": 7, "strategy": {"cprune": {"alpha": 0.9}}})


def test_create_lays_out_the_directory(tmp_path):
    with RunDirectory.create(tmp_path / "runs" / "a", _CONFIG) as run:
        assert not run.resumed
        for name in ("tuning", "models", "figures", "deploy", "tensorboard"):
            assert run.path(name).is_dir()
        assert config_lib.from_mapping(run.read_json("config.json")) == _CONFIG
        assert run.path("journal.jsonl").exists()
        assert run.read_json("environment.json")["packages"]["numpy"] == np.__version__


def test_a_run_of_an_earlier_version_resumes_where_a_later_field_has_its_default(tmp_path):
    RunDirectory.create(tmp_path, _CONFIG).close()
    config = json.loads((tmp_path / "config.json").read_text())
    del config["dry_run"], config["tuning"]["lowerings"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with RunDirectory.open(tmp_path, _CONFIG, resume=True) as run:
        assert run.resumed
    other = config_lib.from_mapping({"tuning": {"lowerings": "direct"}})
    with pytest.raises(RunDirectoryError, match=r"tuning.lowerings: was \(absent\), is 'direct'"):
        RunDirectory.open(tmp_path, other, resume=True)


def test_existing_run_needs_resume(tmp_path):
    with RunDirectory.create(tmp_path, _CONFIG) as run:
        run.journal.append(Evaluated(0.9))
    with pytest.raises(RunDirectoryError, match="--resume"):
        RunDirectory.create(tmp_path, _CONFIG)
    with RunDirectory.open(tmp_path, _CONFIG, resume=True) as run:
        assert run.resumed
        assert run.journal.records[0].event == Evaluated(0.9)


def test_resume_of_nothing_begins_a_run(tmp_path):
    with RunDirectory.open(tmp_path / "new", _CONFIG, resume=True) as run:
        assert not run.resumed


def test_run_of_another_journal_format_is_refused(tmp_path):
    RunDirectory.create(tmp_path, _CONFIG).close()
    line = {"seq": 0, "time": "2026-01-01T00:00:00.000Z", "event": "run_started", "model": "m"}
    (tmp_path / "journal.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(JournalError, match=r"format 1; this version reads format 3\. Finish"):
        RunDirectory.open(tmp_path, _CONFIG, resume=True)


def test_foreign_files_are_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    RunDirectory.create(tmp_path, _CONFIG).close()
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_resume_with_another_config_lists_both_values(tmp_path):
    RunDirectory.create(tmp_path, _CONFIG).close()
    with pytest.raises(RunDirectoryError) as caught:
        RunDirectory.open(tmp_path, _OTHER, resume=True)
    text = str(caught.value)
    assert "config.seed: was 0, is 7" in text
    assert "config.strategy.cprune.alpha: was 0.995, is 0.9" in text
    assert text.count("config.") == 2
    RunDirectory.open(tmp_path, _CONFIG, resume=True).close()  # no lock was left


def test_a_run_goes_on_where_its_trainings_ran_elsewhere(tmp_path):
    RunDirectory.create(tmp_path, dataclasses.replace(_CONFIG, ray_address="local")).close()
    RunDirectory.open(tmp_path, _CONFIG, resume=True).close()


def test_config_written_by_a_version_with_other_fields_differs(tmp_path):
    RunDirectory.create(tmp_path, _CONFIG).close()
    stored = json.loads((tmp_path / "config.json").read_text())
    del stored["seed"]
    (tmp_path / "config.json").write_text(json.dumps({**stored, "gone": 1}))
    with pytest.raises(RunDirectoryError) as caught:
        RunDirectory.open(tmp_path, dataclasses.replace(_CONFIG, seed=7), resume=True)
    assert "config.seed: was (absent), is 7" in str(caught.value)
    assert "config.gone: was 1, is (absent)" in str(caught.value)


@pytest.mark.parametrize("resume", [False, True])
def test_journal_without_config_is_refused(tmp_path, resume):
    with RunDirectory.create(tmp_path, _CONFIG) as run:
        run.journal.append(Evaluated(0.9))
    (tmp_path / "config.json").unlink()
    with pytest.raises(RunDirectoryError, match=r"no config\.json"):
        RunDirectory.open(tmp_path, _CONFIG, resume=resume)


def test_file_in_the_way_and_broken_config(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunDirectoryError, match="is a file"):
        RunDirectory.create(tmp_path / "file", _CONFIG)
    RunDirectory.create(tmp_path / "run", _CONFIG).close()
    (tmp_path / "run" / "config.json").write_text("{")
    with pytest.raises(RunDirectoryError, match="is not JSON"):
        RunDirectory.open(tmp_path / "run", _CONFIG, resume=True)


def test_two_at_once_are_refused(tmp_path):
    with RunDirectory.create(tmp_path, _CONFIG), pytest.raises(LockedError, match="in use"):
        RunDirectory.open(tmp_path, _CONFIG, resume=True)


def test_config_hash_depends_on_every_value():
    assert config_hash(_CONFIG) == config_hash(config_lib.from_mapping({}))
    assert config_hash(_CONFIG) != config_hash(_OTHER)


def test_environment_names_no_host_and_no_user(tmp_path):
    with RunDirectory.create(tmp_path, _CONFIG) as run:
        environment = run.read_json("environment.json")
    leaves = [str(leaf) for leaf in flatten(environment).values()]
    assert platform.node() not in leaves
    assert getpass.getuser() not in leaves
    assert not [leaf for leaf in leaves if os.path.expanduser("~") in leaf]
    assert environment["machine"]["cores_logical"] >= 1
    assert environment["python"].endswith(platform.python_version())


def test_changed_environment_is_reported_once(tmp_path):
    RunDirectory.create(tmp_path, _CONFIG).close()
    path = tmp_path / "environment.json"
    stored = json.loads(path.read_text())
    stored["machine"]["model"] = "Some other CPU"
    path.write_text(json.dumps(stored))
    with RunDirectory.open(tmp_path, _CONFIG, resume=True) as run:
        assert [c.field for c in run.environment_changes] == ["machine.model"]
        assert "Some other CPU" in run.journal.last(EnvironmentChanged).changes[0]
    with RunDirectory.open(tmp_path, _CONFIG, resume=True) as run:
        assert run.environment_changes == ()
        assert len(run.journal.events(EnvironmentChanged)) == 1


@pytest.mark.parametrize("name", ["../x.json", "/tmp/x.json", "models/../../x.json"])
def test_names_may_not_lead_out(tmp_path, name):
    with RunDirectory.create(tmp_path / "run", _CONFIG) as run, pytest.raises(ValueError):
        run.write_json(name, {})


@dataclasses.dataclass
class _Result:
    values: np.ndarray


def test_write_json_replaces_whole_files(tmp_path):
    with RunDirectory.create(tmp_path, _CONFIG) as run:
        run.write_json("deploy/result.json", _Result(np.float32([0.5, 1.5])))
        assert run.read_json("deploy/result.json") == {"values": [0.5, 1.5]}
        with pytest.raises(TypeError):
            run.write_json("deploy/result.json", {"bad": object()})
        assert run.read_json("deploy/result.json") == {"values": [0.5, 1.5]}
        assert [p.name for p in run.path("deploy").iterdir()] == ["result.json"]


def test_save_model_round_trip(tmp_path):
    keras = pytest.importorskip("keras")
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="dense")])
    with RunDirectory.create(tmp_path, _CONFIG) as run:
        path = run.save_model(model, "models/iter_0001.keras")
        with pytest.raises(ValueError, match=r"\.keras"):
            run.save_model(model, "models/iter_0001.h5")
        assert [p.name for p in run.path("models").iterdir()] == ["iter_0001.keras"]
    loaded = keras.models.load_model(path)
    x = np.ones((1, 4), "float32")
    np.testing.assert_array_equal(loaded(x), model(x))


_KILLED = """
import sys, time
from cprune_tf import config
from cprune_tf.storage import files
from cprune_tf.runs.differences import flatten
from cprune_tf.runs.directory import RunDirectory
run = RunDirectory.create(sys.argv[1], config.PruneConfig())
run.write_bytes("models/iter_0000.keras", b"whole")
with files.replacing(run.path("models/iter_0000.keras")) as temporary:
    temporary.write_bytes(b"ha")
    print("half", flush=True)
    time.sleep(60)
"""


def test_run_killed_while_saving_a_model_resumes(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", _KILLED, str(tmp_path / "run")],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout.readline() == "half\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    models = tmp_path / "run" / "models"
    assert len(list(models.iterdir())) == 2
    with RunDirectory.open(tmp_path / "run", _CONFIG, resume=True) as run:
        assert run.resumed
        assert [p.name for p in models.iterdir()] == ["iter_0000.keras"]
        assert (models / "iter_0000.keras").read_bytes() == b"whole"


def test_run_killed_while_being_created_can_be_begun_again(tmp_path):
    code = (
        "import sys\nfrom cprune_tf import config\n"
        "from cprune_tf.runs.directory import RunDirectory\nprint('up', flush=True)\n"
        "RunDirectory.create(sys.argv[1], config.PruneConfig())\n"
    )
    for number, delay_sec in enumerate((0.0, 0.002, 0.005, 0.01, 0.03)):
        root = tmp_path / str(number)
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(root)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert process.stdout.readline() == "up\n"
        time.sleep(delay_sec)
        process.kill()
        process.communicate()
        with RunDirectory.open(root, _CONFIG, resume=True) as run:
            assert run.read_json("config.json") == _CONFIG.to_json_dict()
