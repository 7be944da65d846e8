from __future__ import annotations

import dataclasses
import json
import os

import keras
import numpy as np
import pytest

from cprune_tf.config import MeasureConfig
from cprune_tf.cross_check import check_deployments
from cprune_tf.devices import DeviceError, open_device
from tests.pipeline.handmade import NUM_CLASSES, deploy, keras_model, tvm_library

QUICK = MeasureConfig(warmup_ms=5.0, min_samples=20, max_time_sec=0.5, stable_fraction=0.1)
ONE_AND_ALL = tuple(sorted({1, len(os.sched_getaffinity(0))}))


@pytest.fixture(scope="module")
def device():
    with open_device("local") as opened:
        yield opened


@pytest.fixture
def images():
    return np.random.default_rng(0).random((64, 8, 8, 1), dtype=np.float32)


@pytest.fixture(scope="module")
def deployments(tmp_path_factory):
    directory = tmp_path_factory.mktemp("deployments")
    return [
        deploy("original", keras_model(4096), directory),
        deploy("pruned", keras_model(64, seed=1), directory),
    ]


@pytest.fixture(scope="module")
def labels():
    return np.arange(64) % NUM_CLASSES


@pytest.fixture(scope="module")
def checked(deployments, labels, device):
    images = np.random.default_rng(0).random((64, 8, 8, 1), dtype=np.float32)
    return check_deployments(deployments, images, labels, device, measure=QUICK)


def quick(deployments, images, labels, device, **keywords):
    return check_deployments(
        deployments, images, labels, device, measure=QUICK, thread_counts=(1,), **keywords
    )


def test_every_deployment_is_checked_on_every_runtime(checked):
    assert [(r.deployment, r.runtime) for r in checked.results] == [
        (name, runtime) for name in ("original", "pruned") for runtime in ("keras", "tvm", "litert")
    ]


def test_sound_exports_agree_with_keras(checked):
    for result in checked.results:
        assert result.top1_agreement == 1.0
        assert result.max_abs_error < 1e-5
        assert result.max_relative_error < 1e-4
    assert not [p for p in checked.problems if "unsteady" not in p and "slower" not in p]


def test_accuracy_is_that_of_the_outputs(checked, deployments, labels):
    images = np.random.default_rng(0).random((64, 8, 8, 1), dtype=np.float32)
    for deployment in deployments:
        classes = np.asarray(deployment.keras_model(images)).argmax(-1)
        for runtime in ("keras", "tvm", "litert"):
            accuracy = checked.result(deployment.name, runtime).accuracy
            assert accuracy == pytest.approx(np.mean(classes == labels))


def test_the_pruned_model_is_compared_with_the_original_by_image(checked, deployments, labels):
    images = np.random.default_rng(0).random((64, 8, 8, 1), dtype=np.float32)
    first, second = (
        np.asarray(one.keras_model(images)).argmax(-1) == labels for one in deployments
    )
    for runtime in ("keras", "tvm", "litert"):
        paired = checked.result("pruned", runtime).paired
        assert (paired.gained, paired.lost) == ((second & ~first).sum(), (first & ~second).sum())
        assert paired.num_images == 64 and paired.gained + paired.lost > 0
        assert checked.result("original", runtime).paired is None


def test_each_runtime_is_timed_with_one_and_all_threads(checked):
    for result in checked.results:
        expected = () if result.runtime == "keras" else ONE_AND_ALL
        assert tuple(latency.num_threads for latency in result.latencies) == expected
    latency = checked.latency("pruned", "tvm", 1)
    assert latency.num_threads == 1
    with pytest.raises(KeyError, match="was not timed with 77 threads"):
        checked.latency("pruned", "tvm", 77)
    with pytest.raises(KeyError, match="no result for pruned/onnx"):
        checked.result("pruned", "onnx")


@pytest.mark.skipif(len(ONE_AND_ALL) < 2, reason="needs two cores")
def test_a_library_is_timed_only_with_the_threads_that_it_was_made_for(
    deployments, images, labels, device, tmp_path
):
    made = [
        dataclasses.replace(
            one,
            num_threads=2,
            further_libraries=((1, tvm_library(one.keras_model, tmp_path / f"{one.name}.so")),),
        )
        for one in deployments
    ]
    checked = quick(made, images, labels, device)
    times = {
        result.runtime: [latency.num_threads for latency in result.latencies]
        for result in checked.results
        if result.deployment == "pruned"
    }
    assert times == {"keras": [], "tvm": [2], "tvm for 1 thread": [1], "litert": [1, 2]}
    assert [(s.runtime, s.num_threads) for s in checked.speedups] == [
        ("tvm", 2),
        ("tvm for 1 thread", 1),
        ("litert", 1),
        ("litert", 2),
    ]
    assert all(result.max_abs_error < 1e-5 for result in checked.results)


