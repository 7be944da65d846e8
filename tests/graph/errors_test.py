"""What cannot work is refused, or protected, with a text that says what to do."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from cprune_tf.graph import GraphError, analyze, mask, rebuild
from tests.graph.models import choose, functional, random_inputs, relative_error

layers = keras.layers


class Subclassed(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.dense = layers.Dense(2)

    def call(self, inputs: Any) -> Any:
        return tf.identity(self.dense(inputs))


class Overriding(keras.Model):
    def call(self, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        return super().call(inputs) * 2


def _overriding() -> Any:
    inputs = keras.Input((4,))
    return Overriding(inputs, layers.Dense(2)(inputs))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Subclassed, "subclassed model.*functional API"),
        (_overriding, "overrides call"),
        (lambda: keras.Sequential([layers.Dense(2)]), "has not been built.*keras.Input"),
        (lambda: layers.Dense(2), "Received Dense; expected a keras.Model"),
        (lambda: "model.keras", "Received str"),
    ],
)
def test_models_without_a_graph(make: Any, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        analyze(make())


def test_a_keras_2_model_is_recognised() -> None:
    # tf_keras itself would switch the whole process to Keras 2, so its module name must do.
    legacy = type("Model", (), {"__module__": "tf_keras.src.engine.training"})
    with pytest.raises(GraphError, match=r"Keras 2 model.*expected Keras 3"):
        analyze(legacy())


def test_a_subclassed_model_inside_protects_what_it_touches() -> None:
    inner = Subclassed()
    model = functional((8,), lambda x: layers.Dense(2)(inner(layers.Dense(6, name="before")(x))))
    reason = analyze(model).group_of("before").protected
    assert reason is not None and "Subclassed" in reason and "docs/extending.md" in reason


@pytest.mark.parametrize("protect", [["head*"], ["backbone/*"], ["*"]])
def test_user_patterns_protect(protect: list[str]) -> None:
    backbone = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Conv2D(6, 3, name="stem")], name="backbone"
    )
    model = functional(
        (8, 8, 3),
        lambda x: layers.Dense(2)(
            layers.Flatten()(layers.Conv2D(5, 3, name="head_conv")(backbone(x)))
        ),
    )
    graph = analyze(model, protect)
    expected = {"head*": {"head_conv"}, "backbone/*": {"stem"}, "*": {"stem", "head_conv"}}
    found = {
        g.name for g in graph.groups if g.protected == f"matches the protect pattern '{protect[0]}'"
    }
    assert found == expected[protect[0]]


def test_a_pattern_that_matches_nothing_is_an_error() -> None:
    model = functional((8, 8, 3), lambda x: layers.Conv2D(2, 3, name="only")(x))
    with pytest.raises(GraphError, match=r"matches no layer.*only"):
        analyze(model, ["hed*"])
    with pytest.raises(GraphError, match="expected a sequence"):
        analyze(model, "only")


def test_dynamic_sizes() -> None:
    """Unknown height and width are no obstacle; an unknown channel count protects."""

    def build(x: Any) -> Any:
        x = layers.Conv2D(8, 3, name="conv")(x)
        return layers.Dense(2)(layers.GlobalAveragePooling2D()(layers.BatchNormalization()(x)))

    model = functional((None, None, 3), build)
    removal = choose(analyze(model))
    assert removal
    small = rebuild(model, removal, fold_constants=False)
    assert relative_error(small, mask(model, removal), random_inputs(model)) < 1e-5

    inputs = keras.Input((None, None))
    model = keras.Model(inputs, keras.ops.relu(inputs))
    assert analyze(model).groups == ()


def test_nan_weights_survive_a_rebuild_in_their_place() -> None:
    model = functional((8, 8, 3), lambda x: layers.Dense(2)(layers.Conv2D(6, 3, name="conv")(x)))
    kernel = np.asarray(model.get_layer("conv").kernel).copy()
    kernel[..., 3] = np.nan
    model.get_layer("conv").kernel.assign(kernel)
    small = rebuild(model, {"conv": [0]}, fold_constants=False)
    found = np.isnan(np.asarray(small.get_layer("conv").kernel)).all(axis=(0, 1, 2))
    assert found.tolist() == [False, False, True, False, False]


def test_unknown_names_suggest_near_ones() -> None:
    model = functional((8, 8, 3), lambda x: layers.Conv2D(2, 3, name="conv")(x))
    graph = analyze(model)
    with pytest.raises(KeyError, match="did you mean conv"):
        graph.group_of("cnv")
    with pytest.raises(KeyError, match="did you mean conv"):
        graph["cnv"]


def test_a_concatenation_has_several_groups() -> None:
    def build(x: Any) -> Any:
        a, b = layers.Conv2D(3, 1, name="a")(x), layers.Conv2D(4, 1, name="b")(x)
        return layers.Conv2D(2, 1)(layers.Concatenate(name="both")([a, b]))

    with pytest.raises(KeyError, match="several channel groups: a, b"):
        analyze(functional((8, 8, 3), build)).group_of("both")


def test_a_graph_of_another_model_is_refused() -> None:
    build = lambda x: layers.Conv2D(2, 3)(layers.Conv2D(4, 3, name="conv")(x))  # noqa: E731
    model, other = functional((8, 8, 3), build), functional((8, 8, 3), build)
    with pytest.raises(ValueError, match="another model"):
        rebuild(model, {"conv": [0]}, graph=analyze(other))


def test_layers_with_lora_weights_are_protected() -> None:
    model = functional((6,), lambda x: layers.Dense(2)(layers.Dense(8, name="dense")(x)))
    model.get_layer("dense").enable_lora(2)
    assert not analyze(model).prunable
