"""Builds every architecture of keras.applications at a small size, and checks it after pruning.

The slow zoo test and `benchmarks/graph.py` share this module, so the table in the docs shows the
values that the test asserts.
"""

from __future__ import annotations

import dataclasses
import pathlib
import tempfile
from typing import Any

import keras
import numpy as np

from cprune_tf import graph as graphs
from cprune_tf import native_output

FRACTION = 0.3
# The smallest input sizes of architectures that do not work with 32 x 32.
_SIZES = {"InceptionV3": 75, "InceptionResNetV2": 75, "Xception": 71}


@dataclasses.dataclass(frozen=True)
class Checks:
    """The results of pruning and checking one architecture.

    Attributes:
        groups: Number of channel groups.
        prunable_groups: Number of groups that are not protected.
        units: Number of units of all groups.
        prunable_units: Number of units of the prunable groups.
        protected: Why groups are protected, by group name.
        params: Number of values in the original's weights.
        params_pruned: Number of values in the rebuilt model's weights.
        lost_layers: Names of layers that the rebuilt model lacks.
        masked_error: Largest difference between the outputs of the rebuilt model and the masked
            original, relative to the largest output.
        loaded_error: The same error between the saved and loaded rebuilt model and the rebuilt
            model itself.
        tflite_error: The same error between the rebuilt model run by LiteRT and the rebuilt model
            itself; NaN if it was not converted.
    """

    groups: int
    prunable_groups: int
    units: int
    prunable_units: int
    protected: dict[str, str]
    params: int
    params_pruned: int
    lost_layers: list[str]
    masked_error: float
    loaded_error: float
    tflite_error: float


def names() -> list[str]:
    """Returns the names of all architectures."""
    members = vars(keras.applications).items()
    return sorted(name for name, value in members if name[0].isupper() and callable(value))


def build(name: str) -> Any:
    """Builds an architecture with random weights that returns logits."""
    keras.utils.set_random_seed(0)
    size = _SIZES.get(name, 32)
    return getattr(keras.applications, name)(
        weights=None, input_shape=(size, size, 3), classes=10, classifier_activation=None
    )


def randomise(model: Any) -> None:
    """Sets biases and means to random values, so that mixing them up shows."""
    rng = np.random.default_rng(0)
    for weight in model.weights:
        if weight.path.rsplit("/", 1)[-1] in ("bias", "beta", "moving_mean"):
            weight.assign(rng.normal(0.0, 0.1, weight.shape))


def random_removal(graph: graphs.ChannelGraph) -> dict[str, list[int]]:
    """Draws FRACTION of the units of every prunable group, at least one unit."""
    rng = np.random.default_rng(0)
    counts = {
        g.name: (g.num_channels, max(1, int(g.num_channels * FRACTION))) for g in graph.prunable
    }
    return {
        name: sorted(rng.choice(units, count, replace=False).tolist())
        for name, (units, count) in counts.items()
    }


def check(name: str, *, convert: bool = True) -> Checks:
    """Prunes an architecture and compares the result with the models it must equal.

    Args:
        name: The architecture's name in keras.applications.
        convert: Whether to convert the rebuilt model to TFLite, too.

    Returns:
        The results of the checks.
    """
    small, checks = check_model(build(name))
    if convert:
        checks = dataclasses.replace(checks, tflite_error=tflite_error(small))
    return checks


def check_model(model: Any) -> tuple[Any, Checks]:
    """Prunes a model and compares the result with the models it must equal.

    Args:
        model: A model with random weights, one input and one output; its biases and means change.

    Returns:
        The rebuilt model, and the results of the checks but that of TFLite.
    """
    randomise(model)
    graph = graphs.analyze(model)
    removal = random_removal(graph)
    small = graphs.rebuild(model, removal, fold_constants=False, graph=graph)
    inputs = _inputs(model)
    outputs = _outputs(small, inputs)
    checks = Checks(
        groups=len(graph.groups),
        prunable_groups=len(graph.prunable),
        units=sum(g.num_channels for g in graph.groups),
        prunable_units=sum(g.num_channels for g in graph.prunable),
        protected={g.name: g.protected for g in graph.groups if g.protected},
        params=model.count_params(),
        params_pruned=small.count_params(),
        lost_layers=sorted({x.name for x in model.layers} - {x.name for x in small.layers}),
        masked_error=_error(outputs, _outputs(graphs.mask(model, removal, graph=graph), inputs)),
        loaded_error=_error(_outputs(_saved_and_loaded(small), inputs), outputs),
        tflite_error=float("nan"),
    )
    return small, checks


def tflite_error(model: Any) -> float:
    """The error of a model run by LiteRT, as in `Checks`."""
    inputs = _inputs(model)
    return _error(_by_tflite(model, inputs), _outputs(model, inputs))


def _inputs(model: Any) -> Any:
    return np.random.default_rng(0).normal(size=(2, *model.input_shape[1:])).astype("float32")


def _outputs(model: Any, inputs: Any) -> Any:
    return np.asarray(model(inputs, training=False))


def _error(actual: Any, expected: Any) -> float:
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


def _saved_and_loaded(model: Any) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.keras"
        model.save(path)
        return graphs.load_stored(path, model)


def _by_tflite(model: Any, inputs: Any) -> Any:
    """Converts a model to TFLite and returns its outputs by LiteRT.

    The traced function is frozen and converted. Converting through a SavedModel, as
    `cprune_tf.litert.convert` does for the names of inputs and outputs, takes twice as long.
    """
    import tensorflow as tf
    from ai_edge_litert.interpreter import Interpreter
    from tensorflow.python.framework import convert_to_constants

    with native_output.silenced():
        specification = tf.TensorSpec(inputs.shape, tf.float32)
        traced = tf.function(lambda x: model(x, training=False), input_signature=[specification])
        frozen = convert_to_constants.convert_variables_to_constants_v2(
            traced.get_concrete_function()
        )
        content = tf.lite.TFLiteConverter.from_concrete_functions([frozen]).convert()
        interpreter = Interpreter(model_content=content)
        interpreter.allocate_tensors()
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], inputs)
        interpreter.invoke()
        return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
