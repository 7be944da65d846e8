"""Loads embedded models and users' model files, including those of Keras 2."""

from __future__ import annotations

import importlib.resources
import json
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any

import keras

from cprune_tf.errors import UserError

_EMBEDDED = ("resnet8_fashion",)


class ModelError(UserError, ValueError):
    """A model cannot be used. The message says what was received and expected, and what to do."""


class _Keras2DepthwiseConv2D(keras.layers.DepthwiseConv2D):
    """Reads the layer's Keras 2 configs, whose argument `groups` does not exist in Keras 3."""

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> keras.layers.DepthwiseConv2D:
        """Creates a plain DepthwiseConv2D, so that no layer of the model has this class."""
        config = dict(config)
        groups = config.pop("groups", 1)
        if groups != 1:
            raise ModelError(
                f"layer {config.get('name')!r}: DepthwiseConv2D with groups={groups}; expected 1, "
                "since Keras 3 supports no other number. Rebuild the model without such groups."
            )
        return keras.layers.DepthwiseConv2D.from_config(config)


def load_model(
    name_or_path: str | pathlib.Path, *, custom_objects: Mapping[str, Any] | None = None
) -> keras.Model:
    """Loads a model for inference or further training, uncompiled.

    Args:
        name_or_path: The name of an embedded model ("resnet8_fashion"), or the path of a `.keras`
            or `.h5` file. Files of Keras 2 must be `.h5` files.
        custom_objects: Name -> custom layer class or function, for those that the file refers to.

    Returns:
        A Functional or Sequential model.

    Raises:
        ModelError: There is no such model, the file cannot be read, or it holds something else.
    """
    if str(name_or_path) in _EMBEDDED:
        folder = importlib.resources.files("cprune_tf.models") / "pretrained"
        with importlib.resources.as_file(folder / f"{name_or_path}.keras") as path:
            return _read(path, {})
    path = pathlib.Path(name_or_path).expanduser()
    _check_format(path)
    return _read(path, custom_objects or {})


def _check_format(path: pathlib.Path) -> None:
    """Raises ModelError for paths that Keras cannot load a model from."""
    expected = "expected a Keras model saved as .keras or .h5"
    if not path.exists():
        raise ModelError(
            f"there is no model {str(path)!r}; {expected}, or the name of an embedded model "
            f"({', '.join(_EMBEDDED)})."
        )
    if path.is_dir():
        kind = "a SavedModel" if (path / "saved_model.pb").exists() else "a folder"
        raise ModelError(
            f"{path} is {kind}; {expected}. A SavedModel holds no Keras layers: save the "
            "original model with model.save('model.keras')."
        )
    if path.suffix == ".tflite":
        raise ModelError(
            f"{path} is a TFLite model; {expected}. A .tflite file cannot be trained: pass the "
            "Keras model that it was converted from."
        )
    if path.suffix not in (".keras", ".h5", ".hdf5"):
        raise ModelError(
            f"{path} has the suffix {path.suffix!r}; {expected}. Save the model with "
            "model.save('model.keras')."
        )


def _read(path: pathlib.Path, custom_objects: Mapping[str, Any]) -> keras.Model:
    objects = {"DepthwiseConv2D": _Keras2DepthwiseConv2D, **custom_objects}
    try:
        model = keras.models.load_model(path, custom_objects=objects, compile=False)
    except ModelError:
        raise
    except Exception as error:  # Keras raises many types of errors for damaged files.
        raise ModelError(f"{path} cannot be loaded: {_explain(path, error)}") from error
    if not isinstance(model, keras.Sequential) and not _is_functional(model):
        raise ModelError(
            f"{path} holds a subclassed model ({type(model).__name__}); expected a Functional or "
            "Sequential model, whose graph is known. Rebuild it as keras.Model(inputs, outputs)."
        )
    return _with_plain_input(model)


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
