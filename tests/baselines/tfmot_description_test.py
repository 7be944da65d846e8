"""What goes over to Keras 2, and what is refused before any work."""

from __future__ import annotations

import dataclasses
import json
import re

import keras
import pytest

from cprune_tf.baselines.tfmot import running
from cprune_tf.baselines.tfmot.description import describe
from cprune_tf.baselines.tfmot.errors import TfmotError
from cprune_tf.config import ConfigError, from_mapping
from tests.baselines import tfmot_models

layers = keras.layers


def test_nested_models_are_inlined_and_shared_layers_are_called_twice():
    described = describe(tfmot_models.residual())
    kinds = [layer.kind for layer in described.layers]
    assert kinds.count("Conv2D") == 3 and kinds.count("BatchNormalization") == 2
    shared = [
        index
        for index in range(len(kinds))
        if [call.layer for call in described.calls].count(index) == 2
    ]
    assert [described.layers[index].arguments["activation"] for index in shared] == ["relu6"]
    assert described.output == len(described.calls)
    json.dumps(dataclasses.asdict(described))


@pytest.mark.parametrize(
    ("apply", "message"),
    [
        (lambda x: layers.Conv2D(4, 3, activation="hard_sigmoid", name="odd")(x), "hard_sigmoid"),
        (lambda x: layers.GroupNormalization(1, name="odd")(x), "GroupNormalization is not known"),
        (lambda x: keras.ops.add(x, 1.0), "raw operation Add"),
        (
            lambda x: layers.BatchNormalization(name="odd")(x, training=False),
            "with {'training': False}",
        ),
        (
            lambda x: layers.Conv2D(4, 3, kernel_constraint="non_neg", name="odd")(x),
            "kernel_constraint",
        ),
        (
            lambda x: layers.Conv2D(4, 3, kernel_regularizer="orthogonal_regularizer", name="odd")(
                x
            ),
            "OrthogonalRegularizer",
        ),
    ],
)
def test_what_may_differ_in_keras_2_is_refused_by_the_layers_name(apply, message):
    image = keras.Input((8, 8, 3))
    model = keras.Model(image, layers.Dense(2)(layers.Flatten()(apply(image))))
    with pytest.raises(TfmotError, match=message) as refused:
        describe(model)
    assert re.search("layer '(odd|add)", str(refused.value))


@pytest.mark.skipif(tfmot_models.is_installed(), reason="it is installed")
def test_without_the_packages_the_error_names_the_command():
    with pytest.raises(TfmotError, match=r'tf_keras.*pip install .*"cprune_tf\[tfmot\]"'):
        running.require_packages()


@pytest.mark.parametrize(("field", "value"), [("sparsity", 1.0), ("sparsity", 0.0), ("ramp", 0.0)])
def test_wrong_amounts_are_refused(field, value):
    with pytest.raises(ConfigError, match=rf"tfmot\.{field}"):
        from_mapping({"tfmot": {field: value}})
