"""Describes a deployed model and writes the folder that is copied to a device."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import typing
from collections.abc import Mapping
from typing import Any

from cprune_tf.config import DataConfig
from cprune_tf.devices import ModelFile
from cprune_tf.runs import RunDirectory
from cprune_tf.runtimes.base import input_specs

if typing.TYPE_CHECKING:
    import keras

_SCRIPT = "deploy_template.py"


@dataclasses.dataclass(frozen=True)
class Deployment:
    """One model, with the files that it is deployed as.

    Attributes:
        name: The deployment's name, e.g. "original" or "pruned".
        keras_model: The Keras model, whose outputs are the reference.
        tvm_library: Path of the model's tuned TVM library.
        tflite: Path of the model's `.tflite` file.
    """

    name: str
    keras_model: keras.Model
    tvm_library: str | os.PathLike[str]
    tflite: str | os.PathLike[str]

    def files(self) -> tuple[ModelFile, ...]:
        """Returns the files that run on the device: the TVM library and the `.tflite` file."""
        inputs = input_specs(self.keras_model)
        return (
            ModelFile(self.name, "tvm", os.fspath(self.tvm_library), inputs),
            ModelFile(self.name, "litert", os.fspath(self.tflite), inputs),
        )


def write_deploy_folder(
    run: RunDirectory, model: keras.Model, data: DataConfig, target: Mapping[str, Any]
) -> None:
    """Writes `deploy/`: the TVM library, the `.tflite` file, metadata and a script that runs both.

    Args:
        run: The run directory, which must hold `final.so` and `final.tflite`.
        model: The Keras model that these files were made from.
        data: How the model's input is preprocessed.
        target: The compiler's target of the library, as JSON types.

    Raises:
        StorageError: If a file cannot be written.
    """
    for name in ("final.so", "final.tflite"):
        run.write_bytes(f"deploy/{name.replace('final', 'model')}", run.path(name).read_bytes())
    metadata = {
        "inputs": [
            {"name": tensor.name, "dtype": str(tensor.dtype), "shape": [1, *tensor.shape[1:]]}
            for tensor in model.inputs
        ],
        "mean": data.mean,
        "std": data.std,
        "target": target,
    }
    run.write_json("deploy/metadata.json", metadata)
    run.write_bytes("deploy/run.py", pathlib.Path(__file__).with_name(_SCRIPT).read_bytes())
