"""The prune command as a user types it: what it refuses, in one line and at once."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import numpy as np
import pytest

_ROOT = pathlib.Path(__file__).parents[2]
_CONFIG = f"--config={_ROOT / 'configs' / 'fashion_resnet8.py'}"


def _prune(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(_ROOT / "tools" / "prune.py"), *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def _refused(*flags: str) -> str:
    """Runs a command that must fail; returns the one line it says."""
    done = _prune(*flags)
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    return errors[0]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--config.strategy.alfa=0.9"], "alfa"),
        (["--config.strategy.cprune.alpha=1.5"], "a number in (0, 1]"),
        (["--config.strategy.importance=l3"], "fpgm, l1, l2"),
        (["--config.tuning.trials_per_task=0"], "a positive number"),
        (["--config.frontend=onnx"], "keras or tflite"),
        (["--threads=1,0"], "--threads is '1,0'; expected positive numbers"),
        (["--threads=2,2"], "--threads is '2,2'; expected positive numbers, each once"),
        (["--config.measure.further_threads=(-1,)"], "config.measure.further_threads is (-1,)"),
    ],
)
def test_a_wrong_field_is_named_before_anything_is_imported(tmp_path, flags, expected):
    message = _refused(_CONFIG, f"--workdir={tmp_path / 'run'}", *flags)
    assert expected in message
    assert not (tmp_path / "run").exists()


def test_a_missing_config_file_is_named(tmp_path):
    message = _refused("--config=configs/no_such.py", f"--workdir={tmp_path / 'run'}")
    assert "no_such.py" in message


def test_a_missing_model_is_named(tmp_path):
    message = _refused(_CONFIG, f"--workdir={tmp_path}", "--config.model=nowhere.keras")
    assert "nowhere.keras" in message


def test_an_unreadable_model_is_named(tmp_path):
    broken = tmp_path / "broken.keras"
    broken.write_bytes(b"not a model")
    message = _refused(_CONFIG, f"--workdir={tmp_path / 'run'}", f"--config.model={broken}")
    assert "broken.keras" in message


def test_images_of_a_wrong_shape_are_refused(tmp_path):
    images = np.zeros((20, 32, 32, 3), "uint8")
    labels = np.arange(20) % 10
    path = tmp_path / "images.npz"
    np.savez(path, x_train=images, y_train=labels, x_test=images, y_test=labels)
    message = _refused(_CONFIG, f"--workdir={tmp_path / 'run'}", f"--config.data.name={path}")
    assert "28" in message and "32" in message


def test_more_threads_than_cores_are_refused_before_tuning(tmp_path):
    workdir = tmp_path / "run"
    message = _refused(_CONFIG, f"--workdir={workdir}", "--threads=1,4096")
    assert "config.measure.further_threads is 4096; expected at most" in message
    assert not list((workdir / "tuning").glob("*record*"))


def test_an_impossible_accuracy_is_refused_before_tuning(tmp_path):
    workdir = tmp_path / "run"
    flag = "--config.strategy.required_accuracy=0.999"
    message = _refused(_CONFIG, f"--workdir={workdir}", flag)
    assert "99.90%" in message and "required_accuracy" in message
    assert not list((workdir / "tuning").glob("*record*"))


def test_a_run_that_is_there_needs_resume_and_the_same_config(tmp_path):
    workdir = tmp_path / "run"
    _refused(_CONFIG, f"--workdir={workdir}", "--config.strategy.required_accuracy=0.999")
    assert "--resume" in _refused(_CONFIG, f"--workdir={workdir}")
    message = _refused(_CONFIG, f"--workdir={workdir}", "--resume", "--config.seed=7")
    assert "seed" in message and "7" in message


def test_help_says_what_it_is_for_and_lists_its_flags():
    done = _prune("--help")
    assert "Prunes a Keras model for a device" in done.stdout
    for flag in ("--config", "--workdir", "--[no]resume"):
        assert flag in done.stdout
