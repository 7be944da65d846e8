"""Interpolates task latency between the channel counts that were measured.

The surface is a Gaussian process on the logarithm of milliseconds per FLOP, since efficiency varies
far less than latency. Two tasks count as similar if their channel counts are close (in octaves) and
are divisible by similar powers of two: divisibility decides which vector and register tiles fit,
and makes latency rugged. All families share one kernel and, to a learned degree, the shape of the
surface; each family has its own level.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import scipy.linalg
import scipy.optimize

from cprune_tf.latency.sites import Counts

Vector = npt.NDArray[np.float64]
# The exponent of the widest vector's length; divisibility by larger powers of two does not matter.
_MAX_TWOS = 4
# Logarithms of the kernel's parameters: signal variance, four length scales, odds of sharing
# between families, noise variance.
_PRIOR = np.log(np.array([0.1, 4.0, 2.0, 6.0, 1.0, 1.0, 0.01]))
_PRIOR_WIDTH = 2.0
_MAX_FITTED = 250
_MAX_ITERATIONS = 40
_JITTER = 1e-8


@dataclasses.dataclass(frozen=True)
class Query:
    """One task at given channel counts.

    Attributes:
        family: The family of the task's sites; see `sites.Site`.
        counts: (input channels, output channels).
        flops: FLOPs of one call.
    """

    family: str
    counts: Counts
    flops: float


@dataclasses.dataclass(frozen=True, eq=False)
class Estimate:
    """Predicted latencies of n tasks, with their covariance.

    Attributes:
        latency_ms: float64 [n], the medians of the predicted latencies.
        log_covariance: float64 [n, n], the covariance of the logarithms of the latencies, whose
            errors are nearly normal. A variance of 0.05 squared means about 5 %.
    """

    latency_ms: Vector
    log_covariance: Vector


class Surface:
    """A Gaussian process fitted to measured tasks; see the module's docstring.

    Args:
        queries: The measured tasks.
        latencies_ms: Their latencies in milliseconds.
        seed: With more than 250 points, the kernel's parameters are fitted to a random choice of
            them; this is the seed of that choice.

    Raises:
        ValueError: If there is no point or a latency is not positive.
    """

    def __init__(
        self, queries: Sequence[Query], latencies_ms: Sequence[float], *, seed: int = 0
    ) -> None:
        latencies = np.asarray(latencies_ms, dtype=np.float64)
        if len(queries) != len(latencies) or not len(queries) or not (latencies > 0).all():
            raise ValueError(
                f"Received {len(queries)} points with latencies {list(latencies_ms)[:4]}...; "
                "expected at least one point, each with a positive latency."
            )
        self._queries = tuple(queries)
        target = np.log(latencies) - np.log(_flops(queries))
        families = np.array([query.family for query in queries])
        self._levels = {
            family: float(np.median(target[families == family])) for family in set(families)
        }
        self._average_level = float(np.median(target))
        residual = target - self._level(queries)
        self._parameters = _fit(queries, residual, seed)
        factor = scipy.linalg.cho_factor(
            _covariance(queries, queries, self._parameters) + self._noise(len(queries)), lower=True
        )
        self._factor = factor
        self._weights = scipy.linalg.cho_solve(factor, residual)

    def estimate(self, queries: Sequence[Query]) -> Estimate:
        """Predicts the latencies of tasks.

        A family that was never measured gets the average level and a larger variance.

        Args:
            queries: The tasks to predict.

        Returns:
            The latencies and their covariance, which includes the deviation of single tasks from
            the surface.
        """
        cross = _covariance(queries, self._queries, self._parameters)
        log_ms = cross @ self._weights + self._level(queries) + np.log(_flops(queries))
        explained = cross @ scipy.linalg.cho_solve(self._factor, cross.T)
        covariance = _covariance(queries, queries, self._parameters) - explained
        unknown = np.array([float(query.family not in self._levels) for query in queries])
        covariance += self._noise(len(queries)) + np.diag(unknown)
        return Estimate(np.exp(log_ms), covariance)

    def _noise(self, count: int) -> Vector:
        return np.eye(count) * (np.exp(self._parameters[6]) + _JITTER)

    def _level(self, queries: Sequence[Query]) -> Vector:
        return np.array([self._levels.get(query.family, self._average_level) for query in queries])


def _flops(queries: Sequence[Query]) -> Vector:
    return np.array([max(query.flops, 1.0) for query in queries])


def _features(queries: Sequence[Query]) -> Vector:
    """Returns [n, 4]: log2 of both counts, and the powers of two that divide them."""
    counts = np.array([query.counts for query in queries], dtype=np.int64)
    twos = np.minimum(np.log2(counts & -counts), _MAX_TWOS)
    return np.concatenate([np.log2(counts), twos], axis=1)


def _same_family(left: Sequence[Query], right: Sequence[Query]) -> Vector:
    """Returns [n, m]: 1 if two queries belong to the same family, else 0."""
    codes: dict[str, int] = {}
    a, b = (
        np.array([codes.setdefault(query.family, len(codes)) for query in queries])
        for queries in (left, right)
    )
    return (a[:, None] == b[None, :]).astype(np.float64)


def _kernel(left: Vector, right: Vector, same: Vector, parameters: Vector) -> Vector:
    variance, scales = np.exp(parameters[0]), np.exp(parameters[1:5])
    a, b = left / scales, right / scales
    squared = (a**2).sum(1)[:, None] + (b**2).sum(1)[None, :] - 2 * a @ b.T
    shared = 1 / (1 + np.exp(-parameters[5]))
    likeness = shared + (1 - shared) * same
    result: Vector = variance * np.exp(-0.5 * np.maximum(squared, 0)) * likeness
    return result


def _covariance(left: Sequence[Query], right: Sequence[Query], parameters: Vector) -> Vector:
    return _kernel(_features(left), _features(right), _same_family(left, right), parameters)


def _fit(queries: Sequence[Query], residual: Vector, seed: int) -> Vector:
    """Fits the kernel's parameters: maximum likelihood with a prior around typical values."""
    if len(queries) > _MAX_FITTED:
        indices = np.random.default_rng(seed).choice(len(queries), _MAX_FITTED, replace=False)
        queries, residual = [queries[i] for i in indices], residual[indices]

    features, same = _features(queries), _same_family(queries, queries)
    squared = (features[:, None, :] - features[None, :, :]) ** 2
    identity = np.eye(len(queries))

    def cost(parameters: Vector) -> tuple[float, Vector]:
        signal = _kernel(features, features, same, parameters)
        noise = np.exp(parameters[6])
        lower, _ = factor = scipy.linalg.cho_factor(
            signal + identity * (noise + _JITTER), lower=True
        )
        weights = scipy.linalg.cho_solve(factor, residual)
        deviation = (parameters - _PRIOR) / _PRIOR_WIDTH
        value = (
            0.5 * residual @ weights + np.log(np.diag(lower)).sum() + 0.5 * deviation @ deviation
        )
        # This is twice the value's derivative with respect to the covariance. Its elementwise
        # product with the covariance's derivative with respect to a parameter sums up to twice the
        # gradient.
        slope = scipy.linalg.cho_solve(factor, identity) - np.outer(weights, weights)
        shared = 1 / (1 + np.exp(-parameters[5]))
        sharing = shared * (1 - shared) * (1 - same) / (shared + (1 - shared) * same)
        by_scale = np.einsum("ij,ijk->k", slope * signal, squared) / np.exp(2 * parameters[1:5])
        gradient = np.array(
            [
                (slope * signal).sum(),
                *by_scale,
                (slope * signal * sharing).sum(),
                noise * np.trace(slope),
            ]
        )
        return float(value), 0.5 * gradient + deviation / _PRIOR_WIDTH

    bounds = [(start - 3 * _PRIOR_WIDTH, start + 3 * _PRIOR_WIDTH) for start in _PRIOR]
    optimum = scipy.optimize.minimize(
        cost,
        _PRIOR,
        jac=True,
        method="L-BFGS-B",
        bounds=bounds,
        options={"maxiter": _MAX_ITERATIONS},
    )
    result: Vector = optimum.x
    return result
