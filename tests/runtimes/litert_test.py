"""The runtime LiteRT on this machine, in a process that cannot import TVM."""

from __future__ import annotations

import io
import json

import keras
import numpy as np
import pytest
import rich.console
from keras import layers

from cprune_tf import graph
from cprune_tf.config import MeasureConfig, TuningConfig
from cprune_tf.devices import open_device
from cprune_tf.latency.lab import LatencyLab, resized
from cprune_tf.latency.points import PointStore
from cprune_tf.latency.profile import profile_model
from cprune_tf.latency.sampling import SamplingConfig, sample_staircase, structure_counts
from cprune_tf.latency.sites import current_units, find_sites, tasks_by_site
from cprune_tf.latency.workspace import OpenedModel
from cprune_tf.litert import resizing
from cprune_tf.litert.resizing import Resize
from cprune_tf.report.latency_figures import write_profile_figure
from cprune_tf.report.latency_tables import profile_table
from cprune_tf.runtimes import RuntimeOptions, open_runtime
from cprune_tf.runtimes.litert.timings import TimingsError

_MEASURE = MeasureConfig(warmup_ms=5, min_samples=20, max_time_sec=0.3, stable_fraction=0.1)


def net():
    """Paddings, strides, branches that are added, multiplied and concatenated, a flatten."""
    keras.utils.set_random_seed(4)
    image = keras.Input((16, 16, 3), name="image")
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="stem")(image)
    x = layers.ZeroPadding2D(1, name="padding")(x)
    x = layers.Conv2D(24, 3, strides=2, name="strided")(x)
    x = layers.ReLU(name="strided_relu")(layers.BatchNormalization(name="strided_bn")(x))
    y = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    y = layers.Conv2D(24, 1, name="pointwise")(y)
    x = layers.ReLU(name="sum_relu")(layers.Add(name="sum")([x, y]))
    gate = layers.GlobalAveragePooling2D(keepdims=True, name="squeeze")(x)
    gate = layers.Conv2D(24, 1, activation="sigmoid", name="excite")(gate)
    x = layers.Multiply(name="scale")([x, gate])
    x = layers.Concatenate(name="concatenate")(
        [layers.Conv2D(8, 1, name="left")(x), layers.Conv2D(12, 3, padding="same", name="right")(x)]
    )
    x = layers.Conv2DTranspose(6, 2, strides=2, name="upsample")(x)
    x = layers.MaxPooling2D(4, name="pool")(x)
    x = layers.Flatten(name="flatten")(x)
    return keras.Model(image, layers.Dense(5, activation="softmax", name="head")(x))


@pytest.fixture(scope="module")
def model():
    return net()


@pytest.fixture(scope="module")
def channels(model):
    return graph.analyze(model)


@pytest.fixture(scope="module")
def device(tmp_path_factory):
    """This machine, whose process finds a TVM that cannot be imported."""
    folder = tmp_path_factory.mktemp("path")
    (folder / "tvm.py").write_text("raise ImportError('there is no TVM here')")
    with pytest.MonkeyPatch.context() as patch, open_device("local") as opened:
        patch.setenv("PYTHONPATH", str(folder))
        opened.info()  # starts the process
        yield opened


def _open(device, folder, precision="float32", num_threads=1):
    options = RuntimeOptions(precision, folder, TuningConfig(), num_threads=num_threads)
    return open_runtime("litert", device, options)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return tmp_path_factory.mktemp("litert")


@pytest.fixture(scope="module")
def runtime(device, workdir):
    with _open(device, workdir) as opened:
        yield opened


@pytest.fixture(scope="module")
def prepared(runtime, model):
    prepared = runtime.prepare(model)
    with pytest.raises(KeyError, match=r"conv_2d#\d was never measured"):
        runtime.tasks_ms(prepared)
    steps = []
    runtime.tune(prepared, 1, lambda *step: steps.append(step))
    assert steps[-1][:2] == (len(prepared.tasks), len(prepared.tasks))
    return prepared


