"""Runs the same models and images through Keras on the host, and TVM and LiteRT on the device.

Weights and images are the same on all runtimes, so any difference in the outputs is a fault of a
compiler or an export. The latencies of all deployments are measured interleaved, in one run.
"""

from __future__ import annotations

import dataclasses
import os
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cprune_tf.accuracy import Hits, PairedDifference
from cprune_tf.config import DataConfig, MeasureConfig
from cprune_tf.data.pipeline import preprocess
from cprune_tf.deployment import Deployment
from cprune_tf.devices import Device, DeviceInfo, Latency, ModelFile
from cprune_tf.errors import UserError
from cprune_tf.litert.pixels import to_pixels
from cprune_tf.runs.results import CrossCheck, RuntimeResult, Speedup

if typing.TYPE_CHECKING:
    import keras

FloatArray = npt.NDArray[np.floating[Any]]

_KERAS_BATCH_SIZE = 256
_MIN_AGREEMENTS = {"float32": 0.99, "float16": 0.99, "bfloat16": 0.99, "int8": 0.95}
# The largest acceptable error for each dtype of the stored weights, whose precision is 24, 11 and
# 8 bits. With int8, the scores of images between two classes change by much more; that a file is
# right shows in how often both agree.
_MAX_RELATIVE_ERRORS = {"float32": 1e-3, "float16": 1e-2, "bfloat16": 5e-2, "int8": 1.0}
_MAX_RELATIVE_IQR = 0.25
# A file that preprocesses differs from the other in its first operators only.
_NUM_PIXEL_IMAGES = 64


class CrossCheckError(UserError, ValueError):
    """Models, files, images and labels that do not belong together; says which."""


def check_deployments(
    deployments: Sequence[Deployment],
    images: FloatArray,
    labels: npt.NDArray[Any],
    device: Device,
    *,
    measure: MeasureConfig | None = None,
    thread_counts: Sequence[int] | None = None,
    metric: str = "top1",
) -> CrossCheck:
    """Runs deployments on Keras, TVM and LiteRT and compares outputs, accuracy and latency.

    TVM is left out if the deployments have no library.

    Args:
        deployments: The deployments to compare. The speed-ups of all others refer to the first.
        images: float32 [num_images, height, width, channels], preprocessed for the models. The
            first output of each model is compared.
        labels: Class indices [num_images], or one-hot [num_images, num_classes].
        device: The device that TVM and LiteRT run on.
        measure: How latencies are measured; its num_threads is ignored. None for the defaults.
        thread_counts: Numbers of threads to measure with; None: 1, and the number of used cores.
        metric: The metric of the accuracies: "top1" or "top5".

    Returns:
        The comparison.

    Raises:
        CrossCheckError: If files, deployments, images, labels or metric do not fit.
        DeviceError: If a runtime could not run a model; says which and why.
    """
    labels = _checked_labels(deployments, images, labels, metric)
    measure = measure or MeasureConfig()
    info = device.info()
    counts = tuple(sorted(set(thread_counts or (1, device.num_cores()))))
    latencies = _time(deployments, device, counts, measure)
    precisions = {one.label: one.precision for d in deployments for one in d.compared_files()}
    results: list[RuntimeResult] = []
    first_hits: dict[str, Hits] = {}
    for deployment in deployments:
        for result, hits in _run(
            deployment, images, labels, device, max(counts), metric, latencies
        ):
            paired = None
            if deployment is deployments[0]:
                first_hits[result.runtime] = hits
            else:
                paired = PairedDifference.of(hits, first_hits[result.runtime])
            results.append(dataclasses.replace(result, paired=paired))
    speedups: tuple[Speedup, ...] = ()
    if not info.emulated:
        speedups = _speedups([d.name for d in deployments], counts, latencies)
    return CrossCheck(
        device=info,
        metric=metric,
        num_images=len(images),
        results=tuple(results),
        speedups=speedups,
        problems=(
            *_problems_of_weights(deployments),
            *_problems_of_device(info),
            *(problem for result in results for problem in _problems_of_result(result, precisions)),
            *_problems_of_speedups(speedups),
        ),
    )


