"""Describes a deployed model and writes the folder that is copied to a device."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from cprune_tf.config import DataConfig
from cprune_tf.data.interface import interface_of
from cprune_tf.devices import ModelFile
from cprune_tf.runs import RunDirectory
from cprune_tf.runs.results import file_label
from cprune_tf.runtimes.base import input_specs

if typing.TYPE_CHECKING:
    import keras

_SCRIPT = "deploy_template.py"


@dataclasses.dataclass(frozen=True)
class DeployedFile:
    """One file of a deployment.

    Attributes:
        label: See `runs.results.file_label`.
        precision: The dtype in which the file stores weights.
        file: The file, as a device runs it.
        num_threads: The number of threads that the file was made for; None if it takes any.
    """

    label: str
    precision: str
    file: ModelFile
    num_threads: int | None = None


@dataclasses.dataclass(frozen=True)
class Deployment:
    """One model, with the files that it is deployed as.

    Attributes:
        name: The deployment's name, e.g. "original" or "pruned".
        keras_model: The Keras model, whose outputs are the reference.
        tvm_library: Path of the model's tuned TVM library; None if the run was not for TVM.
        tflite: Path of the model's `.tflite` file.
        precision: The precision of the `.tflite` file.
        weights: The dtype in which the TVM library stores weights.
        others: (precision, path) of further `.tflite` files, which are compared but not deployed.
        num_threads: The number of threads that the TVM library was made for; None if that is
            unknown, so that it is timed with any.
        further_libraries: (number of threads, path) of TVM libraries that were made for others.
    """

    name: str
    keras_model: keras.Model
    tvm_library: str | os.PathLike[str] | None
    tflite: str | os.PathLike[str]
    precision: str = "float32"
    weights: str = "float32"
    others: tuple[tuple[str, str | os.PathLike[str]], ...] = ()
    num_threads: int | None = None
    further_libraries: tuple[tuple[int, str | os.PathLike[str]], ...] = ()

    def files(self) -> tuple[ModelFile, ...]:
        """Returns the first TVM library, if any, and the `.tflite`."""
        known = (("tvm", self.tvm_library), ("litert", self.tflite))
        return tuple(self._file(name, path) for name, path in known if path is not None)

    def compared_files(self) -> tuple[DeployedFile, ...]:
        """Returns the files to deploy, and those that are compared with them."""
        libraries = [] if self.tvm_library is None else [(0, self.num_threads, self.tvm_library)]
        libraries += [(count, count, path) for count, path in self.further_libraries]
        tflites = ((self.precision, self.tflite), *self.others)
        return (
            *(
                DeployedFile(
                    file_label("tvm", self.weights, further),
                    self.weights,
                    self._file("tvm", path),
                    made_for,
                )
                for further, made_for, path in libraries
            ),
            *(
                DeployedFile(file_label("litert", precision), precision, self._file("litert", path))
                for precision, path in tflites
            ),
        )

    def _file(self, runtime: str, path: str | os.PathLike[str]) -> ModelFile:
        return ModelFile(self.name, runtime, os.fspath(path), input_specs(self.keras_model))


def further_name(path: str | os.PathLike[str], num_threads: int) -> str:
    """Returns the name of a library for a further number of threads, e.g. "final_4_threads.so".

    Args:
        path: The library for the first number of threads.
        num_threads: The number of threads.
    """
    first = pathlib.Path(path)
    return f"{first.stem}_{num_threads}_threads{first.suffix}"


def write_deploy_folder(
    run: RunDirectory,
    deployment: Deployment,
    data: DataConfig | None,
    target: Mapping[str, Any] | None,
    class_names: Sequence[str] = (),
) -> None:
    """Writes `deploy/`: the deployment's files, metadata, labels and a script that runs them.

    `metadata.json` says for which number of threads each TVM library was made.

    Args:
        run: The run directory.
        deployment: The result, whose files exist.
        data: How the model's input is preprocessed; None if the caller does that.
        target: The compiler's target of the library, as JSON types; None without a library.
        class_names: One for each class, written to `labels.txt`; empty where they are unknown.

    Raises:
        StorageError: If a file cannot be written.
    """
    for file in deployment.files():
        path = pathlib.Path(file.path)
        run.write_bytes(f"deploy/model{path.suffix}", path.read_bytes())
    libraries = {} if deployment.tvm_library is None else {"model.so": deployment.num_threads}
    for count, further in deployment.further_libraries:
        name = further_name("model.so", count)
        libraries[name] = count
        run.write_bytes(f"deploy/{name}", pathlib.Path(further).read_bytes())
    metadata = {
        "inputs": [
            {"name": tensor.name, "dtype": str(tensor.dtype), "shape": [1, *tensor.shape[1:]]}
            for tensor in deployment.keras_model.inputs
        ],
        "outputs": [
            {"name": port.name, "dtype": port.dtype, "shape": [1, *port.shape]}
            for port in interface_of(deployment.keras_model).outputs
        ],
        **({} if data is None else {"mean": data.mean, "std": data.std}),
        "class_names": class_names,
        **({} if target is None else {"target": target}),
    }
    if libraries:
        metadata["libraries"] = [
            {"file": name, "num_threads": count} for name, count in libraries.items()
        ]
    run.write_json("deploy/metadata.json", metadata)
    if class_names:
        run.write_bytes("deploy/labels.txt", "".join(f"{name}\n" for name in class_names).encode())
    run.write_bytes("deploy/run.py", pathlib.Path(__file__).with_name(_SCRIPT).read_bytes())