def test_speedups_are_ratios_of_medians_with_their_spread(checked):
    assert [(s.deployment, s.runtime, s.num_threads) for s in checked.speedups] == [
        ("pruned", runtime, count) for runtime in ("tvm", "litert") for count in ONE_AND_ALL
    ]
    for speedup in checked.speedups:
        original, pruned = (
            checked.latency(name, speedup.runtime, speedup.num_threads)
            for name in ("original", "pruned")
        )
        assert speedup.ratio == original.median_ms / pruned.median_ms
        assert speedup.low <= speedup.ratio <= speedup.high
        assert speedup.ratio > 2  # 64 times fewer units


def test_files_shrink_and_their_sizes_are_told(checked, deployments):
    for runtime in ("tvm", "litert"):
        sizes = [checked.result(name, runtime).file_bytes for name in ("original", "pruned")]
        assert sizes[0] > 5 * sizes[1]
    assert checked.result("pruned", "litert").file_bytes == deployments[1].tflite.stat().st_size
    assert checked.result("pruned", "keras").file_bytes is None


def test_the_comparison_is_json(checked):
    values = json.loads(json.dumps(checked.to_json(), allow_nan=False))
    assert values["device"]["kind"] == "local"
    assert values["num_images"] == 64
    assert values["results"][1]["latencies"][0]["num_threads"] == 1
    assert len(values["speedups"]) == 2 * len(ONE_AND_ALL)


def test_exports_of_other_weights_are_named(deployments, images, labels, device):
    swapped = dataclasses.replace(deployments[1], keras_model=keras_model(64, seed=2))
    problems = quick([swapped], images, labels, device).problems
    for runtime in ("tvm", "litert"):
        assert any(
            p.startswith(f"pruned on {runtime}: outputs differ from Keras by") for p in problems
        )
        assert any(p.startswith(f"pruned on {runtime}: agrees with Keras") for p in problems)


def test_exports_of_another_shape_are_refused(deployments, images, labels, device):
    other = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten()])
    with pytest.raises(ValueError, match=r"pruned returns outputs of shape \(64, 10\) on tvm"):
        quick([dataclasses.replace(deployments[1], keras_model=other)], images, labels, device)


def test_a_slower_model_is_named(deployments, images, labels, device):
    problems = quick(deployments[::-1], images, labels, device).problems
    assert any(p.startswith("original on tvm: slower than pruned with 1 thread") for p in problems)


def test_subnormal_weights_are_named(deployments, images, labels, device):
    model = keras_model(64, seed=1)
    kernel, *others = model.get_weights()
    kernel[0, :3] = 1e-40
    kernel[1, 0] = 0.0
    model.set_weights([kernel, *others])
    problems = quick(
        [dataclasses.replace(deployments[1], keras_model=model)], images, labels, device
    ).problems
    assert any("pruned: 3 weights are subnormal" in problem for problem in problems)


def test_outputs_that_are_no_numbers_are_named(images, labels, device, tmp_path):
    model = keras_model(8)
    model.layers[-1].bias.assign([np.nan] * NUM_CLASSES)
    problems = quick([deploy("broken", model, tmp_path)], images, labels, device).problems
    assert "broken on tvm: outputs are not finite numbers." in problems


@pytest.mark.parametrize("one_hot", [False, True])
def test_top5_and_one_hot_labels(deployments, images, labels, device, one_hot):
    given = np.eye(NUM_CLASSES)[labels] if one_hot else labels[:, None]
    result = quick(deployments[1:], images, given, device, metric="top5").results[0]
    outputs = np.asarray(deployments[1].keras_model(images))
    expected = np.mean([labels[i] in np.argsort(-outputs[i])[:5] for i in range(len(images))])
    assert result.accuracy == pytest.approx(expected)


def test_a_broken_file_stops_with_its_name(deployments, images, labels, device, tmp_path):
    (tmp_path / "bad.tflite").write_bytes(b"no")
    broken = dataclasses.replace(deployments[1], tflite=tmp_path / "bad.tflite")
    with pytest.raises(DeviceError, match=r"bad\.tflite is not a model"):
        quick([broken], images, labels, device)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"metric": "top3"}, "metric is 'top3'"),
        ({"images": np.zeros((64, 9, 9, 1), np.float32)}, r"Images have shape \(64, 9, 9, 1\)"),
        ({"labels": np.zeros(63, int)}, "64 images and labels of shape .* do not match"),
        ({"deployments": []}, "expected at least one deployment, each with a different name"),
    ],
)
def test_what_does_not_fit_is_refused_at_once(deployments, images, labels, device, change, reason):
    arguments = {"deployments": deployments, "images": images, "labels": labels, **change}
    with pytest.raises(ValueError, match=reason):
        check_deployments(device=device, measure=QUICK, **arguments)
