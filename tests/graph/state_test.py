"""What a rebuilt model carries over from the original beside its weights."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from cprune_tf.graph import analyze, rebuild
from tests.graph.models import choose, random_inputs, relative_error

layers = keras.layers


class Own(keras.Model):
    """A user's functional model class with its own training step."""

    def __init__(self, inputs: Any, outputs: Any, name: str | None = None) -> None:
        super().__init__(inputs=inputs, outputs=outputs, name=name)
        self.steps = 0


def _model(cls: Any = keras.Model, dtype: Any = None) -> Any:
    inputs = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(
        8,
        3,
        name="conv",
        dtype=dtype,
        kernel_regularizer=keras.regularizers.L2(1e-3),
        kernel_constraint=keras.constraints.MaxNorm(2.0),
        kernel_initializer="he_normal",
    )(inputs)
    x = layers.BatchNormalization(name="bn", momentum=0.7, epsilon=1e-2)(x)
    frozen = layers.Conv2D(6, 3, name="frozen")
    frozen.trainable = False
    x = layers.ReLU(name="relu")(frozen(x))
    return cls(inputs, layers.Dense(4, name="head")(layers.Flatten()(x)), name="net")


def test_names_configs_and_flags() -> None:
    model = _model()
    small = rebuild(model, choose(analyze(model)))
    assert small.name == "net"
    assert [layer.name for layer in small.layers] == [layer.name for layer in model.layers]
    for old, new in zip(model.layers, small.layers, strict=True):
        sized = {"filters", "units", "batch_input_shape", "target_shape"}
        before = {k: v for k, v in old.get_config().items() if k not in sized}
        after = {k: v for k, v in new.get_config().items() if k not in sized}
        assert before == after
        assert old.trainable == new.trainable
    assert [w.trainable for w in small.weights] == [w.trainable for w in model.weights]
    assert len(small.losses) == len(model.losses) == 1


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float64"])
def test_dtype_policies(policy: str) -> None:
    model = _model(dtype=policy)
    small = rebuild(model, {"conv": [0, 3]})
    assert small.get_layer("conv").dtype_policy.name == policy
    assert small.get_layer("conv").kernel.dtype == model.get_layer("conv").kernel.dtype
    assert small.get_layer("frozen").dtype_policy.name == "float32"


def test_compile_state_and_training() -> None:
    model = _model()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(0.1, 50), momentum=0.9)
    metrics = ["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(2)]
    model.compile(optimizer, loss, metrics=metrics)
    x, y = random_inputs(model, batch=8), np.arange(8) % 4
    model.fit(x, y, epochs=2, verbose=0)
    small = rebuild(model, choose(analyze(model)))
    assert small.compiled
    assert small.optimizer is not model.optimizer
    assert small.optimizer.get_config() == model.optimizer.get_config()
    assert int(small.optimizer.iterations) == 0
    history = small.fit(x, y, epochs=3, verbose=0).history
    assert set(history) == {"loss", "accuracy", "sparse_top_k_categorical_accuracy"}
    assert history["loss"][-1] < history["loss"][0]


def test_training_the_copy_leaves_the_original_alone() -> None:
    model = _model()
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = [np.array(weight) for weight in model.weights]
    copy = rebuild(model, {})
    copy.fit(random_inputs(model, batch=8), np.arange(8) % 4, verbose=0)
    assert any(
        (np.asarray(new) != old).any() for new, old in zip(copy.weights, before, strict=True)
    )
    for weight, old in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(np.asarray(weight), old)


def test_an_uncompiled_model_stays_uncompiled() -> None:
    assert not rebuild(_model(), {"conv": [1]}).compiled


def test_a_users_model_class_is_kept() -> None:
    small = rebuild(_model(Own), {"conv": [1]})
    assert type(small) is Own
    assert small.steps == 0


def test_input_and_output_structures(tmp_path: Any) -> None:
    inputs = {"a": keras.Input((8, 8, 3), name="a"), "b": keras.Input((8, 8, 2), name="b")}
    x = layers.Conv2D(6, 3, name="conv_a")(inputs["a"])
    y = layers.Conv2D(6, 3, name="conv_b")(inputs["b"])
    both = layers.Add()([x, y])
    outputs = {"map": layers.Conv2D(2, 1, name="map")(both), "flat": layers.Flatten(name="flat")(y)}
    model = keras.Model(inputs, outputs)
    graph = analyze(model)
    assert graph.group_of("conv_a").protected == "reaches the model's output 'flat'"
    model = keras.Model(inputs, {"map": outputs["map"], "twice": [outputs["map"], both]})
    assert not analyze(model).prunable
    model = keras.Model(inputs, {"map": outputs["map"]})
    small = rebuild(model, {analyze(model).group_of("conv_a").name: [0, 5]})
    values = {"a": np.ones((2, 8, 8, 3), "float32"), "b": np.ones((2, 8, 8, 2), "float32")}
    assert set(small(values)) == {"map"}
    small.save(tmp_path / "small.keras")
    assert relative_error(keras.models.load_model(tmp_path / "small.keras"), small, values) < 1e-6
