"""tools/profile.py and tools/staircase.py as a user runs them, in one workdir."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import pytest

from cprune_tf.latency.staircase import load_staircases

_ROOT = pathlib.Path(__file__).parents[2]


def _run(tool, *flags):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(_ROOT), *sys.path])}
    return subprocess.run(
        [sys.executable, str(_ROOT / "tools" / f"{tool}.py"), *flags],
        env=environment,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    """A tiny model's file and a workdir, as flags."""
    import keras
    from keras import layers

    folder = tmp_path_factory.mktemp("measuring")
    image = keras.Input((8, 8, 4), name="image")
    x = layers.Conv2D(16, 3, padding="same", activation="relu", name="first")(image)
    x = layers.Conv2D(8, 3, activation="relu", name="second")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    keras.Model(image, layers.Dense(4, name="head")(x), name="tiny").save(folder / "tiny.keras")
    return (f"--model={folder / 'tiny.keras'}", f"--workdir={folder / 'work'}", "--trials=3")


def _workdir(flags):
    return pathlib.Path(flags[1].partition("=")[2])


def test_a_profile_is_printed_and_written(flags):
    result = _run("profile", *flags)
    assert result.returncode == 0, result.stderr
    assert "runtime overhead" in result.stdout and "GFLOPS" in result.stdout
    workdir = _workdir(flags)
    content = json.loads((workdir / "profile.json").read_text())
    groups = {tuple(task["subgraphs"][0]): task["groups"] for task in content["tasks"]}
    assert groups[("second",)] == ["first", "second"]
    assert content["roofline"]["peak_gflops"] > 0
    assert (workdir / "profile.png").read_bytes().startswith(b"\x89PNG")


def test_staircases_are_written_and_a_second_run_measures_nothing(flags):
    more = ("--layers=fir*", "--points=3", "--smallest=0.5")
    result = _run("staircase", *flags, *more)
    assert result.returncode == 0, result.stderr
    workdir = _workdir(flags)
    staircases = load_staircases(workdir / "staircases.json")
    assert list(staircases) == ["first"]
    assert [stair.count for stair in staircases["first"].stairs][-1] == 16
    assert (workdir / "staircases.png").read_bytes().startswith(b"\x89PNG")
    points = (workdir / "points.jsonl").read_bytes()
    result = _run("staircase", *flags, *more)
    assert result.returncode == 0, result.stderr
    assert (workdir / "points.jsonl").read_bytes() == points
    assert load_staircases(workdir / "staircases.json") == staircases


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (("--layers=nothing*",), "there are: first, second"),
        (("--points=1",), "expected at least 2"),
        (("--model=missing.keras",), "missing.keras"),
    ],
)
def test_wrong_flags_end_in_one_line_before_anything_is_tuned(flags, tmp_path, wrong, says):
    result = _run("staircase", *flags, f"--workdir={tmp_path / 'new'}", *wrong)
    assert result.returncode == 2
    lines = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1 and says in lines[0]
    assert not (tmp_path / "new" / "tuning").exists()
