"""Every architecture of keras.applications: pruned, rebuilt, compared, saved, converted."""

from __future__ import annotations

import gc
from typing import Any

import keras
import numpy as np
import pytest

from cprune_tf.graph import analyze, mask, rebuild
from tests.graph.models import choose, random_inputs, relative_error

# The smallest inputs that work, where 32 x 32 does not.
SIZES = {"InceptionV3": 75, "InceptionResNetV2": 75, "Xception": 71}

ALL = sorted(
    name
    for name in dir(keras.applications)
    if name[0].isupper() and callable(getattr(keras.applications, name))
)
# One of each family whose coupling differs, small enough for every run.
REPRESENTATIVE = ["MobileNetV2", "MobileNetV3Small", "EfficientNetV2B0", "ResNet50V2", "VGG16"]


def build(name: str, seed: int = 0) -> Any:
    """Random weights, biases and statistics; logits out, so that differences show."""
    keras.utils.set_random_seed(seed)
    size = SIZES.get(name, 32)
    model = getattr(keras.applications, name)(
        weights=None, input_shape=(size, size, 3), classes=10, classifier_activation=None
    )
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        kind = weight.path.rsplit("/", 1)[-1]
        if kind in ("bias", "beta", "moving_mean"):
            weight.assign(rng.normal(0.0, 0.1, weight.shape))
    return model


def check(name: str, tmp_path: Any, convert: bool) -> None:
    model = build(name)
    graph = analyze(model)
    removal = choose(graph, 0.3)
    assert len(removal) > 0.5 * len(graph.groups)
    small = rebuild(model, removal, fold_constants=False, graph=graph)
    inputs = random_inputs(model)
    assert relative_error(small, mask(model, removal, graph=graph), inputs) < 1e-4
    assert small.count_params() < 0.75 * model.count_params()
    assert {layer.name for layer in small.layers} >= {
        layer.name for layer in model.layers if not isinstance(layer, keras.Model)
    }
    path = tmp_path / "model.keras"
    small.save(path)
    assert relative_error(keras.models.load_model(path), small, inputs) < 1e-6
    if convert:
        _check_converted(small, inputs)


def _check_converted(small: Any, inputs: Any) -> None:
    from ai_edge_litert.interpreter import Interpreter

    from cprune_tf.litert.convert import convert

    interpreter = Interpreter(model_content=convert(small))
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], inputs[:1])
    interpreter.invoke()
    actual = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    expected = np.asarray(small(inputs[:1], training=False))
    assert np.abs(actual - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("name", REPRESENTATIVE)
def test_a_representative_architecture(name: str, tmp_path: Any) -> None:
    check(name, tmp_path, convert=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_every_architecture(name: str, tmp_path: Any) -> None:
    check(name, tmp_path, convert=True)
    keras.backend.clear_session()
    gc.collect()
