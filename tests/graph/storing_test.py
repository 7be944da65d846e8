"""Models with the user's own functions, classes and losses are rebuilt, saved and loaded."""

from __future__ import annotations

import pathlib
from typing import Any

import keras
import numpy as np
import pytest

from cprune_tf import graph

layers = keras.layers


def _doubled(x: Any) -> Any:
    return 2.0 * x


def _own_loss(y: Any, outputs: Any) -> Any:
    return keras.ops.mean(keras.ops.square(outputs - keras.ops.cast(y, outputs.dtype)))


class _Own(keras.Model):
    """A functional model class whose __init__ says nothing about its arguments."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)

    def train_step(self, data: Any) -> Any:
        return {**super().train_step(data), "own": 1.0}


class _NeedsFactor(_Own):
    def __init__(self, factor: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.factor = factor


class _Shift(layers.Layer):
    def call(self, x: Any) -> Any:
        return x + 1.0


class _Loses(layers.Layer):
    """Saves nothing."""

    def build(self, shape: Any) -> None:
        self.kept = self.add_weight(shape=(5,), initializer="normal", name="kept")

    def call(self, x: Any) -> Any:
        return x * self.kept

    def save_own_variables(self, store: Any) -> None:
        pass

    def load_own_variables(self, store: Any) -> None:
        pass


def _model(middle: Any = None, cls: Any = keras.Model, **arguments: Any) -> Any:
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 3, name="first", activation="relu")(inputs)
    x = layers.Conv2D(5, 3, name="conv")(x)
    x = middle(x) if middle is not None else x
    x = layers.Conv2D(4, 3, name="last")(x)
    outputs = layers.Dense(2, name="head")(layers.GlobalAveragePooling2D()(x))
    return cls(inputs=inputs, outputs=outputs, name="net", **arguments)


def _images() -> Any:
    return np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)


_FACTOR = 3.0
_MIDDLES = {
    "lambda": lambda: layers.Lambda(lambda x: 2.0 * x, name="own"),
    "closure": lambda: layers.Lambda(lambda x: _FACTOR * x, output_shape=(4, 4, 5), name="own"),
    "function": lambda: layers.Lambda(_doubled, name="own"),
    "activation": lambda: layers.Activation(_doubled, name="own"),
    "layer": lambda: _Shift(name="own"),
}


@pytest.mark.parametrize("middle", list(_MIDDLES))
def test_the_users_functions_survive_rebuilding_and_copies(middle: str) -> None:
    from cprune_tf.training.twin import statistics_twin

    model, x = _model(_MIDDLES[middle]()), _images()
    analyzed = graph.analyze(model)
    assert {"first", "last"} <= {group.name for group in analyzed.prunable}
    small = graph.rebuild(model, {"first": [0, 2]}, graph=analyzed)
    masked = graph.mask(model, {"first": [0, 2]})
    assert small.get_layer("first").filters == 4
    np.testing.assert_allclose(small(x), masked(x), rtol=1e-4, atol=1e-5)
    for twin in (graph.functional_twin(model), statistics_twin(model)):
        np.testing.assert_allclose(twin(x), model(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("middle", ["lambda", "function", "activation", "layer"])
def test_the_users_functions_survive_storing(tmp_path: pathlib.Path, middle: str) -> None:
    model = _model(_MIDDLES[middle]())
    graph.check_storable(model)
    graph.stored_form(model).save(tmp_path / "model.keras")
    loaded = graph.load_stored(tmp_path / "model.keras", model)
    np.testing.assert_allclose(loaded(_images()), model(_images()), rtol=1e-5, atol=1e-6)


def test_what_cannot_be_stored_is_refused() -> None:
    shapeless = layers.Lambda(lambda x: _FACTOR * x)  # its code knows no _FACTOR after loading
    with pytest.raises(graph.GraphError, match=r"'net' cannot be saved .* output_shape"):
        graph.check_storable(_model(shapeless))
    with pytest.raises(graph.GraphError, match=r"'net' loses weights .*kept"):
        graph.check_storable(_model(_Loses()))


def test_stored_files_need_no_loss_and_no_class_of_the_user(tmp_path: pathlib.Path) -> None:
    model, x, y = _model(cls=_Own), _images(), np.ones((4, 2), np.float32)
    model.compile("sgd", _own_loss, metrics=[_own_loss])
    model.fit(x, y, verbose=0)
    small = graph.rebuild(model, {"first": [0]})
    graph.stored_form(small).save(tmp_path / "final.keras")
    alone = keras.models.load_model(tmp_path / "final.keras")
    assert not alone.compiled
    np.testing.assert_allclose(alone(x), small(x), rtol=1e-5, atol=1e-6)
    loaded = graph.load_stored(tmp_path / "final.keras", model)
    assert type(loaded) is _Own and loaded.loss is _own_loss
    assert loaded.fit(x, y, verbose=0).history["own"] == [1.0]


def test_a_model_class_with_any_arguments_keeps_its_training() -> None:
    model = _model(cls=_Own)
    model.compile("sgd", "mse")
    small = graph.rebuild(model, {"first": [0]})
    assert type(small) is _Own
    assert small.fit(_images(), np.ones((4, 2)), verbose=0).history["own"] == [1.0]


def test_a_model_class_that_cannot_be_made_again_is_refused() -> None:
    model = _model(cls=_NeedsFactor, factor=2.0)
    with pytest.raises(graph.GraphError, match=r"_NeedsFactor .*train_step.* factor"):
        graph.functional_twin(model)
