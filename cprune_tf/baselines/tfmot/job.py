"""What the parent hands to the child: a folder with the job, and batches through a pipe.

The child reads this file with TensorFlow's Keras 2; so it needs NumPy only.
"""

from __future__ import annotations

import dataclasses
import pathlib
import struct
from collections.abc import Sequence
from typing import IO, Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

JOB = "job.json"
WEIGHTS = "weights.npz"
PROBES = "probes.npz"
RATES = "rates.npy"
TRAINED = "trained.npz"

# The child's exit status where the last line of its log is a sentence for the user.
REFUSED = 3

_HEADER = struct.Struct("<I")


class TruncatedError(RuntimeError):
    """The pipe ended within a batch, or too early: the parent is gone."""


@dataclasses.dataclass(frozen=True)
class TrainingJob:
    """How the child trains; the parent decides all of it.

    Attributes:
        pattern: "unstructured", or "2:4": two of four successive input channels are zero.
        sparsity: The fraction (0..1) of each kernel's weights that are zero in the end, if the
            pattern is unstructured.
        end_step: The step at which that is reached; it rises from 0 at step 0.
        frequency: The zeros are chosen anew every so many steps up to then.
        num_steps: Number of batches; 0: the model is only built and compared.
        num_classes: Number of the model's outputs.
        gives_probabilities: Whether the model ends in a softmax.
        momentum: SGD's.
        weight_decay: Decoupled, on kernels.
        label_smoothing: How much (0..1) of each label is spread over all classes.
        seed: Of dropout.
    """

    pattern: str
    sparsity: float
    end_step: int
    frequency: int
    num_steps: int
    num_classes: int
    gives_probabilities: bool
    momentum: float
    weight_decay: float
    label_smoothing: float
    seed: int


def write_weights(path: pathlib.Path, weights: Sequence[Sequence[Array]]) -> None:
    """Writes the weights of all layers, each layer's in Keras' order."""
    arrays = {f"{i}/{j}": array for i, layer in enumerate(weights) for j, array in enumerate(layer)}
    np.savez(path, **arrays)  # type: ignore[arg-type]  # keyword arguments are arrays here


def read_weights(path: pathlib.Path, num_layers: int) -> list[list[Array]]:
    """Reads what `write_weights` wrote."""
    weights: list[list[Array]] = [[] for _ in range(num_layers)]
    with np.load(path) as arrays:
        for key in sorted(arrays.files, key=lambda key: tuple(map(int, key.split("/")))):
            weights[int(key.split("/")[0])].append(arrays[key])
    return weights


def write_batch(stream: IO[bytes], images: Array, labels: Array) -> None:
    """Writes one batch.

    Args:
        stream: The pipe.
        images: [n, height, width, channels].
        labels: [n] integers.
    """
    stream.write(_HEADER.pack(len(labels)))
    stream.write(np.ascontiguousarray(images, "<f4").tobytes())
    stream.write(np.ascontiguousarray(labels, "<i4").tobytes())
    stream.flush()


def read_batch(stream: IO[bytes], shape: Sequence[int]) -> tuple[Array, Array]:
    """Reads one batch.

    Args:
        stream: The pipe.
        shape: (height, width, channels) of an image.

    Returns:
        float32 images [n, height, width, channels] and int32 labels [n].

    Raises:
        TruncatedError: The pipe ended.
    """
    (count,) = _HEADER.unpack(_read(stream, _HEADER.size))
    size = int(np.prod(shape))
    images = np.frombuffer(_read(stream, 4 * count * size), "<f4").reshape(count, *shape)
    return images, np.frombuffer(_read(stream, 4 * count), "<i4")


def _read(stream: IO[bytes], size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise TruncatedError("the batches ended too early; the parent process is gone.")
    return data
