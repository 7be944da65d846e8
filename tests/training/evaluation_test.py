from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest

from cprune_tf.models import vgg_small
from cprune_tf.training import TrainingError, evaluate
from cprune_tf.training.evaluation import evaluate_batches


def test_accuracy_is_what_the_outputs_say(small_data, trained):
    outputs = trained.predict(small_data.test_images, verbose=0)
    right = outputs.argmax(axis=1) == small_data.test_labels
    assert evaluate(trained, small_data) == right.mean()
    best = np.argsort(-outputs, axis=1)[:, :5]
    among = (best == small_data.test_labels[:, None]).any(axis=1)
    assert evaluate(trained, small_data, "top5") == among.mean() > right.mean()


@pytest.mark.parametrize("batch_size", [1, 7, 500, 1000])
def test_batch_size_does_not_count(small_data, trained, batch_size):
    part = dataclasses.replace(
        small_data,
        test_images=small_data.test_images[:50],
        test_labels=small_data.test_labels[:50],
    )
    assert evaluate(trained, part, batch_size=batch_size) == evaluate(trained, part)


def test_equal_outputs_are_not_right(small_data):
    model = vgg_small()
    model.set_weights([w * 0 for w in model.get_weights()])
    share = np.mean(small_data.test_labels == 0)
    assert evaluate(model, small_data) == share
    assert evaluate(model, small_data, "top5") == np.mean(small_data.test_labels < 5)


def test_hits_come_in_the_order_that_is_asked_for_and_only_as_far(small_data, trained):
    outputs = trained.predict(small_data.test_images, verbose=0)
    right = outputs.argmax(axis=1) == small_data.test_labels
    order = np.random.default_rng(0).permutation(len(right))
    hits = np.concatenate(list(evaluate_batches(trained, small_data, order=order)))
    np.testing.assert_array_equal(hits, right[order])
    batches = evaluate_batches(trained, small_data, batch_size=100, order=order)
    np.testing.assert_array_equal(next(batches), right[order[:100]])
    with pytest.raises(TrainingError, match=r"began with 499 test images, and now there are 500"):
        next(evaluate_batches(trained, small_data, order=order[1:]))


def test_dropout_is_off_and_nothing_is_changed(small_data, trained):
    before = trained.get_weights()
    evaluate(trained, small_data)
    for one, two in zip(before, trained.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    model = vgg_small()
    assert evaluate(model, small_data) == evaluate(model, small_data)


def test_wrong_input_is_refused(small_data, trained):
    with pytest.raises(TrainingError, match="metric is 'top3'; expected top1 or top5"):
        evaluate(trained, small_data, "top3")
    with pytest.raises(TrainingError, match="needs 5 classes"):
        evaluate(vgg_small(num_classes=3), dataclasses.replace(small_data, num_classes=3), "top5")
    with pytest.raises(TrainingError, match=r"takes .* gives"):
        evaluate(vgg_small((32, 32, 3)), small_data)
    damaged = keras.models.clone_model(trained)
    damaged.set_weights([w * np.nan for w in trained.get_weights()])
    with pytest.raises(TrainingError, match="its accuracy means nothing"):
        evaluate(damaged, small_data)
