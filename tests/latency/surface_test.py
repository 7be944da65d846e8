from __future__ import annotations

import numpy as np
import pytest

from cprune_tf.latency.surface import Query, Surface


def _latency_ms(inputs, outputs, peak=50.0):
    """A convolution's latency with the usual ruggedness: odd counts lose their vectors."""
    efficiency = {0: 0.15, 1: 0.3, 2: 0.6, 3: 0.8}.get(
        min((outputs & -outputs).bit_length() - 1, 4), 1
    )
    efficiency *= inputs / (inputs + 6)
    return 18.0 * 256 * inputs * outputs / (peak * efficiency) / 1e6


def _query(inputs, outputs, family="conv"):
    return Query(family, (inputs, outputs), 18.0 * 256 * inputs * outputs)


def _measured(rng, count, noise, family="conv", peak=50.0):
    counts = rng.integers(1, 17, size=(count, 2)) * 4
    queries = [_query(int(i), int(o), family) for i, o in counts]
    latencies = [_latency_ms(*q.counts, peak) * np.exp(noise * rng.normal()) for q in queries]
    return queries, latencies


def test_it_predicts_between_the_points():
    rng = np.random.default_rng(0)
    surface = Surface(*_measured(rng, 60, noise=0.01))
    asked, expected = _measured(np.random.default_rng(1), 60, noise=0.0)
    errors = np.abs(surface.estimate(asked).latency_ms / expected - 1)
    assert np.median(errors) < 0.05


def test_it_is_better_than_a_constant_efficiency():
    queries, latencies = _measured(np.random.default_rng(0), 60, noise=0.01)
    asked, expected = _measured(np.random.default_rng(1), 60, noise=0.0)
    rate = np.median(np.array(latencies) / [query.flops for query in queries])
    constant = np.abs(rate * np.array([query.flops for query in asked]) / expected - 1)
    fitted = np.abs(Surface(queries, latencies).estimate(asked).latency_ms / expected - 1)
    assert np.median(fitted) < np.median(constant) / 3


def test_uncertainty_covers_the_errors():
    surface = Surface(*_measured(np.random.default_rng(0), 50, noise=0.05))
    asked, expected = _measured(np.random.default_rng(2), 200, noise=0.05)
    estimate = surface.estimate(asked)
    deviations = np.sqrt(np.diag(estimate.log_covariance))
    z = (np.log(expected) - np.log(estimate.latency_ms)) / deviations
    assert 0.5 < np.mean(np.abs(z) < 1) < 0.95


def test_far_from_the_points_it_is_less_sure():
    surface = Surface(*_measured(np.random.default_rng(0), 30, noise=0.01))
    near, far = _query(32, 32), _query(2048, 4096)
    covariance = surface.estimate([near, far]).log_covariance
    assert covariance[1, 1] > covariance[0, 0]
    unknown = surface.estimate([_query(32, 32, "never measured")]).log_covariance
    assert unknown[0, 0] > covariance[1, 1]


def test_one_family_helps_another():
    """A family with few points, half as fast, gets its shape from a family with many points."""
    many = _measured(np.random.default_rng(0), 80, noise=0.01)
    few = _measured(np.random.default_rng(1), 4, noise=0.01, family="slow", peak=25.0)
    asked, expected = _measured(np.random.default_rng(2), 80, noise=0, family="slow", peak=25.0)
    alone = Surface(*few).estimate(asked).latency_ms
    together = Surface([*many[0], *few[0]], [*many[1], *few[1]]).estimate(asked).latency_ms
    errors = [np.median(np.abs(ms / expected - 1)) for ms in (alone, together)]
    assert errors[1] < 0.7 * errors[0]


def test_many_points_are_fitted_reproducibly():
    points = _measured(np.random.default_rng(0), 300, noise=0.02)
    asked = [_query(12, 20), _query(64, 28)]
    first, second = (Surface(*points, seed=7).estimate(asked).latency_ms for _ in range(2))
    assert (first == second).all()


@pytest.mark.parametrize("latencies", [[], [0.0], [1.0, 2.0]])
def test_bad_points_are_refused(latencies):
    queries = [_query(8, 8)] if latencies else []
    with pytest.raises(ValueError, match="positive latency"):
        Surface(queries, latencies)
