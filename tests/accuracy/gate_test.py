"""Paired differences and what they mean for the gate."""

from __future__ import annotations

import numpy as np
import pytest

from cprune_tf.accuracy import (
    AccuracyGate,
    Evaluation,
    PairedDifference,
    pack_hits,
    unpack_hits,
)


def test_the_difference_and_its_error_are_those_of_the_images():
    rng = np.random.default_rng(0)
    original = rng.random(1000) < 0.9
    model = np.where(rng.random(1000) < 0.05, ~original, original)
    paired = PairedDifference.of(model, original)
    differences = model.astype(float) - original
    assert paired.difference == pytest.approx(differences.mean())
    assert paired.standard_error == pytest.approx(differences.std() / np.sqrt(1000))
    # Much less than that of two accuracies on images of their own.
    apart = np.sqrt((model.var() + original.var()) / 1000)
    assert paired.standard_error < 0.7 * apart


def test_the_error_is_how_far_differences_scatter():
    """As many images are drawn again and again from a large set."""
    rng = np.random.default_rng(1)
    original = rng.random(100_000) < 0.9
    model = np.where(rng.random(100_000) < 0.06, ~original, original)
    drawn = [rng.integers(0, 100_000, 1000) for _ in range(400)]
    found = [PairedDifference.of(model[some], original[some]) for some in drawn]
    scatter = np.std([one.difference for one in found])
    assert np.mean([one.standard_error for one in found]) == pytest.approx(scatter, rel=0.12)
    whole = PairedDifference.of(model, original).difference
    below = [one.difference - one.margin(0.95) <= whole for one in found]
    assert np.mean(below) == pytest.approx(0.95, abs=0.035)


def test_equal_models_differ_by_nothing():
    hits = np.arange(10) < 9
    paired = PairedDifference.of(hits, hits)
    assert (paired.difference, paired.standard_error, paired.margin(0.95)) == (0, 0, 0)


@pytest.mark.parametrize("num_images", [1, 8, 1001])
def test_hits_are_unpacked_as_they_were(num_images):
    hits = np.random.default_rng(0).random(num_images) < 0.5
    np.testing.assert_array_equal(unpack_hits(pack_hits(hits), num_images), hits)


def test_the_accuracy_decides_where_no_confidence_is_asked_for():
    gate = AccuracyGate(0.89, 0.89)
    assert gate.shortfall(Evaluation(0.89)) == ""
    assert gate.shortfall(Evaluation(0.88)) == "accuracy 88.00% < 89.00%"
    paired = PairedDifference(1000, 10, 14)
    text = gate.shortfall(Evaluation.whole(0.886, paired))
    assert "(-0.40 points from the original's, standard error 0.49) < 89.00%" in text


def test_with_a_confidence_the_bound_decides_as_well():
    evaluation = Evaluation.whole(0.896, PairedDifference(1000, 20, 24))
    assert evaluation.paired.margin(0.95) == pytest.approx(1.645 * 0.00663, rel=1e-3)
    assert AccuracyGate(0.89, 0.89, 0.5).shortfall(evaluation) == ""
    text = AccuracyGate(0.89, 0.89, 0.95).shortfall(evaluation)
    assert "with 95% confidence no less than 88.51% < 89.00%" in text
    assert AccuracyGate(0.89, 0.885, 0.95).shortfall(evaluation) == ""
    assert AccuracyGate(0.89, 0.89, 0.95).shortfall(Evaluation(0.9)) == ""


def test_what_was_not_evaluated_whole_is_refused_and_says_on_how_many_images():
    evaluation = Evaluation(0.861, PairedDifference(1500, 30, 90), 5000)
    assert not evaluation.is_whole
    for least in (0.5, 0.89):
        text = AccuracyGate(least, least).shortfall(evaluation)
        assert "accuracy 86.10%, estimated on the first 1,500 of 5,000 images" in text
