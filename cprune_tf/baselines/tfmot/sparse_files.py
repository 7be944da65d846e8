"""A run's result with its zeros left out of the file: size, and latency in LiteRT."""

from __future__ import annotations

import dataclasses
import gzip
import json
import pathlib
from collections.abc import Mapping

import numpy as np

from cprune_tf.baselines.tfmot.errors import TfmotError
from cprune_tf.config import MeasureConfig
from cprune_tf.devices import Device, ModelFile
from cprune_tf.devices.base import TensorSpec
from cprune_tf.devices.latency import Latency
from cprune_tf.runtimes.base import input_specs
from cprune_tf.storage import codec, files

SPARSE_FILE = "sparse.tflite"
_RESULT = "sparse.json"
_FILES = {"original": "original.tflite", "dense": "final.tflite", "sparse": SPARSE_FILE}
_NUM_IMAGES = 16
_LARGEST_PIXEL = 255


@dataclasses.dataclass(frozen=True)
class TfliteFile:
    """One `.tflite` file, timed in turn with the others.

    Attributes:
        path: Relative to the run directory.
        file_bytes: Its size.
        gzip_bytes: Its size when compressed.
        latency: The latency of one call in LiteRT.
    """

    path: str
    file_bytes: int
    gzip_bytes: int
    latency: Latency


@dataclasses.dataclass(frozen=True)
class SparseFiles:
    """What zeros among the weights are worth in a file and in LiteRT.

    Attributes:
        zeros: The fraction (0..1) of zeros among the weights of the kernels that were pruned.
        original: The model before.
        dense: The result; its zeros are stored as other numbers are.
        sparse: The same with TensorFlow's sparse encoding.
        max_relative_error: Largest difference of the outputs of the last two, on random images,
            relative to the largest output.
    """

    zeros: float
    original: TfliteFile
    dense: TfliteFile
    sparse: TfliteFile
    max_relative_error: float


def read_sparse_files(root: pathlib.Path) -> SparseFiles | None:
    """Reads what `write_sparse_files` wrote to a run directory; None if it did not.

    Raises:
        TfmotError: The file is damaged.
    """
    path = root / _RESULT
    if not path.is_file():
        return None
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        return codec.from_fields(SparseFiles, fields, _RESULT)
    except (ValueError, TypeError) as error:
        raise TfmotError(f"{path} cannot be read ({error}); remove it and resume.") from error


def write_sparse_files(
    root: pathlib.Path, device: Device, measure: MeasureConfig, num_threads: int
) -> SparseFiles:
    """Converts a finished run's result with sparse encoding, and times it in turn with the others.

    Args:
        root: The run directory.
        device: The open device.
        measure: How latencies are measured.
        num_threads: Number of threads.

    Returns:
        Sizes and latencies, which are also written to the run directory.

    Raises:
        ConversionError: TensorFlow cannot convert the model.
        DeviceError: LiteRT cannot run it.
    """
    import keras

    from cprune_tf import litert
    from cprune_tf.baselines.tfmot.sparsifier import zeros_of

    model = keras.models.load_model(root / "final.keras", compile=False)
    files.write_bytes(root / SPARSE_FILE, litert.convert(model, sparse=True))
    paths = {name: root / path for name, path in _FILES.items()}
    models = [ModelFile(name, "litert", str(path)) for name, path in paths.items()]
    latencies = device.time_models(models, num_threads, measure)
    written = {
        name: _tflite_file(path, latency)
        for (name, path), latency in zip(paths.items(), latencies, strict=True)
    }
    error = _difference(device, paths, input_specs(model))
    result = SparseFiles(zeros_of(model).fraction, max_relative_error=error, **written)
    files.write_json(root / _RESULT, codec.to_fields(result))
    return result


def _tflite_file(path: pathlib.Path, latency: Latency) -> TfliteFile:
    data = path.read_bytes()
    return TfliteFile(path.name, len(data), len(gzip.compress(data, mtime=0)), latency)


def _difference(
    device: Device, paths: Mapping[str, pathlib.Path], inputs: tuple[TensorSpec, ...]
) -> float:
    """The largest difference of the sparse file's outputs from the dense one's, relative."""
    ((dtype, shape),) = inputs
    images = np.random.default_rng(0).random((_NUM_IMAGES, *shape[1:]), dtype=np.float32)
    if "int" in dtype:
        images *= _LARGEST_PIXEL
    dense, sparse = (
        device.run_model(ModelFile(name, "litert", str(paths[name]), inputs), images)[0]
        for name in ("dense", "sparse")
    )
    return float(np.max(np.abs(sparse - dense)) / (np.max(np.abs(dense)) or 1.0))
