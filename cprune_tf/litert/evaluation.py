"""Accuracy of `.tflite` files on this machine, through LiteRT's interpreter."""

from __future__ import annotations

import os
import typing
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from cprune_tf import native_output
from cprune_tf.accuracy import RANKS, Hits
from cprune_tf.devices.agent.runtimes import litert_interpreter
from cprune_tf.litert.errors import ConversionError

# Enough to hide the cost of a call from Python; few enough for the tensors to stay in the cache.
_BATCH_SIZE = 32


def evaluate(
    content: bytes,
    images: npt.NDArray[np.float32],
    labels: npt.NDArray[Any],
    metric: str = "top1",
    *,
    num_threads: int = 0,
) -> float:
    """Measures the accuracy of a `.tflite` file as `training.evaluate` does that of a Keras model.

    Args:
        content: The content of a file with one input and class scores as its first output, of any
            precision.
        images: float32 [num_images, height, width, channels], preprocessed for the model.
        labels: Class indices, [num_images].
        metric: "top1", or "top5": the label is among the five highest outputs.
        num_threads: Number of threads; 0: all cores.

    Returns:
        The fraction of images that are classified right, 0..1.

    Raises:
        ConversionError: The file, the images or the labels do not fit, the metric is unknown, or
            the outputs are not finite.
    """
    hits = np.concatenate(
        list(evaluate_batches(content, images, labels, metric, num_threads=num_threads))
    )
    return int(np.count_nonzero(hits)) / len(hits)


def evaluate_batches(
    content: bytes,
    images: npt.NDArray[np.float32],
    labels: npt.NDArray[Any],
    metric: str = "top1",
    *,
    order: npt.NDArray[np.integer[Any]] | None = None,
    num_threads: int = 0,
) -> Iterator[Hits]:
    """Finds which images a file classifies right, batch by batch, so that the caller may stop.

    Args:
        content: As for `evaluate`.
        images: As for `evaluate`.
        labels: As for `evaluate`.
        metric: As for `evaluate`.
        order: The indices of all images in the order of evaluation; None: as they are.
        num_threads: As for `evaluate`.

    Yields:
        [images in the batch] bool: which of them are classified right.

    Raises:
        ConversionError: See `evaluate`.
    """
    if metric not in RANKS:
        raise ConversionError(f"metric is {metric!r}; expected {' or '.join(RANKS)}.")
    if not len(images) or len(images) != len(labels):
        raise ConversionError(
            f"{len(images)} images and {len(labels)} labels do not match; expected one label for "
            "each image, and at least one image."
        )
    rank, start = RANKS[metric], 0
    ordered = np.asarray(labels) if order is None else np.asarray(labels)[order]
    for outputs in run(content, images, order=order, num_threads=num_threads):
        if rank > outputs.shape[-1]:
            raise ConversionError(
                f"metric {metric} needs {rank} classes or more; the file has {outputs.shape[-1]}."
            )
        if not np.isfinite(outputs).all():
            raise ConversionError(
                "the file gives NaN or infinite outputs; its accuracy means nothing. Check the "
                "Keras model's own outputs."
            )
        best = np.argsort(-outputs, axis=-1, kind="stable")[:, :rank]
        expected = ordered[start : start + len(outputs)].reshape(-1, 1)
        yield (best == expected).any(axis=-1)
        start += len(outputs)


def run(
    content: bytes,
    images: npt.NDArray[np.float32],
    *,
    order: npt.NDArray[np.integer[Any]] | None = None,
    num_threads: int = 0,
) -> Iterator[npt.NDArray[np.float32]]:
    """Computes the first output of a file for images, in batches where the file allows them.

    Args:
        content: The content of a file with one input.
        images: float32 [num_images, ...].
        order: The indices of the images to compute; None: all, as they are.
        num_threads: Number of threads; 0: all cores.

    Yields:
        Outputs as float32, [images in the batch, ...]; integers are converted by the file's scale.

    Raises:
        ConversionError: The file cannot be run, or the images do not fit it.
    """
    num_threads = num_threads or os.cpu_count() or 1
    single = _Model(content, num_threads, 1)
    single.require_fit(images)
    order = np.arange(len(images)) if order is None else order
    size = min(_BATCH_SIZE, len(order))
    # A file whose operators hold the batch size of 1 fails in a batch, or computes nonsense there.
    batched = _try_batches(content, num_threads, single, images[order[:size]])
    step, model = (1, single) if batched is None else (size, batched)
    whole = len(order) - len(order) % step
    for first in range(0, whole, step):
        yield model.run(images[order[first : first + step]])
    for first in range(whole, len(order)):
        yield single.run(images[order[first : first + 1]])


