"""Other tasks than sorting one image into classes at int8: judged by their files, all outputs."""

from __future__ import annotations

import numpy as np
import pytest

from cprune_tf import litert
from cprune_tf.accuracy import Metric
from cprune_tf.config import FitConfig, PruneConfig, QuantizationConfig
from cprune_tf.data import from_samples
from cprune_tf.data.interface import interface_of
from cprune_tf.data.representative import representative_inputs
from cprune_tf.litert.evaluation import outputs_of_file
from cprune_tf.runs import read_records
from cprune_tf.runs.events import RUN_EVENTS, Baseline
from cprune_tf.training.aware import train_aware
from cprune_tf.training.deployed import Int8Judge
from cprune_tf.training.scoring import Scorer, outputs_of
from tests.pipeline import task_models
from tests.pipeline.tasks_test import prune, shown_text

pytest.importorskip("ai_edge_quantizer")


def _opened(task):
    interface = interface_of(task.model)
    data = from_samples(interface, task.train, task.validation)
    return data, Scorer(task.model, interface, Metric.named(task.metric), data.judges[1])


@pytest.mark.parametrize("name", ["image_and_vector", "two_heads"])
def test_files_take_all_inputs_and_all_their_outputs_are_judged(name):
    task = task_models.TASKS[name]()
    data, scorer = _opened(task)
    settings = QuantizationConfig(num_images=40)
    judge = Int8Judge(PruneConfig(quantization=settings), data, scorer)
    outputs = outputs_of_file(judge.quantize(task.model), data.judges[0])
    exact = outputs_of(data.interface, task.model, data.judges[0])
    for one, other in zip(outputs, exact, strict=True):
        assert one.dtype == np.float32
        np.testing.assert_allclose(one, other, atol=0.05)
    assert np.abs(outputs[0] - exact[0]).max() > 1e-6
    assert judge.score(task.model) == scorer.of_outputs(outputs, data.judges[1])
    assert [len(one) for one in representative_inputs(data, 40)] == [40] * len(data.test_images)
    errors = litert.compare_layers(
        litert.quantize(task.model, representative_inputs(data, 40)), data.test_images
    )
    assert {"wide", "pool"} <= {layer for error in errors for layer in error.layers}


def test_a_training_for_int8_rounds_all_inputs_and_outputs():
    task = task_models.image_and_vector()
    data, scorer = _opened(task)
    aware = FitConfig(epochs=1, learning_rate=1e-3, distill=0.5)
    settings = QuantizationConfig(num_images=16, aware=aware)
    result = train_aware(task.model, data, settings, seed=0, scorer=scorer)
    assert result.training.num_steps == 1 and f"{result.before:.2%} before" in str(result)
    two = task_models.two_heads()
    data, scorer = _opened(two)
    loss = Scorer(two.model, data.interface, Metric.named("loss"), data.judges[1])
    result = train_aware(two.model, data, settings, seed=0, scorer=loss)
    assert result.before < 0 and f"int8 file {-result.before:.4g} before" in str(result)


@pytest.mark.parametrize(
    "name",
    [
        "regression",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("segmentation", "two_heads")),
    ],
)
def test_a_run_at_int8_is_decided_by_the_files_score(name):
    task = task_models.TASKS[name]()
    result = prune(task, settings={"precision": "int8", "quantization": {"num_images": 32}})
    records = [one.event for one in read_records(result.workdir / "journal.jsonl", RUN_EVENTS)]
    (baseline,) = (one for one in records if isinstance(one, Baseline))
    data, scorer = _opened(task)
    content = (result.workdir / "original.tflite").read_bytes()
    of_file = scorer.of_outputs(outputs_of_file(content, data.judges[0]), data.judges[1])
    assert baseline.accuracy == pytest.approx(of_file, abs=1e-6)
    final = (result.workdir / "final.tflite").read_bytes()
    assert len(final) < len((result.workdir / "final_float32.tflite").read_bytes())
    assert [step["decision"] for step in result.history] == ["accepted"]
    runtimes = {check.runtime for check in result.report.cross_check.checks}
    assert runtimes == {"keras", "litert int8", "litert"}
    text = shown_text(result.report)
    assert "LiteRT int8" in text and "top-1" not in text and "images" not in text
