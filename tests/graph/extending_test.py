"""The documentation's own example runs, and what it promises about unknown layers holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import pytest
import tensorflow as tf

from cprune_tf.graph import Effect, GraphError, Weight, analyze, mask, rebuild, register_rule
from cprune_tf.graph.rules import REGISTRY
from tests.docs_examples import run_section
from tests.graph.models import functional, random_inputs, relative_error

layers = keras.layers


@pytest.fixture
def example() -> Iterator[dict[str, Any]]:
    names = run_section("extending.md", "Adding a layer rule")
    yield names
    REGISTRY.unregister(names["ChannelScale"])
    REGISTRY.unregister(names["Quadratic"])


def test_the_page_runs_and_its_models_save(example: dict[str, Any], tmp_path: Any) -> None:
    small = example["small"]
    assert small.get_layer("conv").filters == 6
    assert small.get_layer("scale").factor.shape == (6,)
    small.save(tmp_path / "small.keras")
    keras.models.load_model(tmp_path / "small.keras")


class Doubling(layers.Layer):
    """Cannot be followed inside, because its function is none of Keras's."""

    def call(self, inputs: Any) -> Any:
        return tf.multiply(inputs, 2.0)


class Factor(layers.Layer):
    def build(self, input_shape: Any) -> None:
        self.factor = self.add_weight(shape=(input_shape[-1],), name="factor")

    def call(self, inputs: Any) -> Any:
        return inputs * self.factor


class Block(layers.Layer):
    """Holds layers that were given no names, so Keras numbers them anew in every copy."""

    def __init__(self, filters: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.filters = filters
        self.inner = [layers.Conv2D(filters, 3), layers.Conv2D(filters, 1, use_bias=False)]

    def build(self, input_shape: Any) -> None:
        for layer in self.inner:
            layer.build(input_shape)
            input_shape = layer.compute_output_shape(input_shape)

    def call(self, inputs: Any) -> Any:
        for layer in self.inner:
            inputs = layer(inputs)
        return tf.identity(inputs)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "filters": self.filters}


class Named(Block):
    """The same with names."""

    def __init__(self, filters: int, **kwargs: Any) -> None:
        super().__init__(filters, **kwargs)
        norm = layers.BatchNormalization(name="norm")
        self.inner = [layers.Conv2D(filters, 3, name="conv"), norm]


class Growing(layers.Layer):
    """Makes a weight that its config does not know of."""

    def build(self, input_shape: Any) -> None:
        if getattr(self, "grow", False):
            self.extra = self.add_weight(shape=(2,), name="extra")
        self.factor = self.add_weight(shape=(), name="factor")

    def call(self, inputs: Any) -> Any:
        return tf.multiply(inputs, self.factor)


class Unrecorded(layers.Layer):
    def __init__(self, width: int, extra: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.width = width

    def call(self, inputs: Any) -> Any:
        return tf.identity(inputs)

    def get_config(self) -> dict[str, Any]:
        return super().get_config()


def _around(layer: Any) -> Any:
    return functional(
        (8, 8, 3),
        lambda x: layers.Dense(2)(layers.Flatten()(layer(layers.Conv2D(6, 3, name="conv")(x)))),
    )


def test_an_unknown_layer_protects_and_the_rest_is_prunable() -> None:
    reason = analyze(_around(Doubling(name="double"))).group_of("conv").protected
    assert reason is not None
    assert "'double' (Doubling), which has no rule and is not followed inside, because" in reason
    assert "cprune_tf.graph.register_rule" in reason


def test_a_subclass_of_a_known_layer_is_unknown() -> None:
    class Special(layers.ReLU):
        def call(self, inputs: Any) -> Any:
            return keras.ops.flip(super().call(inputs), axis=-1)

    assert analyze(_around(Special())).group_of("conv").protected is not None


def test_a_rule_that_forgets_a_weight_is_refused_not_wrong() -> None:
    register_rule(Factor)(lambda call: Effect((call.inputs[0],)))
    try:
        with pytest.raises(GraphError, match=r"'factor'.*rule must list the weight's axes"):
            rebuild(_around(Factor()), {"conv": [1]})
    finally:
        REGISTRY.unregister(Factor)


def test_a_rule_with_too_few_labels_is_refused() -> None:
    def rule(call: Any) -> Effect:
        labels = call.inputs[0][-1]
        return Effect(((None, None, None, labels[:2]),), {"factor": Weight((labels,))})

    register_rule(Factor)(rule)
    try:
        with pytest.raises(GraphError, match="returned 2 labels for an axis of size 6"):
            analyze(_around(Factor()))
    finally:
        REGISTRY.unregister(Factor)


@pytest.mark.parametrize(
    "layer",
    [
        Block(4),
        layers.TimeDistributed(keras.Sequential([keras.Input((8, 6)), layers.Dense(4)])),
    ],
)
def test_an_unknown_layer_that_holds_layers_keeps_its_weights(layer: Any) -> None:
    model = functional(
        (8, 8, 3),
        lambda x: layers.Dense(2)(
            layers.Conv2D(6, 1, name="after")(layer(layers.Conv2D(6, 1, name="conv")(x)))
        ),
    )
    graph = analyze(model)
    assert graph["conv"].protected is not None
    small = rebuild(model, {"after": [1, 2]}, fold_constants=False)
    masked = mask(model, {"after": [1, 2]})
    assert relative_error(small, masked, random_inputs(model)) < 1e-5


def _named(call: Any) -> Effect:
    *leading, arriving = call.inputs[0]
    made = call.fresh(call.layer.filters)
    weights = {"conv/kernel": Weight((None, None, arriving, made), "kernel", 3)}
    for name in (
        "conv/bias",
        "norm/gamma",
        "norm/beta",
        "norm/moving_mean",
        "norm/moving_variance",
    ):
        weights[name] = Weight((made,), "other", 0)
    return Effect(
        ((*leading, made),), weights, {"": made}, lambda keep: {"filters": keep.count(made)}
    )


def test_a_rule_names_the_weights_of_inner_layers() -> None:
    register_rule(Named)(_named)
    try:
        model = _around(Named(5, name="block"))
        removal = {"conv": [1], "block": [0, 3]}
        small, masked = rebuild(model, removal, fold_constants=False), mask(model, removal)
        assert relative_error(small, masked, random_inputs(model)) < 1e-5
        assert small.get_layer("block").filters == 3
    finally:
        REGISTRY.unregister(Named)


def test_a_layer_that_comes_back_with_other_weights_is_refused() -> None:
    layer = Growing(name="growing")
    layer.grow = True
    with pytest.raises(GraphError, match=r"'growing'.*extra, factor.*it has factor"):
        rebuild(_around(layer), {})


def test_a_layer_without_a_full_config_is_refused_with_the_reason() -> None:
    model = _around(Unrecorded(3, object(), name="odd"))
    with pytest.raises(GraphError, match=r"'odd'.*get_config"):
        rebuild(model, {})