def _try_batches(
    content: bytes, num_threads: int, single: _Model, images: npt.NDArray[np.float32]
) -> _Model | None:
    """Returns the model for a larger batch if it computes each image as it does alone."""
    if len(images) == 1:
        return None
    try:
        model = _Model(content, num_threads, len(images))
        outputs = model.run(images)
    except (ConversionError, RuntimeError, ValueError):
        return None
    last = single.run(images[-1:])
    same = outputs.shape == (len(images), *last.shape[1:]) and np.allclose(
        outputs[-1:], last, rtol=1e-3, atol=1e-3 * max(float(np.abs(last).max()), 1e-6)
    )
    return model if same else None


class _Model:
    """A file in LiteRT's interpreter, for one batch size."""

    def __init__(self, content: bytes, num_threads: int, batch_size: int) -> None:
        interpreter, _ = litert_interpreter()
        try:
            with native_output.silenced():
                self._interpreter = interpreter(model_content=content, num_threads=num_threads)
                details = self._interpreter.get_input_details()
                if batch_size > 1:
                    shape = [batch_size, *details[0]["shape"][1:]]
                    self._interpreter.resize_tensor_input(details[0]["index"], shape)
                self._interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise ConversionError(f"LiteRT cannot run the file: {error}") from error
        self._inputs = self._interpreter.get_input_details()
        self._output = _first_output(self._interpreter)

    def require_fit(self, images: npt.NDArray[np.float32]) -> None:
        """Raises ConversionError unless the file takes the images."""
        expected = [tuple(int(n) for n in detail["shape"][1:]) for detail in self._inputs]
        if expected != [images.shape[1:]]:
            raise ConversionError(
                f"The images have shape {images.shape}; the file takes inputs of shape {expected}, "
                "without the batch."
            )

    def run(self, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Computes one batch."""
        detail = self._inputs[0]
        self._interpreter.set_tensor(detail["index"], _stored(images, detail))
        self._interpreter.invoke()
        return _meant(self._interpreter.get_tensor(self._output["index"]), self._output)


def _first_output(interpreter: Any) -> Any:
    """Returns the details of "output_00", which need not come first in the file."""
    details = interpreter.get_output_details()
    signatures = interpreter.get_signature_list()
    if len(signatures) != 1 or len(details) == 1:
        return details[0]
    runner = interpreter.get_signature_runner()
    name = runner.get_output_details()[min(runner.get_output_details())]["name"]
    return next(detail for detail in details if detail["name"] == name)


def _stored(values: npt.NDArray[np.float32], detail: Any) -> npt.NDArray[Any]:
    """Returns numbers as a tensor stores them."""
    dtype = np.dtype(detail["dtype"])
    if dtype.kind == "f":
        return values.astype(dtype, copy=False)
    scale, zero_point = detail["quantization"]
    limits = np.iinfo(dtype)
    # An integer that is not quantized stands for itself.
    steps = np.rint(values / (scale or 1.0)) + zero_point
    return np.clip(steps, limits.min, limits.max).astype(dtype)


def _meant(values: npt.NDArray[Any], detail: Any) -> npt.NDArray[np.float32]:
    """Returns the numbers that stored values stand for."""
    scale, zero_point = detail["quantization"]
    if values.dtype.kind == "f" or not scale:
        return values.astype(np.float32, copy=False)
    return typing.cast(
        npt.NDArray[np.float32],
        ((values.astype(np.int32) - zero_point) * scale).astype(np.float32),
    )
