"""A model that is inspected, profiled, pruned and exported through one object."""

from __future__ import annotations

import io

import keras
import numpy as np
import pytest
import rich.console

import cprune_tf
from tests.pipeline import tiny_config


def _config():
    config = tiny_config.get_config()
    config.runtime = "litert"
    config.strategy.name = "uniform"
    config.strategy.max_iterations = 1
    return config


@pytest.fixture(scope="module")
def pruner(tiny_model_path, tmp_path_factory):
    return cprune_tf.Pruner(
        tiny_model_path, config=_config().to_dict(), workdir=tmp_path_factory.mktemp("pruner")
    )


def test_a_model_is_inspected_without_a_measurement(pruner):
    found = pruner.inspect()
    assert {group.name for group in found.channels.prunable} >= {"stem", "wide"}
    assert found.statistics.params == pruner.model.count_params()
    assert not any(pruner.workdir.iterdir())


def test_what_was_profiled_is_not_measured_again_by_the_run(pruner, tmp_path):
    with pytest.raises(cprune_tf.ConfigError, match=r"nothing to export: prune\(\) has not ended"):
        pruner.export(tmp_path)
    profile = pruner.profile()
    assert {row.task.name for row in profile.tasks}
    (programs,) = (pruner.workdir / "programs").glob("litert-*.jsonl")
    before = programs.read_text(encoding="utf-8").splitlines()
    console = rich.console.Console(file=io.StringIO(), width=100)
    result = pruner.prune(target_speedup=1.01, max_accuracy_drop=0.9, console=console)
    after = programs.read_text(encoding="utf-8").splitlines()
    assert after[: len(before)] == before and len(after) > len(before)
    digests = [line.split('"digest"')[1].split(",")[0] for line in after if '"digest"' in line]
    assert len(set(digests)) == len(digests)
    assert result.report.finished and pruner.result is result
    exported = keras.models.load_model(pruner.export(tmp_path / "result") / "final.keras")
    assert exported.count_params() == result.model.count_params()
    original = pruner.export(tmp_path / "original", point=0)
    assert keras.models.load_model(original / "model.keras").count_params() == (
        pruner.model.count_params()
    )


def test_data_in_another_form_is_refused(tiny_model_path):
    images, labels = np.zeros((4, 28, 28, 1), np.float32), np.zeros(4, np.int64)
    with pytest.raises(cprune_tf.ConfigError, match=r"data is \(ndarray, ndarray\); expected"):
        cprune_tf.Pruner(tiny_model_path, (images, labels))
    settings = cprune_tf.Pruner(tiny_model_path, ((images, labels), (images, labels)), config={})
    assert settings.config == cprune_tf.PruneConfig().validate()
