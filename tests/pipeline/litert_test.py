"""A whole run for LiteRT, whose stages, files and report do without TVM."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import rich.console

import cprune_tf
from cprune_tf import config as configs
from cprune_tf import litert
from cprune_tf.cross_check import check_pixel_file
from cprune_tf.data import pipeline
from cprune_tf.deployment import Deployment
from cprune_tf.devices import ModelFile, open_device
from cprune_tf.front import export_point, read_front
from cprune_tf.litert.pixels import taking_pixels
from cprune_tf.report import terminal, types
from cprune_tf.report.shipping import shippable
from cprune_tf.runs import events, read_records
from tests.pipeline import tiny_config


def _config(precision="float32"):
    config = tiny_config.get_config()
    config.precision = precision
    if precision == "int8":
        config.data.validation_fraction = 0.0
    config.runtime = "litert"
    config.strategy.name = "uniform"
    config.strategy.max_iterations = 1
    config.deploy.pixel_input = True
    return config.to_dict()


def _prune(path, workdir, precision="float32", **options):
    console = rich.console.Console(file=io.StringIO(), width=100)
    config = _config(precision)
    return cprune_tf.prune(str(path), config=config, workdir=workdir, console=console, **options)


@pytest.fixture(scope="module")
def result(tiny_model_path, tmp_path_factory):
    return _prune(tiny_model_path, tmp_path_factory.mktemp("litert") / "run")


def test_the_result_is_smaller_and_its_files_are_those_of_litert(result, tmp_path):
    assert [step["decision"] for step in result.history] == ["accepted"]
    built = {path.name for path in result.workdir.iterdir()}
    assert {"original.tflite", "final.tflite", "final.keras"} <= built
    assert not {name for name in built if name.endswith(".so")}
    assert (result.workdir / "tuning" / "litert.jsonl").is_file()
    deployed = {path.name for path in (result.workdir / "deploy").iterdir()}
    expected = {"model.tflite", "model_pixels.tflite", "metadata.json", "labels.txt", "run.py"}
    assert deployed == expected
    assert len((result.workdir / "deploy" / "labels.txt").read_text().splitlines()) == 10
    saved = result.save(tmp_path / "saved")
    assert (saved / "final.tflite").read_bytes() == (
        result.workdir / "deploy" / "model.tflite"
    ).read_bytes()


def test_the_deployed_script_runs_the_model_without_tvm(result, tmp_path):
    image = np.random.default_rng(0).random((28, 28, 1), dtype=np.float32)
    np.save(tmp_path / "image.npy", image)
    script = result.workdir / "deploy" / "run.py"
    command = [sys.executable, str(script), str(tmp_path / "image.npy")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    values = np.array(printed.replace("[", "").replace("]", "").split(), dtype=np.float32)
    np.testing.assert_allclose(values, result.model(image[None])[0], atol=1e-5)
    assert "target" not in json.loads((script.parent / "metadata.json").read_text())


@pytest.mark.parametrize(("name", "tolerance"), [("result", 1e-5), ("int8", 0.15)])
def test_a_file_preprocesses_pixels_itself(name, tolerance, request):
    result = request.getfixturevalue(name)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 28, 28, 1), dtype=np.uint8)
    path = result.workdir / "deploy" / "model_pixels.tflite"
    with open_device("local") as device:
        file = ModelFile("pixels", "litert", str(path), (("uint8", (1, 28, 28, 1)),))
        (outputs,) = device.run_model(file, pixels)
    config = configs.from_mapping(_config()).data
    expected = result.model(pipeline.preprocess(pixels, config.mean, config.std))
    np.testing.assert_allclose(outputs, expected, atol=tolerance)


def test_a_file_for_other_pixels_is_a_problem(result, tmp_path):
    keras_model = result.model
    path = tmp_path / "wrong.tflite"
    path.write_bytes(litert.convert(taking_pixels(keras_model, (0.0,), (25.5,))))
    deployment = Deployment("pruned", keras_model, None, "model.tflite")
    images = np.random.default_rng(0).random((8, 28, 28, 1), np.float32)
    with open_device("local") as device:
        problems = check_pixel_file(path, deployment, images, configs.DataConfig(), device)
    assert problems and "wrong.tflite on litert: outputs differ" in problems[0]


def test_the_report_compares_keras_and_litert_and_says_where_tvm_is(result):
    report = result.report
    assert report.runtime == "litert"
    assert {row.runtime for row in report.latencies} == {"litert"}
    assert {check.runtime for check in report.cross_check.checks} == {"keras", "litert"}
    console = rich.console.Console(file=io.StringIO(), width=120, record=True)
    console.print(terminal.render(report))
    text = " ".join(console.export_text().split())
    assert "The run measured with LiteRT and is for LiteRT. TVM is not shown" in text
    assert "TVM library" not in text


def test_a_file_that_is_too_inaccurate_or_on_an_emulated_device_is_not_named():
    def check(deployment, runtime, accuracy):
        size = None if runtime == "keras" else 1000
        return types.RuntimeCheck(deployment, runtime, accuracy, 0.0, 0.0, 1.0, size, None)

    checks = [
        check("original", "keras", 0.92),
        check("original", "litert", 0.92),
        check("pruned", "keras", 0.915),
        check("pruned", "litert", 0.915),
        check("pruned", "litert int8", 0.91),
    ]
    measured = {
        ("original", "litert", 1): types.Latency(3.0, 3.0, 3.0, 3.0, 9, 1),
        ("pruned", "litert", 1): types.Latency(2.0, 2.0, 2.0, 2.0, 9, 1),
        ("pruned", "litert int8", 1): types.Latency(1.0, 1.0, 1.0, 1.0, 9, 1),
    }
    int8, pruned, original = shippable(checks, measured, 0.005, 1, emulated=False)
    assert (int8.runtime, int8.suffices, pruned.is_best) == ("litert int8", False, True)
    assert original.suffices and not original.is_best
    assert shippable(checks, measured, 0.02, 1, emulated=False)[0].is_best
    assert not any(file.is_best for file in shippable(checks, measured, 0.02, 1, emulated=True))


def test_an_accepted_point_is_exported_as_it_was_measured(result, tmp_path):
    points = read_front(result.workdir)
    names = export_point(result.workdir, points[-1].number, tmp_path)
    assert set(names) == {"model.keras", "model.tflite"}
    exported = keras.models.load_model(tmp_path / "model.keras")
    assert exported.count_params() == points[-1].params


@pytest.fixture(scope="module")
def int8(tiny_model_path, tmp_path_factory):
    pytest.importorskip("ai_edge_quantizer")
    return _prune(tiny_model_path, tmp_path_factory.mktemp("int8") / "run", "int8")


def test_int8_files_decide_and_are_delivered(int8):
    root = int8.workdir
    assert b"int8" in (root / "run.log").read_bytes()
    known = [record.event for record in read_records(root / "journal.jsonl", events.RUN_EVENTS)]
    trained = next(event for event in known if isinstance(event, events.LongTermTrained))
    checked = next(event for event in known if isinstance(event, events.CrossChecked))
    # In this run, the test images decide, so both accuracies are those of the same file.
    assert checked.result("pruned", "litert int8").accuracy == pytest.approx(trained.accuracy)
    assert not [problem for problem in checked.problems if "Keras" in problem]
    sizes = {
        label: checked.result("pruned", label).file_bytes for label in ("litert", "litert int8")
    }
    assert sizes["litert int8"] < 0.5 * sizes["litert"]
    assert (root / "deploy" / "model.tflite").read_bytes() == (root / "final.tflite").read_bytes()
    assert {s.runtime for s in checked.speedups} == {"litert", "litert int8"}


def test_an_int8_report_leads_with_what_is_deployed(int8):
    report = int8.report
    assert report.latencies[0].runtime == report.accuracies[0].name == "litert int8"
    console = rich.console.Console(file=io.StringIO(), width=120, record=True)
    console.print(terminal.render(report))
    text = " ".join(console.export_text().split())
    assert "LiteRT int8" in text
    rows = {(row.deployment, row.runtime): row for row in report.shippable}
    assert len(rows) == 4 and all(row.suffices for row in rows.values())
    (best,) = (row for row in rows.values() if row.is_best)
    assert best.latencies[0].median_ms == min(row.latencies[0].median_ms for row in rows.values())
    assert "compare the float32 original in Keras with the result as int8" in report.verdict


@pytest.mark.slow
def test_a_resumed_run_measures_and_tunes_nothing_again(result, tiny_model_path):
    path = result.workdir / "journal.jsonl"
    timings = (result.workdir / "tuning" / "litert.jsonl").read_bytes()
    before = len(read_records(path, events.RUN_EVENTS))
    again = _prune(tiny_model_path, result.workdir, resume=True)
    added = [r.event for r in read_records(path, events.RUN_EVENTS)[before:]]
    assert {type(event) for event in added} <= {events.StageEnded, events.RunStarted}
    assert (result.workdir / "tuning" / "litert.jsonl").read_bytes() == timings
    assert again.history == result.history


def test_a_deployment_without_a_library_has_one_file():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    (file,) = Deployment("pruned", model, None, "model.tflite").files()
    assert (file.runtime, file.path) == ("litert", "model.tflite")
