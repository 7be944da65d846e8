"""Files as Keras 2 writes them, by hand: configs in its notation, weights in its layout."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import h5py
import numpy as np

Config = dict[str, Any]


def weights(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).normal(0, 0.4, shape).astype(np.float32)


def layer(
    kind: str, name: str, inbound: Any = None, *, dtype: Any = "float32", **config: Any
) -> Config:
    """A layer of a functional model; `inbound` are its inbound_nodes, or the name of one input."""
    if isinstance(inbound, str):
        inbound = [[[inbound, 0, 0, {}]]]
    common = {"name": name, "trainable": True, "dtype": dtype}
    return {
        "class_name": kind,
        "config": {**common, **config},
        "name": name,
        "inbound_nodes": inbound or [],
    }


def image(name: str, *shape: int) -> Config:
    return {
        "class_name": "InputLayer",
        "config": {
            "batch_input_shape": [None, *shape],
            "dtype": "float32",
            "sparse": False,
            "ragged": False,
            "name": name,
        },
        "name": name,
        "inbound_nodes": [],
    }


def conv(name: str, inbound: Any, filters: int, size: int = 3, **config: Any) -> Config:
    return layer(
        "Conv2D", name, inbound, filters=filters, kernel_size=[size, size], strides=[1, 1],
        padding="same", data_format="channels_last", dilation_rate=[1, 1], groups=1,
        **{"activation": "linear", "use_bias": True, **_initializers(), **config},
    )  # fmt: skip


def _initializers() -> Config:
    # As TensorFlow 1.x wrote them, with a dtype that Keras 3 does not take.
    return {
        "kernel_initializer": {
            "class_name": "GlorotUniform",
            "config": {"seed": None, "dtype": "float32"},
        },
        "bias_initializer": {"class_name": "Zeros", "config": {"dtype": "float32"}},
        "kernel_regularizer": None,
        "activity_regularizer": None,
    }


def functional(
    name: str, layers: Sequence[Config], inputs: Any, outputs: Any, kind: str = "Functional"
) -> Config:
    return {
        "class_name": kind,
        "config": {
            "name": name,
            "layers": list(layers),
            "input_layers": [[one, 0, 0] for one in inputs],
            "output_layers": [one if isinstance(one, list) else [one, 0, 0] for one in outputs],
        },
        "name": name,
    }


def sequential(name: str, layers: Sequence[Config], module: str | None = None) -> Config:
    """A Sequential; with a module, its layers are written as inside another model by tf_keras."""
    plain = [
        {k: v for k, v in one.items() if k in ("class_name", "config")}
        | ({"module": module, "registered_name": one["class_name"]} if module else {})
        for one in layers
    ]
    return {"class_name": "Sequential", "config": {"name": name, "layers": plain}, "name": name}


def write(
    path: pathlib.Path,
    model: Config,
    arrays: Mapping[str, Mapping[str, np.ndarray]],
    version: str = "2.15.0",
) -> pathlib.Path:
    """Writes a file; `arrays` are the weights by layer of the outermost model and own name."""
    with h5py.File(path, "w") as file:
        file.attrs["keras_version"] = version
        file.attrs["backend"] = "tensorflow"
        file.attrs["model_config"] = json.dumps(model)
        group = file.create_group("model_weights")
        layers = model["config"]["layers"]
        names = [one.get("name") or one["config"]["name"] for one in layers]
        group.attrs["layer_names"] = [name.encode() for name in names]
        for name in names:
            saved = arrays.get(name, {})
            inner = group.create_group(name)
            inner.attrs["weight_names"] = [f"{key}:0".encode() for key in saved]
            for key, value in saved.items():
                inner.create_dataset(f"{key}:0", data=value)
    return path
