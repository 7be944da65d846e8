"""Loads embedded models and users' model files, including those of Keras 2."""

from __future__ import annotations

import contextlib
import importlib.resources
import json
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any

import h5py
import keras

from cprune_tf.models import keras2
from cprune_tf.models.errors import ModelError

_EMBEDDED = ("resnet8_fashion",)
_SUFFIXES = (".keras", ".h5", ".hdf5")
_EXPECTED = "expected a Keras model saved as .keras or .h5"
_PYTORCH = (
    "a PyTorch file",
    "Rebuild the model with keras.layers, copy its weights (kernels from [out, in, height, width] "
    "to [height, width, in, out]), and save it with model.save('model.keras').",
)
# What else people have, by suffix: what it is, and the way to a file that can be read.
_OTHERS = {
    ".tflite": (
        "a TFLite model",
        "A .tflite file cannot be trained: pass the Keras model that it was converted from.",
    ),
    ".onnx": (
        "an ONNX model",
        "An .onnx file holds no Keras layers: pass the Keras model that it was converted from, or "
        "rebuild the model with keras.layers.",
    ),
    ".pb": (
        "a SavedModel",
        "A SavedModel holds no Keras layers: save the original model with "
        "model.save('model.keras'); or load the SavedModel with tf_keras (pip install tf_keras) "
        "and, if it was made from a Keras model, save it as .h5.",
    ),
    ".json": (
        "a model's config or TensorFlow.js model without its weights",
        "Save the whole model with model.save('model.keras').",
    ),
} | dict.fromkeys((".pt", ".pth", ".ckpt", ".safetensors"), _PYTORCH)


def load_model(
    name_or_path: str | pathlib.Path,
    *,
    custom_objects: Mapping[str, Any] | None = None,
    unsafe_lambda: bool = False,
    compiled: bool = False,
) -> keras.Model:
    """Loads a model for inference or further training.

    Args:
        name_or_path: The name of an embedded model ("resnet8_fashion"), or the path of a `.keras`
            or `.h5` file. Files of Keras 2 must be `.h5` files (see `cprune_tf.models.keras2`).
        custom_objects: Name -> custom layer class or function, for those that the file refers to.
        unsafe_lambda: Whether to run the Python code that Lambda layers keep in the file. It can do
            anything that you can, so allow it only for a file whose maker you trust.
        compiled: Whether the losses and metrics that a file of Keras 3 keeps are loaded too. Where
            they cannot be, e.g. since they are functions of the user's, the model is not compiled.

    Returns:
        A Functional or Sequential model.

    Raises:
        ModelError: There is no such model, the file cannot be read, or it holds something else.
    """
    if str(name_or_path) in _EMBEDDED:
        folder = importlib.resources.files("cprune_tf.models") / "pretrained"
        with importlib.resources.as_file(folder / f"{name_or_path}.keras") as path:
            return _read(path, {}, unsafe_lambda=False)
    path = pathlib.Path(name_or_path).expanduser()
    _check_format(path)
    return _read(path, custom_objects or {}, unsafe_lambda=unsafe_lambda, compiled=compiled)


def _check_format(path: pathlib.Path) -> None:
    """Raises ModelError for paths that Keras cannot load a model from."""
    if not path.exists():
        raise ModelError(
            f"there is no model {str(path)!r}; {_EXPECTED}, or the name of an embedded model "
            f"({', '.join(_EMBEDDED)})."
        )
    if path.is_dir():
        is_saved = any((path / name).exists() for name in ("saved_model.pb", "saved_model.pbtxt"))
        kind, advice = _OTHERS[".pb"] if is_saved else ("a folder", "Name the file in it.")
        raise ModelError(f"{path} is {kind}; {_EXPECTED}. {advice}")
    if path.suffix in _OTHERS:
        kind, advice = _OTHERS[path.suffix]
        raise ModelError(f"{path} is {kind}; {_EXPECTED}. {advice}")
    if path.suffix not in _SUFFIXES:
        raise ModelError(
            f"{path} has the suffix {path.suffix!r}; {_EXPECTED}. Save the model with "
            "model.save('model.keras')."
        )
    if path.suffix != ".keras":
        _check_holds_model(path)
    elif zipfile.is_zipfile(path) and "config.json" not in zipfile.ZipFile(path).namelist():
        raise ModelError(f"{path} is a zip file without a model's config.json; {_EXPECTED}.")


