"""Runs models and images through Keras on the host, and TVM and LiteRT on the device.

The images may be inputs of any other kind, too.

Weights and images are the same on all runtimes, so any difference in the outputs is a fault of a
compiler or an export. The latencies of all deployments are measured interleaved, in one run.
"""

from __future__ import annotations

import dataclasses
import os
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cprune_tf.accuracy import RANKS, Hits, PairedDifference
from cprune_tf.config import DataConfig, MeasureConfig
from cprune_tf.data.pipeline import preprocess
from cprune_tf.deployment import DeployedFile, Deployment
from cprune_tf.devices import Device, DeviceInfo, Latency, ModelFile
from cprune_tf.errors import UserError
from cprune_tf.litert.pixels import to_pixels
from cprune_tf.runs.results import CrossCheck, RuntimeResult, Speedup

if typing.TYPE_CHECKING:
    import keras

FloatArray = npt.NDArray[np.floating[Any]]
Arrays = list[FloatArray]
Score = Callable[[Sequence[npt.NDArray[Any]]], float]

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
    images: npt.NDArray[Any] | Sequence[npt.NDArray[Any]],
    labels: npt.NDArray[Any] | None,
    device: Device,
    *,
    measure: MeasureConfig | None = None,
    thread_counts: Sequence[int] | None = None,
    metric: str = "top1",
    score: Score | None = None,
    expects_speedup: bool = True,
) -> CrossCheck:
    """Runs deployments on Keras, TVM and LiteRT and compares all outputs, accuracy and latency.

    TVM is left out if the deployments have no library. A library that was made for one number of
    threads is timed and run with this number only.

    Args:
        deployments: The deployments to compare. The speed-ups of all others refer to the first.
        images: float32 [num_images, height, width, channels], preprocessed for the models; or one
            array [num_samples, ...] for each input of the models, in their order.
        labels: Class indices [num_images], or one-hot [num_images, num_classes]. None if the models
            are no classifiers: then `score` alone gives accuracies.
        device: The device that TVM and LiteRT run on.
        measure: How latencies are measured; its num_threads is ignored. None for the defaults.
        thread_counts: Numbers of threads to measure with, besides those that libraries were made
            for; None: 1, and the number of used cores.
        metric: The metric of the accuracies: "top1" or "top5", or what `score` computes.
        score: Judges all outputs of a model on these images, in the models' order, where there are
            no labels; None: there are no accuracies then.
        expects_speedup: Whether a deployment that is slower than the first is a problem.

    Returns:
        The comparison.

    Raises:
        CrossCheckError: If files, deployments, images, labels or metric do not fit.
        DeviceError: If a runtime could not run a model; says which and why.
    """
    inputs = [images] if isinstance(images, np.ndarray) else list(images)
    _check_inputs(deployments, inputs)
    judge = _Judge(metric, score, None)
    if labels is not None:
        judge = _Judge(metric, None, _checked_labels(inputs[0], labels, metric))
    measure = measure or MeasureConfig()
    info = device.info()
    compared = [one for deployment in deployments for one in deployment.compared_files()]
    made_for = {one.num_threads for one in compared if one.num_threads is not None}
    counts = tuple(sorted({*(thread_counts or (1, device.num_cores())), *made_for}))
    latencies = _time(compared, device, counts, measure)
    precisions = {one.label: one.precision for one in compared}
    results: list[RuntimeResult] = []
    first_hits: dict[str, Hits] = {}
    for deployment in deployments:
        for result, hits in _run(deployment, inputs, device, max(counts), judge, latencies):
            paired = None
            if hits is not None and deployment is deployments[0]:
                first_hits[result.runtime] = hits
            elif hits is not None:
                paired = PairedDifference.of(hits, first_hits[result.runtime])
            results.append(dataclasses.replace(result, paired=paired))
    speedups: tuple[Speedup, ...] = ()
    if not info.emulated:
        speedups = _speedups([d.name for d in deployments], latencies)
    return CrossCheck(
        device=info,
        metric=metric,
        num_images=len(inputs[0]),
        results=tuple(results),
        speedups=speedups,
        problems=(
            *_problems_of_weights(deployments),
            *_problems_of_device(info),
            *(problem for result in results for problem in _problems_of_result(result, precisions)),
            *(_problems_of_speedups(speedups) if expects_speedup else ()),
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
    reference = _outputs_of_keras(deployment.keras_model, [preprocessed])
    file = ModelFile("pixels", "litert", os.fspath(path), (("uint8", (1, *pixels.shape[1:])),))
    outputs = device.run_model(file, pixels)
    judge = _Judge("top1", None, reference[0].argmax(-1))
    result = _compare(
        os.path.basename(path), "litert", outputs, reference, judge, judge.hits(outputs)
    )
    return tuple(_problems_of_result(result, {"litert": deployment.precision}))


_Latencies = dict[tuple[str, str], tuple[Latency, ...]]


def _time(
    compared: Sequence[DeployedFile],
    device: Device,
    thread_counts: Sequence[int],
    measure: MeasureConfig,
) -> _Latencies:
    """Times all files that were made for a number of threads, or for any, against each other."""
    latencies: dict[tuple[str, str], list[Latency]] = {
        (one.file.name, one.label): [] for one in compared
    }
    for count in thread_counts:
        files = [one for one in compared if one.num_threads in (None, count)]
        timed = device.time_models([one.file for one in files], count, measure)
        for one, latency in zip(files, timed, strict=True):
            latencies[one.file.name, one.label].append(latency)
    return {key: tuple(found) for key, found in latencies.items()}


@dataclasses.dataclass(frozen=True, eq=False)
class _Judge:
    """Judges outputs: by the classes of the images, or by a function of all outputs."""

    metric: str
    score: Score | None
    labels: npt.NDArray[Any] | None

    def hits(self, outputs: Arrays) -> Hits | None:
        """Which images are classified right; None if there are no classes."""
        return None if self.labels is None else _hits(outputs[0], self.labels, self.metric)

    def accuracy(self, outputs: Arrays, hits: Hits | None) -> float | None:
        """The accuracy, or the score; None if nothing tells."""
        if hits is not None:
            return float(np.mean(hits))
        if self.score is None or not all(np.isfinite(array).all() for array in outputs):
            return None
        return self.score(outputs)


def _run(
    deployment: Deployment,
    inputs: Sequence[npt.NDArray[Any]],
    device: Device,
    num_threads: int,
    judge: _Judge,
    latencies: _Latencies,
) -> Iterator[tuple[RuntimeResult, Hits | None]]:
    """Yields the result of a deployment on each runtime, and which images it gets right."""
    reference = _outputs_of_keras(deployment.keras_model, inputs)
    hits = judge.hits(reference)
    yield _compare(deployment.name, "keras", reference, reference, judge, hits), hits
    for one in deployment.compared_files():
        outputs = device.run_model(one.file, inputs, one.num_threads or num_threads)
        hits = judge.hits(outputs)
        result = dataclasses.replace(
            _compare(deployment.name, one.label, outputs, reference, judge, hits),
            file_bytes=os.path.getsize(one.file.path),
            latencies=latencies[deployment.name, one.label],
        )
        yield result, hits


def _outputs_of_keras(model: keras.Model, inputs: Sequence[npt.NDArray[Any]]) -> Arrays:
    from cprune_tf.data.interface import batched, interface_of

    return batched(
        interface_of(model), lambda batch: model(batch, training=False), inputs, _KERAS_BATCH_SIZE
    )


def _compare(
    name: str,
    runtime: str,
    outputs: Arrays,
    reference: Arrays,
    judge: _Judge,
    hits: Hits | None,
) -> RuntimeResult:
    shapes, expected = ([array.shape for array in arrays] for arrays in (outputs, reference))
    if shapes != expected:
        raise CrossCheckError(
            f"{name} returns outputs of shape {', '.join(map(str, shapes))} on {runtime}, but of "
            f"shape {', '.join(map(str, expected))} in Keras; the file was made from another "
            "model. Export the model again."
        )
    errors = [float(np.max(np.abs(a - b))) for a, b in zip(outputs, reference, strict=True)]
    scales = [float(np.max(np.abs(array))) for array in reference]
    relative = [
        error / (scale if scale > 0 else 1.0) for error, scale in zip(errors, scales, strict=True)
    ]
    agreement = None
    if judge.labels is not None:
        agreement = float(np.mean(outputs[0].argmax(-1) == reference[0].argmax(-1)))
    return RuntimeResult(
        deployment=name,
        runtime=runtime,
        accuracy=judge.accuracy(outputs, hits),
        # Unlike max(), NumPy's passes a NaN on.
        max_abs_error=float(np.max(errors)),
        max_relative_error=float(np.max(relative)),
        top1_agreement=agreement,
        file_bytes=None,
        latencies=(),
    )


def _hits(outputs: FloatArray, labels: npt.NDArray[Any], metric: str) -> Hits:
    best = np.argsort(-outputs, axis=-1, kind="stable")[:, : 5 if metric == "top5" else 1]
    hits: Hits = np.any(best == labels[:, None], axis=-1)
    return hits


def _speedups(names: Sequence[str], latencies: _Latencies) -> tuple[Speedup, ...]:
    speedups = []
    for name in names[1:]:
        for runtime in [label for deployment, label in latencies if deployment == name]:
            if (names[0], runtime) not in latencies:
                continue
            pairs = zip(latencies[names[0], runtime], latencies[name, runtime], strict=True)
            for base, other in pairs:
                count = other.num_threads
                ratio = base.median_ms / other.median_ms
                low, high = base.q1_ms / other.q3_ms, base.q3_ms / other.q1_ms
                speedups.append(Speedup(name, names[0], runtime, count, ratio, low, high))
    return tuple(speedups)


def problems_of_outputs(result: RuntimeResult, precision: str) -> list[str]:
    """Says in sentences how a runtime's outputs differ from Keras's by more than they may.

    Args:
        result: The comparison.
        precision: The precision that the file computes in.

    Returns:
        The sentences; empty if nothing is wrong.
    """
    subject = f"{result.deployment} on {result.runtime}"
    allowed, least = _MAX_RELATIVE_ERRORS[precision], _MIN_AGREEMENTS[precision]
    problems = []
    if not np.isfinite(result.max_abs_error):
        problems.append(f"{subject}: outputs are not finite numbers.")
    elif result.max_relative_error > allowed:
        problems.append(
            f"{subject}: outputs differ from Keras by {result.max_relative_error:.2g} of their "
            f"largest value (more than {allowed:g})."
        )
    if result.top1_agreement is not None and result.top1_agreement < least:
        problems.append(
            f"{subject}: agrees with Keras on the first class of only "
            f"{result.top1_agreement:.1%} of the images (less than {least:.0%})."
        )
    return problems


def _problems_of_result(result: RuntimeResult, precisions: Mapping[str, str]) -> list[str]:
    subject = f"{result.deployment} on {result.runtime}"
    problems = problems_of_outputs(result, precisions.get(result.runtime, "float32"))
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


def _check_inputs(deployments: Sequence[Deployment], inputs: Sequence[npt.NDArray[Any]]) -> None:
    names = [deployment.name for deployment in deployments]
    if not names or len(set(names)) != len(names):
        raise CrossCheckError(
            f"The deployments are named {names}; expected at least one deployment, each with a "
            "different name."
        )
    for deployment in deployments:
        expected = [tuple(tensor.shape[1:]) for tensor in deployment.keras_model.inputs]
        if [array.shape[1:] for array in inputs] != expected:
            raise CrossCheckError(
                f"Images have shape {', '.join(str(array.shape) for array in inputs)}; "
                f"{deployment.name} expects inputs of shape "
                f"{[tuple(tensor.shape) for tensor in deployment.keras_model.inputs]}."
            )
    if len(set(map(len, inputs))) != 1 or not len(inputs[0]):
        raise CrossCheckError(
            f"There are {', '.join(str(len(array)) for array in inputs)} samples of the inputs; "
            "expected as many of each, and at least one."
        )


def _checked_labels(
    images: npt.NDArray[Any], labels: npt.NDArray[Any], metric: str
) -> npt.NDArray[Any]:
    if metric not in RANKS:
        raise CrossCheckError(f"metric is {metric!r}; expected {' or '.join(RANKS)}.")
    labels = np.asarray(labels)
    if labels.ndim == 2:
        labels = labels[:, 0] if labels.shape[1] == 1 else labels.argmax(-1)
    if not len(images) or labels.shape != (len(images),):
        raise CrossCheckError(
            f"{len(images)} images and labels of shape {labels.shape} do not match; "
            "expected one label for each image, and at least one image."
        )
    return labels
