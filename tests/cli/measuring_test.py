"""The commands that measure a model by tasks and layers, as a user runs them in one workdir."""

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


@pytest.mark.parametrize(
    ("tool", "own"), [("profile", ()), ("staircase", ("layers", "points", "noise", "smallest"))]
)
def test_help_shows_the_commands_text_and_all_of_its_flags(tool, own):
    result = _run(tool, "--help")
    assert f"python tools/{tool}.py --model=" in result.stdout.partition("flags:")[0]
    for flag in (
        "model",
        "device",
        "cores",
        "frontend",
        "runtime",
        "precision",
        "workdir",
        "trials",
        "threads",
        "database",
        *own,
    ):
        assert f"--{flag}:" in result.stdout


def test_a_profile_is_printed_and_written(flags):
    result = _run("profile", *flags)
    assert result.returncode == 0, result.stderr
    assert "runtime overhead" in result.stdout and "GFLOPS" in result.stdout
    assert "good counts: filters at which" in result.stdout
    workdir = _workdir(flags)
    content = json.loads((workdir / "profile.json").read_text())
    groups = {tuple(task["subgraphs"][0]): task["groups"] for task in content["tasks"]}
    assert groups[("second",)] == ["first", "second"]
    for task in content["tasks"]:
        assert task["keeping_counts"][-1] == task["filters"]
    assert content["roofline"]["peak_gflops"] > 0
    assert (workdir / "profile.png").read_bytes().startswith(b"\x89PNG")


def test_a_profile_over_tflite_names_the_same_layers_and_groups(flags, tmp_path):
    result = _run("profile", *flags, "--frontend=tflite", f"--workdir={tmp_path}")
    assert result.returncode == 0, result.stderr
    over_keras = json.loads((_workdir(flags) / "profile.json").read_text())
    over_tflite = json.loads((tmp_path / "profile.json").read_text())

    def groups(content):
        return {tuple(task["subgraphs"][0]): task["groups"] for task in content["tasks"]}

    assert groups(over_tflite) == groups(over_keras)


def test_both_runtimes_are_compared_layer_by_layer_with_the_programs_of_the_workdir(
    flags, tmp_path
):
    programs = _workdir(flags) / "tuning" / "database_tuning_record.json"
    known = programs.read_bytes()
    written = tmp_path / "layers.json"
    result = _run("compare_tflite", "--layers", *flags, f"--json={written}")
    assert result.returncode == 0, result.stderr
    assert "TVM: whole model" in result.stdout and "LiteRT: whole model" in result.stdout
    rows = {tuple(row["layers"]): row for row in json.loads(written.read_text())["rows"]}
    for layer in ("first", "second"):
        assert rows[(layer,)]["tvm_ms"] > 0
        assert rows[(layer,)]["litert"][0].startswith("Convolution")
    assert programs.read_bytes() == known  # nothing was tuned again


@pytest.mark.parametrize(
    ("flags_given", "says"),
    [
        (("--layers",), "--workdir must be given with --layers"),
        (("--tflite=a.tflite",), "--library must be given without --layers"),
        (("--layers", "--workdir=w", "--threads=1,2"), "--threads is [1, 2]; --layers takes one"),
    ],
)
def test_missing_flags_of_a_comparison_end_in_one_line(flags, flags_given, says):
    result = _run("compare_tflite", flags[0], *flags_given)
    assert result.returncode == 2
    assert [line for line in result.stderr.splitlines() if line.startswith("error:")] != []
    assert says in result.stderr


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
        (("--runtime=abacus",), "The runtime is 'abacus'; expected one of"),
        (("--precision=int7",), "The precision is 'int7'; expected one that the runtime tvm"),
    ],
)
def test_wrong_flags_end_in_one_line_before_anything_is_tuned(flags, tmp_path, wrong, says):
    result = _run("staircase", *flags, f"--workdir={tmp_path / 'new'}", *wrong)
    assert result.returncode == 2
    lines = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1 and says in lines[0]
    assert not (tmp_path / "new" / "tuning").exists()
