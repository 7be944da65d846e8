from __future__ import annotations

import keras
import numpy as np
import pytest

from cprune_tf.models import vgg_small
from cprune_tf.training import evaluate, recalibrate_batch_norm


def _batch_norms(model: keras.Model) -> list[keras.layers.BatchNormalization]:
    return [x for x in model.layers if isinstance(x, keras.layers.BatchNormalization)]


def test_lost_statistics_are_found_again(small_data, trained):
    accuracy = evaluate(trained, small_data)
    kernels = [v.numpy() for v in trained.trainable_variables]
    for layer in _batch_norms(trained):
        layer.moving_mean.assign(np.zeros(layer.moving_mean.shape))
        layer.moving_variance.assign(np.ones(layer.moving_variance.shape))
    assert evaluate(trained, small_data) < accuracy - 0.3
    recalibrate_batch_norm(trained, small_data, 20)
    assert evaluate(trained, small_data) > accuracy - 0.02
    for before, variable in zip(kernels, trained.trainable_variables, strict=True):
        np.testing.assert_array_equal(before, variable.numpy())


def test_statistics_are_those_of_all_batches_together(small_data, trained):
    recalibrate_batch_norm(trained, small_data, 5, seed=3)
    images = np.concatenate([x.numpy() for x, _ in small_data.train_dataset(3).take(5)])
    first = _batch_norms(trained)[0]
    inputs = trained.get_layer("stem_conv")(images).numpy().reshape(-1, 16)
    np.testing.assert_allclose(first.moving_mean.numpy(), inputs.mean(0), atol=1e-4)
    np.testing.assert_allclose(first.moving_variance.numpy(), inputs.var(0), rtol=1e-3, atol=1e-6)


def test_frozen_layers_are_recalibrated_and_stay_frozen(small_data, trained):
    layer = _batch_norms(trained)[0]
    layer.trainable = False
    layer.moving_mean.assign(np.full(16, 9.0))
    recalibrate_batch_norm(trained, small_data, 2)
    assert np.abs(layer.moving_mean.numpy()).max() < 8
    assert not layer.trainable


def test_frozen_layers_can_be_left_as_they_are(small_data, trained):
    """The layers behind them see what they will see in inference."""
    first, second = _batch_norms(trained)[:2]
    first.trainable = False
    first.moving_mean.assign(np.full(16, 0.5))
    recalibrate_batch_norm(trained, small_data, 5, seed=3, include_frozen=False)
    np.testing.assert_array_equal(first.moving_mean.numpy(), np.full(16, 0.5))
    before = keras.Model(trained.inputs, second.input)
    images = np.concatenate([x.numpy() for x, _ in small_data.train_dataset(3).take(5)])
    inputs = before(images, training=False).numpy().reshape(-1, second.moving_mean.shape[0])
    np.testing.assert_allclose(second.moving_mean.numpy(), inputs.mean(0), atol=1e-4)


def test_more_batches_than_an_epoch_has_go_on_with_the_next(small_data, trained):
    recalibrate_batch_norm(trained, small_data, 55)
    assert evaluate(trained, small_data) > 0.7


def test_nested_models_are_recalibrated(small_data, trained):
    flat, inputs = keras.models.clone_model(trained), keras.Input((28, 28, 1))
    flat.set_weights(trained.get_weights())
    nested = keras.Model(inputs, trained(inputs))
    for model in (flat, nested):
        recalibrate_batch_norm(model, small_data, 3)
    for one, two in zip(flat.get_weights(), nested.get_weights(), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)


def test_models_without_normalisation_are_left_alone(small_data):
    model = vgg_small()
    before = model.get_weights()
    recalibrate_batch_norm(model, small_data, 3)
    for one, two in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_at_least_one_batch_is_needed(small_data, trained):
    with pytest.raises(ValueError, match="num_batches is 0"):
        recalibrate_batch_norm(trained, small_data, 0)
