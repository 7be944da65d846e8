"""Other tasks than classifying one image from the command line, with data by a function."""

from __future__ import annotations

import json
import os
import pathlib
import re
import subprocess
import sys

import keras
import pytest

from cprune_tf.accuracy import Metric
from tests.pipeline import task_models

_ROOT = pathlib.Path(__file__).parents[2]
_CONFIG = f"--config={_ROOT / 'tests' / 'pipeline' / 'tiny_config.py'}"


def _run(tool: str, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(_ROOT / "tools" / f"{tool}.py"), _CONFIG, *flags]
    environment = {**os.environ, "PYTHONPATH": str(_ROOT), "COLUMNS": "200"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def _task_flags(folder: pathlib.Path, name: str, metric: str, compiled: bool) -> list[str]:
    """Saves a task's model, and returns the flags that name it, its data and its metric."""
    model = task_models.TASKS[name]().model
    if not compiled:
        model = keras.Model.from_config(model.get_config())
    model.save(folder / "model.keras")
    return [
        f"--config.model={folder / 'model.keras'}",
        f"--config.data.name=tests.pipeline.task_data:{name}",
        f"--config.strategy.metric={metric}",
    ]


def _page(workdir: pathlib.Path, name: str = "report.html") -> str:
    html = (workdir / name).read_text()
    return re.sub(r"<style>.*?</style>|<[^>]*>", "", html, flags=re.S).rpartition("Conditions")[0]


@pytest.mark.parametrize(
    ("name", "metric", "compiled", "trained"),
    [
        pytest.param(
            "two_heads",
            "kind_accuracy",
            False,
            "'kind' by sparse categorical crossentropy, 'size'",
            marks=pytest.mark.slow,
        ),
        ("segmentation", "mean_io_u", False, "'map' by sparse"),
        pytest.param("binary", "binary_accuracy", True, "", marks=pytest.mark.slow),
    ],
)
def test_a_file_of_any_task_is_pruned(tmp_path, name, metric, compiled, trained):
    done = _run(
        "prune",
        *_task_flags(tmp_path, name, metric, compiled),
        f"--workdir={tmp_path / 'run'}",
        "--runtime=litert",
        "--config.strategy.name=uniform",
        "--config.strategy.max_iterations=1",
        "--config.training.short_term.distill=0.5",
        f"--config.training.teacher={tmp_path / 'model.keras'}",
        "--config.measure.max_time_sec=0.05",
    )
    assert done.returncode == 0, done.stderr
    assert trained in done.stdout and ("not compiled" in done.stdout) != compiled
    label = Metric.named(metric).label
    for shown in (done.stdout, _page(tmp_path / "run")):
        assert (label in shown) and "io u" not in shown
        assert not re.search("top-?1|images|first class", shown)


@pytest.mark.slow
def test_strategies_are_compared_by_the_tasks_score(tmp_path):
    workdir = tmp_path / "compared"
    done = _run(
        "compare",
        *_task_flags(tmp_path, "two_heads", "size_mae", True),
        f"--workdir={workdir}",
        "--strategies=uniform,global_ranking",
        "--runtime=litert",
        "--config.measure.max_time_sec=0.05",
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    values = json.loads((workdir / "comparison.json").read_text())
    assert values["is_minimized"] and {row["state"] for row in values["rows"]} == {"met"}
    error = -values["original"]["deciding_accuracy"]
    assert "required size MAE of at most" in values["verdict"]
    page = _page(workdir, "comparison.html")
    assert f"{error:#.4g}" in page and "Size MAE against speed" in page
    for shown in (done.stdout, page):
        assert "size MAE" in shown and not re.search("accuracy|images", shown)


@pytest.mark.slow
def test_a_model_of_two_inputs_is_trained_and_quantised_and_what_cannot_be_is_one_error(tmp_path):
    flags = _task_flags(tmp_path, "image_and_vector", "accuracy", compiled=False)
    output = tmp_path / "trained.keras"
    done = _run("train", *flags, f"--output={output}")
    assert done.returncode == 0, done.stderr
    assert "training, 32 test samples" in done.stdout and "test accuracy" in done.stdout
    assert "top1" not in done.stdout
    assert keras.models.load_model(output).loss.name == "sparse_categorical_crossentropy"
    int8 = _run(
        "quantize",
        *flags,
        f"--output={tmp_path / 'int8.tflite'}",
        "--max_drop=-1",
        "--config.quantization.aware.epochs=1",
        "--config.measure.max_time_sec=0.05",
    )
    assert int8.returncode == 0, int8.stderr
    assert "ranges from 64 training samples" in int8.stdout and "int8, untrained" in int8.stdout
    assert "On the test samples: int8 file" in int8.stdout
    assert "most of the error" in int8.stdout and "images" not in int8.stdout
    for tool in ("train", "quantize"):
        suffix = {"train": ".keras", "quantize": ".tflite"}[tool]
        refused = _run(
            tool, *flags[:2], f"--output={tmp_path / 'other'}{suffix}", "--config.seed=1"
        )
        errors = [line for line in refused.stderr.splitlines() if line.startswith("error: ")]
        assert refused.returncode == 2 and len(errors) == 1, refused.stderr
        assert "Traceback" not in refused.stderr
        assert "class scores" in errors[0] or "expected one image" in errors[0]
