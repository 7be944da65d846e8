"""Refusals before all images are evaluated: as rarely wrong as stated, and in the right cases."""

from __future__ import annotations

import numpy as np
import pytest

from cprune_tf.accuracy import RefusalTest
from cprune_tf.accuracy.refusal import least_hits

_BATCH = 50


def hits_of(num_images, accuracy, gained, lost):
    """The original's hits, sorted as badly as possible, and those of a candidate."""
    original = np.arange(num_images) < round(accuracy * num_images)
    candidate = original.copy()
    candidate[:lost] = False
    candidate[num_images - gained :] = True
    return original, candidate


def num_evaluated(original, candidate, least, error_rate, seed, batch=_BATCH):
    """Number of images after which a candidate is refused; all if it is not refused early."""
    order = np.random.default_rng(seed).permutation(len(original))
    test = RefusalTest(original[order], least, error_rate)
    for start in range(0, len(order), batch):
        if test.refuses(candidate[order[start : start + batch]]):
            return start + batch
    return len(order)


@pytest.mark.parametrize("error_rate", [0.01, 0.05, 0.2])
@pytest.mark.parametrize(
    ("num_images", "gained", "lost"),
    # The last hits that are needed are there, with few and with many differences; and the original.
    [(500, 0, 5), (500, 20, 25), (500, 40, 45), (1000, 30, 40), (500, 0, 0)],
)
def test_a_candidate_that_just_passes_is_refused_as_rarely_as_stated(
    num_images, gained, lost, error_rate
):
    original, candidate = hits_of(num_images, 0.9, gained, lost)
    least = candidate.mean()
    runs = 300
    refused = sum(
        num_evaluated(original, candidate, least, error_rate, seed) < num_images
        for seed in range(runs)
    )
    # Three standard deviations above the rate: what chance allows.
    assert refused / runs <= error_rate + 3 * np.sqrt(error_rate * (1 - error_rate) / runs)


def test_the_stated_rate_is_no_idle_caution():
    """A test that never refused would pass all others on errors."""
    original, candidate = hits_of(2000, 0.9, 60, 60)
    refused = [num_evaluated(original, candidate, 0.9, 0.2, seed) < 2000 for seed in range(200)]
    assert np.mean(refused) > 0.02


@pytest.mark.parametrize(("lost", "most"), [(200, 500), (80, 1500)])
def test_a_bad_candidate_is_refused_early(lost, most):
    original, candidate = hits_of(2000, 0.92, 20, 20 + lost)
    counts = [num_evaluated(original, candidate, 0.91, 0.01, seed) for seed in range(40)]
    assert np.mean(counts) < most


def test_the_original_sharpens_the_test():
    """A candidate that differs on few images is refused sooner than one that differs on many."""
    means = []
    for both in (20, 120):
        original, candidate = hits_of(3000, 0.9, both, both + 75)
        counts = [num_evaluated(original, candidate, 0.895, 0.01, seed) for seed in range(40)]
        means.append(np.mean(counts))
    assert means[0] < 0.7 * means[1]


def test_without_an_error_rate_all_images_are_evaluated():
    original, candidate = hits_of(500, 0.9, 0, 450)
    assert num_evaluated(original, candidate, 0.9, 0.0, seed=0) == 500


def test_with_a_tiny_error_rate_a_refusal_is_certain():
    """What is left cannot change it: the original gets too few of the images left wrong."""
    rng = np.random.default_rng(0)
    for seed in range(40):
        gained, lost = rng.integers(0, 60, 2)
        original, candidate = hits_of(500, 0.88, gained, lost)
        count = num_evaluated(original, candidate, 0.87, 1e-300, seed, batch=10)
        if count < 500:
            assert candidate.mean() < 0.87
            order = np.random.default_rng(seed).permutation(500)
            best = candidate.copy()
            best[order[count:]] = True
            assert best.mean() < 0.87
            best[order[count - 10 :]] = True
            assert best.mean() >= 0.87
    original, candidate = hits_of(500, 0.88, 0, 200)
    assert num_evaluated(original, candidate, 0.87, 1e-300, 0) < 500


@pytest.mark.parametrize("num_images", [1, 3, 7, 49, 1000, 1237])
def test_the_fewest_hits_agree_with_the_quotient(num_images):
    thresholds = [0.0, 1.0, 0.9, 0.892, *(hits / num_images for hits in range(num_images))]
    for least in thresholds:
        hits = least_hits(least, num_images)
        assert hits / num_images >= least
        assert hits == 0 or (hits - 1) / num_images < least
