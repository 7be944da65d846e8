"""Whole runs of tasks other than sorting one image into classes, measured with LiteRT."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
import rich.console

import cprune_tf
from cprune_tf.config import ConfigError
from cprune_tf.data import DataError
from cprune_tf.report import html, terminal
from cprune_tf.training import TrainingError
from tests.docs_examples import run_section
from tests.pipeline import task_models, tiny_config


def prune(task, metric=None, strategy=None, settings=None, **options):
    """Prunes a task's model in about the shortest run that there is."""
    config = tiny_config.get_config()
    config.runtime = options.pop("runtime", "litert")
    config.strategy.name = "uniform"
    config.strategy.max_iterations = 1
    config.strategy.metric = metric or task.metric
    config.measure.max_time_sec = 0.05
    for name in ("trials_per_task", "trials_per_accepted_task", "final_trials_per_task"):
        setattr(config.tuning, name, 2)
    settings = config.to_dict() | (settings or {})
    settings["strategy"] |= strategy or {}
    given = {"train_data": task.train, "validation_data": task.validation, **options}
    console = rich.console.Console(file=io.StringIO(), width=100)
    return cprune_tf.prune(task.model, config=settings, console=console, **given)


def shown_text(report):
    """The terminal's report, without line breaks."""
    console = rich.console.Console(file=io.StringIO(), width=200, record=True)
    console.print(terminal.render(report))
    return " ".join(console.export_text().split()).replace("\u00a0", " ")


def _check(result, task):
    """What holds for any task: the candidate was accepted, and files compute what Keras does."""
    assert [step["decision"] for step in result.history] == ["accepted"]
    checks = result.report.cross_check.checks
    assert {check.runtime for check in checks} >= {"keras", "litert"}
    assert not [p for p in result.report.cross_check.problems if "Keras" in p]
    assert all(check.max_relative_error < 1e-3 for check in checks)
    assert result.report.metric == task.metric
    value = task.model.evaluate(*task.validation, verbose=0, return_dict=True)[task.metric]
    original = result.report.accuracies[0].original
    assert original == pytest.approx(-value if result.report.is_minimized else value, abs=1e-6)
    text = shown_text(result.report)
    page = re.sub(r"<style>.*?</style>|<[^>]*>", "", html.render(result.report, []), flags=re.S)
    page = page.rpartition("Conditions")[0]
    for shown in (text, page):
        assert not re.search("top-1|images|first class", shown)
    return text


def test_a_regression_is_judged_by_its_error_which_must_not_grow():
    names = run_section("tasks.md", "A regression")
    images, labels = names["images"], names["numbers"]
    parts = (images[:64], labels[:64]), (images[64:], labels[64:])
    task = task_models.Task(names["model"], *parts, "mean_absolute_error")
    result = names["result"]
    text = _check(result, task)
    report = result.report
    assert report.is_minimized and report.required_accuracy == pytest.approx(
        1.9 * report.accuracies[0].original
    )
    assert "(required at most " in report.verdict and ": met)" in report.verdict
    assert "Of mean absolute error, lower values are better" in text
    assert f"mean absolute error, Keras {-report.accuracies[0].original:.4g}" in text


