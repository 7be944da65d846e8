"""The front of a run and its export."""

from __future__ import annotations

import pathlib
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest

from cprune_tf.front import FrontError, export_point, read_front
from cprune_tf.runs import events
from cprune_tf.strategies.cprune import CPrune
from tests.strategies import benches

ROOT = pathlib.Path(__file__).resolve().parents[2]

EASY = {"max_iterations": 3, "cprune": {"alpha": 0.5, "beta": 0.95}}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Three accepted models; the second is worse than the third in everything."""
    workdir = tmp_path_factory.mktemp("front") / "run"
    accuracies = iter((0.88, 0.8, 0.85))
    used = benches.hooks(evaluate=lambda model: next(accuracies))
    with benches.bench(workdir, EASY, used) as bench:
        benches.prune(bench, CPrune)
    return workdir


def test_every_accepted_model_is_a_point(run):
    points = read_front(run)
    assert [point.number for point in points] == [0, 1, 2, 3]
    assert [point.accuracy for point in points] == [0.9, 0.88, 0.8, 0.85]
    assert points[0].speedup == 1 and not any(point.is_result for point in points)
    speeds = [point.speedup for point in points]
    assert speeds == sorted(speeds) and speeds[3] > speeds[1]
    assert [point.is_dominated for point in points] == [False, False, True, False]


def test_the_result_is_the_point_that_was_trained_for_long(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("*.lock"))
    with benches.bench(copy, EASY) as bench:
        bench.run.journal.append(
            events.LongTermTrained(0.89, 3, "trained", "models/iter_0001.keras", 1)
        )
    points = read_front(copy)
    assert [point.is_result for point in points] == [False, True, False, False]
    assert points[1].accuracy == 0.89


class Unregistered(keras.layers.Layer):
    def call(self, x):
        return keras.ops.relu(x)


def test_a_class_that_is_not_registered_comes_from_the_original(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("*.lock"))
    inputs = keras.Input((4,))
    model = keras.Model(inputs, Unregistered()(keras.layers.Dense(3)(inputs)))
    model.save(copy / "models" / "iter_0002.keras")
    with pytest.raises(FrontError, match=r"a class that is not Keras.*original="):
        export_point(copy, 2, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert "model.tflite" in export_point(copy, 2, tmp_path / "out", original=model)


def test_an_exported_point_computes_what_the_accepted_model_computes(run, tmp_path):
    names = export_point(run, 2, tmp_path / "out")
    assert set(names) == {"model.keras", "model.json", "model.tflite"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(names)
    model = keras.models.load_model(tmp_path / "out" / "model.keras")
    accepted = keras.models.load_model(run / "models" / "iter_0002.keras")
    images = np.random.default_rng(0).random((2, 8, 8, 3), dtype=np.float32)
    np.testing.assert_array_equal(model(images), accepted(images))
    assert model.count_params() == read_front(run)[2].params


def test_what_cannot_be_exported_is_said(run, tmp_path):
    with pytest.raises(FrontError, match="the points 0, 1, 2, 3; 7 is none"):
        export_point(run, 7, tmp_path / "out")
    with pytest.raises(FrontError, match=r"holds no journal.jsonl"):
        read_front(tmp_path)
    assert not (tmp_path / "out").exists()


def test_the_command_shows_and_exports(run, tmp_path):
    command = [sys.executable, str(ROOT / "tools" / "export.py"), f"--workdir={run}"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "dominated" in shown and "88.00%" in shown
    output = tmp_path / "out"
    done = subprocess.run(
        [*command, "--point=3", f"--output={output}"], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [
        str(output / name) for name in ("model.keras", "model.json", "model.tflite")
    ]
    wrong = subprocess.run([*command, "--point=3"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2 and "expected both" in wrong.stderr
