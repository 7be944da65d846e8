"""Task latency as a function of channel counts, between the counts that were measured.

A Gaussian process on the logarithm of milliseconds per FLOP, since efficiency varies far less than
latency does. Two tasks are alike where their channel counts are close (in octaves) and divide by
similar powers of two: divisibility decides which vector and register tiles fit, and makes latency
rugged. Families share one kernel, and to a learned degree their shape; each has its own level.
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
# Larger powers of two than this make no difference: it is the widest vector.
_MAX_TWOS = 4
# log of: signal variance, four length scales, odds of sharing between families, noise variance.
_PRIOR = np.log(np.array([0.1, 4.0, 2.0, 6.0, 1.0, 1.0, 0.01]))
_PRIOR_WIDTH = 2.0
_MAX_FITTED = 250
_MAX_ITERATIONS = 40
_JITTER = 1e-8


@dataclasses.dataclass(frozen=True)
class Query:
    """One task at channel counts.

    Attributes:
        family: See `sites.Site`.
        counts: (input channels, output channels).
        flops: Of one call.
    """

    family: str
    counts: Counts
    flops: float


@dataclasses.dataclass(frozen=True, eq=False)
class Estimate:
    """What a surface says about some tasks.

    Attributes:
        latency_ms: [n], the median of what is to be expected.
        log_covariance: [n, n], of the logarithms of the latencies, in which their errors are
            nearly normal: 0.05 squared means about 5 %.
    """

    latency_ms: Vector
    log_covariance: Vector


class Surface:
    """Fitted to measured tasks; see the module.

    Args:
        queries: What was measured.
        latencies_ms: Its latencies.
        seed: Of the choice of points that the kernel's parameters are fitted to, where there are
            many.

    Raises:
        ValueError: If there is no point, or a latency that is not positive.
    """

    def __init__(
        self, queries: Sequence[Query], latencies_ms: Sequence[float], *, seed: int = 0
    ) -> None:
        latencies = np.asarray(latencies_ms, dtype=np.float64)
        if len(queries) != len(latencies) or not len(queries) or not (latencies > 0).all():
            raise ValueError(
                f"{len(queries)} points with latencies {list(latencies_ms)[:4]}...; expected at "
                "least one, each with a positive latency."
            )
        self._queries = tuple(queries)
        target = np.log(latencies) - np.log(_flops(queries))
        families = np.array([query.family for query in queries])
        self._levels = {
            family: float(np.median(target[families == family])) for family in set(families)
        }
        self._anywhere = float(np.median(target))
        residual = target - self._level(queries)
        self._parameters = _fit(queries, residual, seed)
        factor = scipy.linalg.cho_factor(
            _covariance(queries, queries, self._parameters) + self._noise(len(queries)), lower=True
        )
        self._factor = factor
        self._weights = scipy.linalg.cho_solve(factor, residual)

    def estimate(self, queries: Sequence[Query]) -> Estimate:
        """Predicts tasks; a family that was never measured has the average level and more doubt.

        Args:
            queries: What is asked.

        Returns:
            Latencies and their covariance, which includes how far single tasks lie off the surface.
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
        return np.array([self._levels.get(query.family, self._anywhere) for query in queries])


def _flops(queries: Sequence[Query]) -> Vector:
    return np.array([max(query.flops, 1.0) for query in queries])


def _features(queries: Sequence[Query]) -> Vector:
    """[n, 4]: both counts in octaves, and the powers of two that divide them."""
    counts = np.array([query.counts for query in queries], dtype=np.int64)
    twos = np.minimum(np.log2(counts & -counts), _MAX_TWOS)
    return np.concatenate([np.log2(counts), twos], axis=1)


def _same_family(left: Sequence[Query], right: Sequence[Query]) -> Vector:
    """[n, m]: 1 where two queries are of one family, else 0."""
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
    """The kernel's parameters that make the points most likely, held near what is usual."""
    if len(queries) > _MAX_FITTED:
        chosen = np.random.default_rng(seed).choice(len(queries), _MAX_FITTED, replace=False)
        queries, residual = [queries[i] for i in chosen], residual[chosen]

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
        # Twice this value's derivative with respect to the covariance. Multiplied by the
        # covariance's derivative with respect to a parameter and summed, it is twice the gradient.
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