def test_every_layer_that_computes_is_in_the_task_of_its_operator(prepared):
    task_of = {layer: task for task in prepared.tasks for layer in task.layers}
    for layers_of_one in (
        ("padding", "strided", "strided_bn", "strided_relu"),
        ("sum", "sum_relu"),
        ("stem",),
        ("scale",),
        ("upsample",),
        ("head",),
    ):
        (task,) = {task_of[layer].key: task_of[layer] for layer in layers_of_one}.values()
        assert [layer for layer in task.layers if layer in layers_of_one] == list(layers_of_one)
    assert task_of["strided"].kind == "pad + conv_2d(relu, stride 2x2, valid)"
    assert task_of["left"].argument_shapes[-1] == ("float32", (1, 8, 8, 8))


def test_equal_operators_share_a_task(runtime):
    image = keras.Input((8, 8, 4))
    x = image
    for number in range(3):
        x = layers.Conv2D(4, 3, padding="same", activation="relu", name=f"conv{number}")(x)
    (task,) = runtime.prepare(keras.Model(image, x)).tasks
    assert task.weight == 3
    assert [call.layers[0] for call in task.subgraphs] == ["conv0", "conv1", "conv2"]


def test_the_tasks_add_up_to_the_whole(runtime, prepared, model, tmp_path):
    path = tmp_path / "whole.tflite"
    runtime.build(prepared, path)
    images = np.random.default_rng(0).random((2, 16, 16, 3), dtype=np.float32)
    (outputs,) = runtime.device.run_model(runtime.file(path, model), images)
    np.testing.assert_allclose(outputs, model.predict(images, verbose=0), atol=1e-5)
    (whole,) = runtime.time([path], model, _MEASURE)
    # They were timed at different times, perhaps beside other work; benchmarks are more exact.
    assert 0.3 < runtime.tasks_ms(prepared) / whole.median_ms < 3
    costs = runtime.task_costs(prepared)
    assert sum(cost.share for cost in costs) == pytest.approx(1)
    assert costs[0].total_ms == max(cost.total_ms for cost in costs)
    # The matrix product of the transposed convolution is the most work but for the convolutions.
    assert {"strided", "right"} & set(layer for cost in costs[:4] for layer in cost.task.layers)


def test_nothing_is_measured_twice_by_this_process_or_a_later_one(
    runtime, prepared, device, workdir, tmp_path
):
    priced_ms = runtime.price(prepared, prepared, lambda task: pytest.fail(task.name))
    assert priced_ms == runtime.tasks_ms(prepared)
    (tmp_path / "litert.jsonl").write_bytes((workdir / "litert.jsonl").read_bytes()[:-20])
    with _open(device, tmp_path) as resumed:  # as after a kill in the middle of a line
        measured = []
        resumed.price(prepared, prepared, measured.append)
        assert [task.name for task in measured] == [prepared.tasks[-1].name]
        kept, again = resumed.samples_ms(prepared.tasks[0]), runtime.samples_ms(prepared.tasks[0])
        assert kept == again


def test_latencies_of_other_conditions_are_refused(device, workdir, runtime, tmp_path):
    content = (workdir / "litert.jsonl").read_text()
    (tmp_path / "litert.jsonl").write_text(content.replace(device.info().cpu_name, "abacus"))
    with pytest.raises(TimingsError, match="abacus"):
        _open(device, tmp_path)
    assert json.loads(json.dumps(runtime.fingerprint)) == runtime.fingerprint


def test_a_shared_folder_holds_a_file_for_each_condition(device, tmp_path):
    options = RuntimeOptions("float32", tmp_path / "run", TuningConfig(database=str(tmp_path)))
    with open_runtime("litert", device, options):
        assert len(list(tmp_path.glob("litert-*.jsonl"))) == 1
        assert not (tmp_path / "run").exists()


