"""A runtime is one registered class, and everything that measures works with it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from cprune_tf.config import ConfigError, MeasureConfig, TuningConfig
from cprune_tf.latency.prediction import LatencyPredictor, spread_assignments
from cprune_tf.latency.sampling import SamplingConfig, sample_staircase, structure_counts
from cprune_tf.latency.side_by_side import compare_layers
from cprune_tf.latency.workspace import open_model
from cprune_tf.runtimes import RuntimeOptions, open_runtime, register_runtime, registry

from .analytic import CALL_MS, TILE, WHOLE_FACTOR, AnalyticRuntime


def _net():
    import keras
    from keras import layers

    image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(32, 3, padding="same", activation="relu", name="first")(image)
    x = layers.Conv2D(32, 3, padding="same", activation="relu", name="second")(x)
    x = layers.Conv2D(24, 1, activation="relu", name="third")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, layers.Dense(4, name="head")(x))


@pytest.fixture(scope="module")
def registered():
    register_runtime("analytic", ("exact",))(AnalyticRuntime)
    yield "analytic"
    del registry._CLASSES["analytic"]


@pytest.fixture(scope="module")
def opened(registered, tmp_path_factory):
    folder = tmp_path_factory.mktemp("analytic")
    with open_model(
        _net(), "local", folder, TuningConfig(), runtime=registered, precision="exact"
    ) as model:
        model.tune(1)
        yield model


@pytest.fixture(scope="module")
def lab(opened):
    with opened.lab() as result:
        yield result


def _tiles(channels):
    return -(-channels // TILE)


def _formula_ms(first=32, second=32, third=24):
    """The sum of all layers' latencies, computed independently of the runtime."""
    positions = 8 * 8
    return 0.01 * (
        9 * _tiles(3) * _tiles(first) * positions
        + 9 * _tiles(first) * _tiles(second) * positions
        + _tiles(second) * _tiles(third) * positions
        + _tiles(third) * _tiles(4)
    )


def test_a_registered_runtime_is_listed_with_the_others(registered):
    assert {"analytic", "litert", "tvm"} <= set(registry.runtime_names())
    assert not {"base", "registry"} & set(registry.runtime_names())


def test_the_lab_adds_up_what_the_runtime_says(lab, opened):
    assert str(opened.runtime) == "analytic exact"
    for keep in ({}, {"first": 20}, {"second": 9, "third": 16}):
        lab.measure(keep)
        assert lab.tasks_ms(keep) == pytest.approx(_formula_ms(**keep))
    assert lab.runtime.tasks_ms(lab.prepared) == pytest.approx(_formula_ms())


def test_only_what_was_never_measured_is_priced(lab):
    keep = {"third": 10}
    tasks = []
    assert lab.measure(keep, tasks.append) == 2  # The layers that make and read these channels.
    assert [task.layers for task in tasks] == [("third",), ("head",)]
    with pytest.raises(KeyError, match="never measured"):
        lab.runtime.tasks_ms(lab.prepare({"third": 11}))


@pytest.mark.parametrize("name", ["first", "second"])
def test_a_staircase_has_the_steps_of_the_runtime(lab, name):
    group = lab.channels[name]
    assert structure_counts(lab, group) == (32, 24, 16, 8)
    staircase = sample_staircase(lab, group, SamplingConfig(max_points=12, smallest=0.25))
    assert staircase.steps() == (32, 24, 16, 8)
    for stair in staircase.stairs:
        whole_ms = staircase.rest_ms + stair.latency_ms
        assert whole_ms == pytest.approx(_formula_ms(**{name: stair.count}))
        assert stair.spread_ms == 0


def test_whole_models_are_predicted_with_their_overhead(lab, opened, tmp_path):
    spread = spread_assignments(opened.channels, 12, multiple=TILE, seed=1)
    for keep in spread:
        lab.measure(keep)
    lab.calibrate([{}, *spread[:3]], MeasureConfig(), tmp_path)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json"] * 4
    predictor = LatencyPredictor.from_lab(lab)
    for keep in spread:
        prediction = predictor.predict_ms(keep)
        assert all(task.measured for task in prediction.per_task)
        expected_ms = WHOLE_FACTOR * _formula_ms(**keep) + CALL_MS
        assert prediction.latency_ms == pytest.approx(expected_ms, rel=1e-6)


def test_unmeasured_models_are_predicted_by_the_surface(lab):
    keep = {"first": 24, "second": 12, "third": 20}
    assert lab.missing(keep) > 0
    prediction = LatencyPredictor.from_lab(lab).predict_ms(keep)
    assert not all(task.measured for task in prediction.per_task)
    assert prediction.latency_ms > 0 and prediction.uncertainty_ms > 0


def test_features_of_tvm_alone_require_tvm(opened):
    with pytest.raises(ConfigError, match=r"needs TVM's programs; the runtime is analytic exact\."):
        compare_layers(opened, None)


def _open(name, precision, tmp_path):
    return open_runtime(name, None, RuntimeOptions(precision, tmp_path, TuningConfig()))


def test_an_unknown_runtime_is_refused_with_a_list_of_runtimes(registered, tmp_path):
    with pytest.raises(ConfigError, match=r"is 'abacus'; expected one of analytic.*tvm"):
        _open("abacus", "float32", tmp_path)


@pytest.mark.parametrize(
    ("name", "precisions"),
    [("analytic", "exact"), ("litert", "float32, float16"), ("tvm", "float32")],
)
def test_an_unknown_precision_is_refused_with_the_precisions_of_the_runtime(
    registered, tmp_path, name, precisions
):
    with pytest.raises(ConfigError, match=f"'int7'.*the runtime {name} computes in: {precisions}"):
        _open(name, "int7", tmp_path)


def test_a_wrong_choice_is_refused_before_a_device_is_opened(tmp_path):
    opening = open_model(_net(), "no such device", tmp_path, TuningConfig(), runtime="abacus")
    with pytest.raises(ConfigError, match="abacus"), opening:
        pass


def test_nothing_of_tvm_is_imported_for_another_runtime():
    code = (
        "import sys\n"
        "from cprune_tf.latency import prediction, sampling, workspace\n"
        "from cprune_tf.runtimes import litert\n"
        "loaded = [n for n in sys.modules if n.split('.')[0] == 'tvm' or '.compiler' in n]\n"
        "assert not any(n == 'tvm' or n.startswith('cprune_tf.compiler') for n in loaded), loaded\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
