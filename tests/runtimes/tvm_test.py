"""The runtime TVM returns the same as its compiler session."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from cprune_tf import graph
from cprune_tf.config import MeasureConfig
from cprune_tf.devices import open_device
from cprune_tf.runtimes import RuntimeOptions, open_runtime
from cprune_tf.runtimes.base import input_specs
from tests.compiler import workloads

_FEW_TRIALS = dataclasses.replace(
    workloads.FEW_TRIALS, trials_per_task=4, trials_per_round=4, programs_per_task=2
)
_MEASURE = MeasureConfig(warmup_ms=1, min_samples=3, max_time_sec=0.05, stable_fraction=1.0)


@pytest.fixture(scope="module")
def model():
    import keras
    from keras import layers

    keras.utils.set_random_seed(5)
    image = keras.Input((8, 8, 4), name="image")
    x = layers.Conv2D(16, 3, padding="same", activation="relu", name="conv")(image)
    x = layers.Flatten(name="flatten")(layers.AveragePooling2D(8, name="pool")(x))
    return keras.Model(image, layers.Dense(4, name="head")(x))


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runtime")
    options = RuntimeOptions("float32", folder, _FEW_TRIALS, seed=2)
    with open_device("local") as device, open_runtime("tvm", device, options) as opened:
        yield opened


@pytest.fixture(scope="module")
def prepared(runtime, model):
    """The model, tuned a little."""
    prepared = runtime.prepare(model)
    with pytest.raises(KeyError, match="never measured"):
        runtime.tasks_ms(prepared)
    with pytest.raises(KeyError, match="never measured"):
        runtime.samples_ms(prepared.tasks[0])
    steps = []
    runtime.tune(prepared, 4, lambda *step: steps.append(step))
    assert steps
    return prepared


@pytest.fixture(scope="module")
def pruned(model):
    """Half of the convolution's filters."""
    channels = graph.analyze(model)
    (group,) = channels.prunable
    return graph.rebuild(model, {group.name: range(8)}, graph=channels, fold_constants=False)


def test_a_model_has_the_tasks_that_the_session_finds(runtime, model, prepared):
    lowered = runtime.session.lower(model)
    assert [task.key for task in prepared.tasks] == [task.key for task in lowered.tasks]
    assert runtime.lanes == runtime.session.lanes
    assert {"conv", "head"} <= {layer for task in prepared.tasks for layer in task.layers}
    assert runtime.part(prepared, prepared.tasks[:1]).tasks == prepared.tasks[:1]


def test_latencies_are_those_of_the_sessions_database(runtime, prepared):
    assert runtime.tasks_ms(prepared) == prepared.latency_ms(runtime.session.database)
    costs, rows = runtime.task_costs(prepared), runtime.session.task_table(prepared)
    assert len(costs) == len(rows) == len(prepared.tasks)
    for cost, row in zip(costs, rows, strict=True):
        for field in dataclasses.fields(cost):
            assert getattr(cost, field.name) == getattr(row, field.name)


def test_a_price_is_the_sessions_and_measures_once(runtime, pruned, prepared):
    candidate = runtime.prepare(pruned)
    (conv,) = (task for task in candidate.tasks if "conv" in task.layers)
    tasks = []
    runtime.price(runtime.part(candidate, [conv]), prepared, tasks.append)
    assert tasks == [conv]
    price_ms = runtime.price(candidate, prepared, tasks.append)
    assert len({task.key for task in tasks}) == len(tasks) > 1
    assert price_ms == runtime.session.price(candidate, prepared) == runtime.tasks_ms(candidate)
    assert runtime.price(candidate, prepared, lambda task: pytest.fail(task.name)) == price_ms
    assert all(sample > 0 for sample in runtime.samples_ms(conv))


def test_tiles_are_those_of_the_filter_axis(runtime, prepared):
    conv = next(task for task in prepared.tasks if "conv" in task.layers)
    tiles = runtime.filter_tiles(conv, 16)
    assert len(set(tiles)) == len(tiles)
    assert all(1 < tile <= 16 for tile in tiles)
    assert runtime.filter_tiles(conv, 17) == ()


def test_a_built_model_computes_and_is_timed(runtime, model, pruned, prepared, tmp_path):
    candidate = runtime.prepare(pruned)
    runtime.price(candidate, prepared)
    paths = [tmp_path / f"{name}{runtime.suffix}" for name in ("whole", "pruned")]
    runtime.build(prepared, paths[0])
    runtime.build(candidate, paths[1])
    images = np.random.default_rng(0).random((2, 8, 8, 4), dtype=np.float32)
    for path, keras_model in zip(paths, (model, pruned), strict=True):
        (outputs,) = runtime.device.run_model(runtime.file(path, keras_model), images)
        np.testing.assert_allclose(outputs, keras_model.predict(images, verbose=0), atol=1e-5)
    latencies = runtime.time(paths, model, _MEASURE)
    assert len(latencies) == 2
    assert all(latency.median_ms > 0 and latency.num_threads == 1 for latency in latencies)


def test_the_fingerprint_names_the_runtime_target_and_threads(runtime):
    fingerprint = runtime.fingerprint
    assert json.loads(json.dumps(fingerprint)) == fingerprint
    assert fingerprint["runtime"] == str(runtime) == "tvm float32"
    assert fingerprint["target"] == str(runtime.session.target)
    assert fingerprint["num_threads"] == 1


def test_inputs_have_a_batch_of_one(model):
    assert input_specs(model) == (("float32", (1, 8, 8, 4)),)