def check_resized_tasks(runtime, prepared, model, channels):
    """Each task at other counts is that of the smaller model, but for concatenations."""
    reduced_keep = {group.name: group.num_channels - 1 for group in channels.prunable}
    keep = {g.name: g.num_channels // (2 + n % 2) for n, g in enumerate(channels.prunable)}
    reduced, smaller = (
        runtime.prepare(resized(model, channels, units)) for units in (reduced_keep, keep)
    )
    all_units = current_units(channels)
    counts = (all_units, {**all_units, **reduced_keep}, {**all_units, **keep})
    task_at, reduced_at, smaller_at = map(tasks_by_site, (prepared, reduced, smaller))
    converted = set()
    for site in find_sites(prepared, reduced, channels):
        resize = Resize(*(site.counts(units) for units in counts))
        task = runtime.resized_task(task_at[site.key], reduced_at[site.key], resize)
        if task is None:
            converted.add(site.anchor)
        else:
            assert task.workload == smaller_at[site.key].workload, site.anchor
            assert task.key == smaller_at[site.key].key
    # A concatenation's operands depend on groups of their own, not on its total.
    assert converted == {"concatenate"}


def test_a_resized_task_is_that_of_the_smaller_model(runtime, prepared, model, channels):
    check_resized_tasks(runtime, prepared, model, channels)


def test_a_size_that_is_no_multiple_of_the_channels_is_not_resized(prepared):
    task = next(task for task in prepared.tasks if "left" in task.layers)
    assert resizing.resized(task.workload, task.workload, Resize((24, 8), (23, 7), (12, 4)))
    other = next(task for task in prepared.tasks if "right" in task.layers)
    resize = Resize((24, 8), (24, 12), (9, 9))
    assert resizing.resized(task.workload, other.workload, resize) is None


def test_a_staircase_is_measured_without_preparing_models(
    runtime, prepared, model, channels, tmp_path
):
    with PointStore(tmp_path / "points.jsonl", runtime.fingerprint) as store:
        lab = LatencyLab(model, prepared, channels, runtime, store)
        group = next(group for group in channels.prunable if "strided" in group.producers)
        keeps = [{group.name: count} for count in (12, 20)]
        assert lab.measure_together(keeps) > 0 == lab.measure_together(keeps)
        for keep in keeps:  # All its tasks are known, and they are those of the real model.
            assert runtime.tasks_ms(lab.prepare(keep)) == pytest.approx(lab.tasks_ms(keep))
        config = SamplingConfig(max_points=3, first_points=3)
        staircase = sample_staircase(lab, group, config)
        assert len(staircase.stairs) == 3 and staircase.rest_ms > 0
        counts = structure_counts(lab, group)
        assert runtime.lanes in counts and not any(count % runtime.lanes for count in counts)


def test_filter_tiles_are_those_of_operators_that_make_filters(runtime, prepared):
    task_of = {layer: task for task in prepared.tasks for layer in task.layers}
    lanes = runtime.lanes
    assert lanes in (4, 8, 16)
    tiles = runtime.filter_tiles(task_of["strided"], 24)
    assert tiles == tuple(tile for tile in (2 * lanes, lanes) if tile <= 24)
    assert runtime.filter_tiles(task_of["strided"], 23) == ()
    assert runtime.filter_tiles(task_of["depthwise"], 24) == ()


def test_a_profile_needs_no_programs(runtime, prepared, model, channels, tmp_path):
    opened = OpenedModel(model, channels, runtime, prepared, tmp_path)
    profile = profile_model(opened, None, _MEASURE)
    assert profile.tasks_ms == pytest.approx(runtime.tasks_ms(prepared))
    row = next(row for row in profile.tasks if "strided" in row.task.subgraphs[0])
    assert row.task.keeping_counts == tuple(range(runtime.lanes, 25, runtime.lanes))
    assert row.groups and row.task.bound is None
    assert json.loads(json.dumps(profile.to_json()))["roofline"] is None
    console = rich.console.Console(width=200, record=True, file=io.StringIO())
    console.print(profile_table(profile))
    assert "roofline" not in console.export_text()
    write_profile_figure(tmp_path / "profile.png", profile, "LiteRT")
    assert (tmp_path / "profile.png").stat().st_size > 1000


def test_float16_files_are_smaller_and_have_the_same_tasks(device, prepared, model, tmp_path):
    with _open(device, tmp_path, "float16") as half:
        halved = half.prepare(model)
        assert [task.key for task in halved.tasks] == [task.key for task in prepared.tasks]
        assert len(halved.content) < 0.85 * len(prepared.content)
        assert str(half) == "litert float16"


def test_a_model_that_cannot_be_converted_is_refused_before_a_run(tmp_path):
    from cprune_tf.runtimes.litert import LitertRuntime

    image = keras.Input((None, None, 3), name="image")
    model = keras.Model(image, layers.Conv2D(2, 3)(image))
    with pytest.raises(ValueError, match="expected fixed sizes"):
        LitertRuntime.check(model, RuntimeOptions("float32", tmp_path, TuningConfig()))
