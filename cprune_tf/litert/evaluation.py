"""Outputs and accuracy of `.tflite` files on this machine, through LiteRT's interpreter."""

from __future__ import annotations

import os
import typing
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cprune_tf import native_output
from cprune_tf.accuracy import RANKS, Hits
from cprune_tf.devices.agent.runtimes import details_in_order, litert_interpreter
from cprune_tf.devices.input_types import to_type
from cprune_tf.litert.conversion import Images
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
    for outputs, *_ in run(content, images, order=order, num_threads=num_threads):
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


def outputs_of_file(
    content: bytes, inputs: Images, *, num_threads: int = 0
) -> list[npt.NDArray[Any]]:
    """Computes all outputs of a file for all samples.

    Args:
        content: As for `run`.
        inputs: As for `run`.
        num_threads: As for `run`.

    Returns:
        One array for each output, in the Keras model's order, [num_samples, ...].

    Raises:
        ConversionError: See `run`.
    """
    batches = run(content, inputs, num_threads=num_threads)
    return [np.concatenate(parts) for parts in zip(*batches, strict=True)]


def run(
    content: bytes,
    inputs: Images,
    *,
    order: npt.NDArray[np.integer[Any]] | None = None,
    num_threads: int = 0,
) -> Iterator[list[npt.NDArray[Any]]]:
    """Computes all outputs of a file, in batches where the file allows them.

    Args:
        content: The content of a file.
        inputs: [num_samples, ...], as the Keras model takes it: one array for each input, in the
            model's order, or the only one.
        order: The numbers of the samples to compute; None: all, as they are.
        num_threads: Number of threads; 0: all cores.

    Yields:
        One array for each output, in the model's order: [samples in the batch, ...]. What the file
        stores as int8 is float32 here, by the file's scale.

    Raises:
        ConversionError: The file cannot be run, or the inputs do not fit it.
    """
    arrays = [inputs] if isinstance(inputs, np.ndarray) else list(inputs)
    num_threads = num_threads or os.cpu_count() or 1
    single = _Model(content, num_threads, 1)
    single.require_fit(arrays)
    order = np.arange(len(arrays[0])) if order is None else order
    size = min(_BATCH_SIZE, len(order))
    # A file whose operators hold the batch size of 1 fails in a batch, or computes nonsense there.
    batched = _try_batches(content, num_threads, single, _taken(arrays, order[:size]))
    step, model = (1, single) if batched is None else (size, batched)
    whole = len(order) - len(order) % step
    for first in range(0, whole, step):
        yield model.run(_taken(arrays, order[first : first + step]))
    for first in range(whole, len(order)):
        yield single.run(_taken(arrays, order[first : first + 1]))


def _taken(
    arrays: Sequence[npt.NDArray[Any]], numbers: npt.NDArray[np.integer[Any]]
) -> list[npt.NDArray[Any]]:
    return [array[numbers] for array in arrays]


def _try_batches(
    content: bytes, num_threads: int, single: _Model, inputs: Sequence[npt.NDArray[Any]]
) -> _Model | None:
    """Returns the model for a larger batch if it computes each sample as it does alone."""
    count = len(inputs[0])
    if count == 1:
        return None
    try:
        model = _Model(content, num_threads, count)
        outputs = model.run(inputs)
    except (ConversionError, RuntimeError, ValueError):
        return None
    last = single.run([array[-1:] for array in inputs])
    same = all(
        many.shape == (count, *one.shape[1:])
        and np.allclose(many[-1:], one, rtol=1e-3, atol=1e-3 * max(float(np.abs(one).max()), 1e-6))
        for many, one in zip(outputs, last, strict=True)
    )
    return model if same else None


class _Model:
    """A file in LiteRT's interpreter, for one batch size."""

    def __init__(self, content: bytes, num_threads: int, batch_size: int) -> None:
        interpreter, _ = litert_interpreter()
        try:
            with native_output.silenced():
                self._interpreter = interpreter(model_content=content, num_threads=num_threads)
                if batch_size > 1:
                    for detail in self._interpreter.get_input_details():
                        shape = [batch_size, *detail["shape"][1:]]
                        self._interpreter.resize_tensor_input(detail["index"], shape)
                self._interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise ConversionError(f"LiteRT cannot run the file: {error}") from error
        self._inputs, self._outputs = details_in_order(self._interpreter)

    def require_fit(self, inputs: Sequence[npt.NDArray[Any]]) -> None:
        """Raises ConversionError unless the file takes the inputs."""
        expected = [tuple(int(n) for n in detail["shape"][1:]) for detail in self._inputs]
        if expected != [array.shape[1:] for array in inputs]:
            raise ConversionError(
                f"The images have shape {', '.join(str(array.shape) for array in inputs)}; the "
                f"file takes inputs of shape {expected}, without the batch."
            )

    def run(self, inputs: Sequence[npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        """Computes one batch."""
        for detail, values in zip(self._inputs, inputs, strict=True):
            self._interpreter.set_tensor(detail["index"], _stored(values, detail))
        self._interpreter.invoke()
        return [
            _meant(self._interpreter.get_tensor(detail["index"]), detail)
            for detail in self._outputs
        ]


def _stored(values: npt.NDArray[Any], detail: Any) -> npt.NDArray[Any]:
    """Returns numbers as a tensor stores them."""
    dtype = np.dtype(detail["dtype"])
    scale, zero_point = detail["quantization"]
    if dtype.kind in "iu" and scale:
        values = np.rint(values / scale) + zero_point
    return to_type(values, dtype)


def _meant(values: npt.NDArray[Any], detail: Any) -> npt.NDArray[Any]:
    """Returns the numbers that stored values stand for: float32, unless they are whole numbers."""
    scale, zero_point = detail["quantization"]
    if values.dtype.kind == "f":
        return values.astype(np.float32, copy=False)
    if not scale:
        return values
    return typing.cast(
        npt.NDArray[np.float32],
        ((values.astype(np.int32) - zero_point) * scale).astype(np.float32),
    )