@pytest.mark.slow
def test_two_heads_with_labels_by_name():
    task = task_models.two_heads()
    result = prune(task)
    _check(result, task)
    assert [tuple(output.shape) for output in result.model.outputs] == [(None, 3), (None, 1)]
    deploy = result.workdir / "deploy"
    metadata = json.loads((deploy / "metadata.json").read_text())
    assert [(one["name"], one["shape"]) for one in metadata["outputs"]] == [
        ("kind", [1, 3]),
        ("size", [1, 1]),
    ]
    command = [sys.executable, str(deploy / "run.py")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert re.fullmatch(r"kind, 1x3:\n\[\[.*\]\]\nsize, 1x1:\n\[\[.*\]\]\n", printed)


@pytest.mark.slow
def test_two_heads_with_labels_in_order_for_tvm():
    task = task_models.two_heads(as_dict=False)
    result = prune(task, runtime="tvm")
    _check(result, task)
    assert {check.runtime for check in result.report.cross_check.checks} == {
        "keras",
        "tvm",
        "litert",
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ["binary", "segmentation", "signal"])
def test_other_tasks_run_to_the_end(name):
    task = task_models.TASKS[name]()
    _check(prune(task), task)


def test_an_image_and_a_vector_are_deployed_together(tmp_path):
    task = task_models.image_and_vector()
    result = prune(task)
    _check(result, task)
    inputs = task.validation[0]
    paths = [tmp_path / "image.npy", tmp_path / "vector.npy"]
    for path in paths:
        np.save(path, inputs[path.stem][0])
    command = [sys.executable, str(result.workdir / "deploy" / "run.py"), *map(str, paths)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    values = np.array(printed.replace("[", "").replace("]", "").split(), np.float32)
    expected = result.model([inputs["image"][:1], inputs["vector"][:1]])[0]
    np.testing.assert_allclose(values, expected, atol=1e-5)
    metadata = json.loads((result.workdir / "deploy" / "metadata.json").read_text())
    assert [one["name"] for one in metadata["inputs"]] == ["image", "vector"]


@pytest.mark.slow
@pytest.mark.parametrize("drop", [0.9, 0.001])
def test_the_callers_own_functions_train_and_judge_by_an_error(drop):
    task = task_models.regression()
    task.model.compile()  # no loss, no metrics

    def error(model):
        return 1 / np.sqrt(model.count_params())

    result = prune(
        task,
        "largest_miss",
        {"metric_mode": "min", "max_accuracy_drop": drop},
        evaluate=error,
        short_term_train=lambda model: None,
        long_term_train=lambda model: None,
        train_data=None,
    )
    (step,), report = result.history, result.report
    assert report.accuracies[0].original == pytest.approx(-error(task.model))
    assert report.judged_by.label == "largest miss"
    # Only the function tells, and it takes no files.
    assert {check.accuracy for check in report.cross_check.checks} == {None}
    if drop == 0.9:
        assert step["decision"] == "accepted" and "(required at most" in report.verdict
    else:
        assert step["decision"] == "refused_accuracy"
        assert step["reason"].startswith("largest miss 0.0") and " > " in step["reason"]


def _with_fractions(task):
    labels = np.linspace(0, 1, 32, dtype=np.float32)[:, None]
    return dataclasses.replace(task, validation=(task.validation[0], labels))


def _with_nan(task):
    inputs, labels = task.validation
    labels = labels.copy()
    labels[7, 1] = np.nan
    return dataclasses.replace(task, validation=(inputs, labels))


def _uncompiled(task):
    model = keras.Model.from_config(task.model.get_config())
    return dataclasses.replace(task, model=model)


def _sparse(task):
    task.model.compile("adam", "sparse_categorical_crossentropy", metrics=["mae"])
    labels = [labels[:, 0] for _, labels in (task.train, task.validation)]
    train, validation = (
        (part[0], one) for part, one in zip((task.train, task.validation), labels, strict=True)
    )
    return dataclasses.replace(task, train=train, validation=validation, metric="mae")


@pytest.mark.parametrize(
    ("task", "options", "error", "message"),
    [
        (lambda: task_models.regression(), {"metric": "top1"}, DataError, "expected one class"),
        (lambda: task_models.binary(), {"metric": "top1"}, ConfigError, "'top1', which is for one"),
        (lambda: task_models.binary(), {"metric": "mae"}, TrainingError, "compiled with: binary_a"),
        (lambda: _with_fractions(task_models.binary()), {}, TrainingError, "whole numbers"),
        (lambda: _sparse(task_models.regression()), {}, TrainingError, "takes classes as whole"),
        (lambda: _with_nan(task_models.regression()), {}, DataError, "sample 7 .* is NaN"),
        (
            lambda: _uncompiled(task_models.signal()),
            {"metric": "recal"},
            TrainingError,
            "the model is not compiled",
        ),
        (lambda: task_models.signal(), {"train_data": None}, ConfigError, "would judge itself"),
        (
            lambda: task_models.signal(),
            {"train_data": None, "validation_data": None},
            DataError,
            "'module:function' for any other task",
        ),
        (
            lambda: task_models.signal(),
            {"strategy": {"gate_confidence": 0.9}},
            ConfigError,
            "gate_confidence is 0.9",
        ),
        (
            lambda: task_models.signal(),
            {
                "evaluate": lambda model: 1.0,
                "settings": {"precision": "int8", "quantization": {"aware": {"epochs": 1}}},
            },
            ConfigError,
            "does not judge int8 files",
        ),
        (
            lambda: task_models.signal(),
            {"validation_data": None, "settings": {"data": {"validation_fraction": 0.0}}},
            DataError,
            "without validation_data, with data.validation_fraction=0",
        ),
        (
            lambda: dataclasses.replace(
                task_models.image_and_vector(), validation=task_models.signal().validation
            ),
            {},
            DataError,
            "'image': 16x16x3, 'vector': 4",
        ),
    ],
)
def test_what_does_not_fit_is_said_before_any_work(task, options, error, message, tmp_path):
    with pytest.raises(error, match=message):
        prune(task(), workdir=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()