def _check_holds_model(path: pathlib.Path) -> None:
    """Raises ModelError for an HDF5 file without a model's config: one of weights, most often."""
    if not h5py.is_hdf5(path):
        return
    with h5py.File(path) as file:
        if "model_config" in file.attrs:
            return
        names = set(file) | set(file.attrs)
    if names & {"layer_names", "layers", "_layer_checkpoint_dependencies"}:
        kind = "holds weights without a model"
    else:
        kind = "is an HDF5 file without a Keras model"
    raise ModelError(
        f"{path} {kind}; {_EXPECTED}. Build the model in Python, call model.load_weights on this "
        "file, and save it whole with model.save('model.keras')."
    )


def _read(
    path: pathlib.Path,
    custom_objects: Mapping[str, Any],
    *,
    unsafe_lambda: bool,
    compiled: bool = False,
) -> keras.Model:
    try:
        if keras2.is_keras2_file(path):
            model = keras2.read(path, custom_objects, unsafe_lambda=unsafe_lambda)
        else:
            model = _read_keras3(path, custom_objects, not unsafe_lambda, compiled)
    except ModelError as error:
        raise ModelError(f"{path} was saved by Keras 2 and cannot be loaded: {error}") from error
    except Exception as error:  # Keras raises many types of errors for damaged files.
        raise ModelError(f"{path} cannot be loaded: {_explain(path, error)}") from error
    if not isinstance(model, keras.Sequential) and not _is_functional(model):
        raise ModelError(
            f"{path} holds a subclassed model ({type(model).__name__}); expected a Functional or "
            "Sequential model, whose graph is known. Rebuild it as keras.Model(inputs, outputs)."
        )
    return _with_plain_input(model)


def _read_keras3(
    path: pathlib.Path, custom_objects: Mapping[str, Any], safe_mode: bool, compiled: bool
) -> keras.Model:
    arguments = {"custom_objects": custom_objects, "safe_mode": safe_mode}
    if compiled:
        with contextlib.suppress(Exception):  # whatever the classes of losses and metrics raise
            return keras.models.load_model(path, compile=True, **arguments)
    return keras.models.load_model(path, compile=False, **arguments)


def _with_plain_input(model: keras.Model) -> keras.Model:
    """Returns the same model and layers with a plain tensor as its input.

    Keras 2 saved a model's single input as a list of one tensor. Keras 3 warns whenever such a
    model is called with a tensor.
    """
    if isinstance(model, keras.Sequential) or not isinstance(model.input, list):
        return model
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        return model
    return keras.Model(model.inputs[0], model.outputs[0], name=model.name)


def _is_functional(model: keras.Model) -> bool:
    # keras.Model(inputs, outputs) creates an instance of a subclass without a public name. Only
    # that subclass has the attribute `operations`.
    return isinstance(model, keras.Model) and hasattr(model, "operations")


def _explain(path: pathlib.Path, error: Exception) -> str:
    """Says in one line why a file could not be loaded, what was expected and what to do."""
    lines = str(error).strip().splitlines()
    reason = lines[0][:300] if lines else type(error).__name__
    if path.suffix == ".keras" and zipfile.is_zipfile(path):
        version = _keras_version(path)
        if version.startswith("2."):
            return (
                f"it was saved by Keras {version} (tf_keras); expected Keras 3. Load it with "
                "tf_keras and save it as .h5, which can be read here."
            )
    if "objects could not be loaded" in str(error):
        layer = next((line for line in lines if line.startswith("Layer")), "").split(" expected")[0]
        return (
            f"it lacks weights of {layer or 'a layer'}; expected all. Keras does not save a layer "
            "that is called in two places of which one is a wrapper or a nested model. Pass the "
            "model itself to prune, or save cprune_tf.graph.functional_twin(model)."
        )
    if "Python lambda" in str(error):
        return (
            "it has a Lambda layer, which is Python code in the file and would run on this "
            "machine; expected layers. If you trust who made the file, allow it with unsafe_lambda "
            "(config.unsafe_lambda or --unsafe_lambda); or replace the layer, e.g. by Rescaling."
        )
    if "Could not locate class" in str(error) or "Unknown layer" in str(error):
        return (
            f"it has a class that is not Keras' own ({reason}); expected built-in layers or "
            "registered classes. Pass it in custom_objects, or "
            "register it with keras.saving.register_keras_serializable; a subclassed model must "
            "be rebuilt with keras.Model(inputs, outputs)."
        )
    return f"{reason} Expected a Keras model saved as .keras or .h5; was it saved completely?"


def _keras_version(path: pathlib.Path) -> str:
    """Returns the version of Keras that saved a `.keras` file, or "" if the file does not say."""
    with zipfile.ZipFile(path) as file:
        if "metadata.json" not in file.namelist():
            return ""
        return str(json.loads(file.read("metadata.json")).get("keras_version", ""))