def check_pixel_file(
    path: str | os.PathLike[str],
    deployment: Deployment,
    images: FloatArray,
    data: DataConfig,
    device: Device,
) -> tuple[str, ...]:
    """Compares a file that preprocesses pixels itself with the model that does not.

    Args:
        path: The `.tflite` file, which takes uint8 pixels.
        deployment: The model, with the precision of the file.
        images: float32 [num_images, height, width, channels], preprocessed; a few are used.
        data: How they were preprocessed.
        device: The device that the file runs on.

    Returns:
        Sentences that say what is wrong; empty if nothing is.

    Raises:
        DeviceError: If LiteRT cannot run the file.
    """
    pixels = to_pixels(images[:_NUM_PIXEL_IMAGES], data.mean, data.std)
    preprocessed = preprocess(pixels, data.mean, data.std).numpy()
    reference = _outputs_of_keras(deployment.keras_model, preprocessed)
    file = ModelFile("pixels", "litert", os.fspath(path), (("uint8", (1, *pixels.shape[1:])),))
    outputs = device.run_model(file, pixels)[0]
    hits = np.ones(len(pixels), np.bool_)
    result = _compare(os.path.basename(path), "litert", outputs, reference, hits)
    return tuple(_problems_of_result(result, {"litert": deployment.precision}))


_Latencies = dict[tuple[str, str], tuple[Latency, ...]]


def _time(
    deployments: Sequence[Deployment],
    device: Device,
    thread_counts: Sequence[int],
    measure: MeasureConfig,
) -> _Latencies:
    compared = [one for deployment in deployments for one in deployment.compared_files()]
    files = [one.file for one in compared]
    runs = [device.time_models(files, count, measure) for count in thread_counts]
    return {
        (one.file.name, one.label): tuple(run[i] for run in runs) for i, one in enumerate(compared)
    }


def _run(
    deployment: Deployment,
    images: FloatArray,
    labels: npt.NDArray[Any],
    device: Device,
    num_threads: int,
    metric: str,
    latencies: _Latencies,
) -> Iterator[tuple[RuntimeResult, Hits]]:
    """Yields the result of a deployment on each runtime, and which images it gets right."""
    reference = _outputs_of_keras(deployment.keras_model, images)
    hits = _hits(reference, labels, metric)
    yield _compare(deployment.name, "keras", reference, reference, hits), hits
    for one in deployment.compared_files():
        outputs = device.run_model(one.file, images, num_threads)[0]
        hits = _hits(outputs, labels, metric)
        result = dataclasses.replace(
            _compare(deployment.name, one.label, outputs, reference, hits),
            file_bytes=os.path.getsize(one.file.path),
            latencies=latencies[deployment.name, one.label],
        )
        yield result, hits


def _outputs_of_keras(model: keras.Model, images: FloatArray) -> FloatArray:
    import keras

    from cprune_tf.data.batches import in_batches

    return np.concatenate(
        [
            np.asarray(keras.tree.flatten(model(batch, training=False))[0])
            for (batch,) in in_batches(_KERAS_BATCH_SIZE, images)
        ]
    )


def _compare(
    name: str,
    runtime: str,
    outputs: FloatArray,
    reference: FloatArray,
    hits: Hits,
) -> RuntimeResult:
    if outputs.shape != reference.shape:
        raise CrossCheckError(
            f"{name} returns outputs of shape {outputs.shape} on {runtime}, but of shape "
            f"{reference.shape} in Keras; the file was made from another model. Export the model "
            "again."
        )
    error = float(np.max(np.abs(outputs - reference)))
    scale = float(np.max(np.abs(reference)))
    if not scale > 0:
        scale = 1.0
    return RuntimeResult(
        deployment=name,
        runtime=runtime,
        accuracy=float(np.mean(hits)),
        max_abs_error=error,
        max_relative_error=error / scale,
        top1_agreement=float(np.mean(outputs.argmax(-1) == reference.argmax(-1))),
        file_bytes=None,
        latencies=(),
    )


def _hits(outputs: FloatArray, labels: npt.NDArray[Any], metric: str) -> Hits:
    best = np.argsort(-outputs, axis=-1, kind="stable")[:, : 5 if metric == "top5" else 1]
    hits: Hits = np.any(best == labels[:, None], axis=-1)
    return hits


def _speedups(
    names: Sequence[str], thread_counts: Sequence[int], latencies: _Latencies
) -> tuple[Speedup, ...]:
    speedups = []
    for name in names[1:]:
        for runtime in [label for deployment, label in latencies if deployment == name]:
            if (names[0], runtime) not in latencies:
                continue
            pairs = zip(latencies[names[0], runtime], latencies[name, runtime], strict=True)
            for count, (base, other) in zip(thread_counts, pairs, strict=True):
                ratio = base.median_ms / other.median_ms
                low, high = base.q1_ms / other.q3_ms, base.q3_ms / other.q1_ms
                speedups.append(Speedup(name, names[0], runtime, count, ratio, low, high))
    return tuple(speedups)


def _problems_of_result(result: RuntimeResult, precisions: Mapping[str, str]) -> list[str]:
    subject = f"{result.deployment} on {result.runtime}"
    precision = precisions.get(result.runtime, "float32")
    allowed, least = _MAX_RELATIVE_ERRORS[precision], _MIN_AGREEMENTS[precision]
    problems = []
    if not np.isfinite(result.max_abs_error):
        problems.append(f"{subject}: outputs are not finite numbers.")
    elif result.max_relative_error > allowed:
        problems.append(
            f"{subject}: outputs differ from Keras by {result.max_relative_error:.2g} of their "
            f"largest value (more than {allowed:g})."
        )
    if result.top1_agreement < least:
        problems.append(
            f"{subject}: agrees with Keras on the first class of only "
            f"{result.top1_agreement:.1%} of the images (less than {least:.0%})."
        )
    for latency in result.latencies:
        if latency.conditions.emulated:
            continue
        if latency.conditions.throttled:
            problems.append(
                f"{subject}: the device was throttled while it measured {latency}; let it cool "
                "down."
            )
        if latency.iqr_ms > _MAX_RELATIVE_IQR * latency.median_ms:
            problems.append(
                f"{subject}: the latency {latency} is unsteady; other programs may be running."
            )
    return problems


def _problems_of_device(info: DeviceInfo) -> list[str]:
    if not info.emulated:
        return []
    return ["The device is emulated: its latencies mean nothing and are not compared."]


def _problems_of_speedups(speedups: Sequence[Speedup]) -> list[str]:
    return [
        f"{s.deployment} on {s.runtime}: slower than {s.baseline} with {s.num_threads} "
        f"thread{'' if s.num_threads == 1 else 's'} (speed-up {s.ratio:.2f})."
        for s in speedups
        if s.ratio < 1
    ]


def _problems_of_weights(deployments: Sequence[Deployment]) -> list[str]:
    from cprune_tf.graph import count_subnormals

    problems = []
    for deployment in deployments:
        count = count_subnormals(deployment.keras_model)
        if count:
            problems.append(
                f"{deployment.name}: {count} weights are subnormal numbers, with which some "
                "processors compute many times more slowly; set them to zero."
            )
    return problems


def _checked_labels(
    deployments: Sequence[Deployment],
    images: FloatArray,
    labels: npt.NDArray[Any],
    metric: str,
) -> npt.NDArray[Any]:
    if metric not in ("top1", "top5"):
        raise CrossCheckError(f"metric is {metric!r}; expected 'top1' or 'top5'.")
    names = [deployment.name for deployment in deployments]
    if not names or len(set(names)) != len(names):
        raise CrossCheckError(
            f"The deployments are named {names}; expected at least one deployment, each with a "
            "different name."
        )
    for deployment in deployments:
        expected = tuple(deployment.keras_model.inputs[0].shape[1:])
        if len(deployment.keras_model.inputs) != 1 or images.shape[1:] != expected:
            raise CrossCheckError(
                f"Images have shape {images.shape}; {deployment.name} expects inputs of shape "
                f"{[tuple(tensor.shape) for tensor in deployment.keras_model.inputs]}."
            )
    labels = np.asarray(labels)
    if labels.ndim == 2:
        labels = labels[:, 0] if labels.shape[1] == 1 else labels.argmax(-1)
    if not len(images) or labels.shape != (len(images),):
        raise CrossCheckError(
            f"{len(images)} images and labels of shape {labels.shape} do not match; "
            "expected one label for each image, and at least one image."
        )
    return labels
