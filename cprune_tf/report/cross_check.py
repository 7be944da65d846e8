"""Converts the results of the cross-check to the form that a report shows."""

from __future__ import annotations

import math

from cprune_tf.report import history, types
from cprune_tf.runs import results

LatencyKey = tuple[str, str, int]
"""(deployment: "original" or "pruned", runtime, number of threads)."""


def summarize(check: results.CrossCheck) -> types.CrossCheck:
    """Returns the checks and problems of a cross-check, without the latencies."""
    checks = tuple(
        types.RuntimeCheck(
            deployment=result.deployment,
            runtime=result.runtime,
            accuracy=result.accuracy,
            max_abs_error=_finite(result.max_abs_error),
            max_relative_error=_finite(result.max_relative_error),
            top1_agreement=result.top1_agreement,
            file_bytes=result.file_bytes,
            standard_error=None if result.paired is None else result.paired.standard_error,
        )
        for result in check.results
    )
    return types.CrossCheck(check.num_images, checks, check.problems)


def latencies(check: results.CrossCheck) -> dict[LatencyKey, types.Latency]:
    """Returns the latencies of a cross-check, which were all timed interleaved."""
    return {
        (result.deployment, result.runtime, latency.num_threads): history.latency(latency)
        for result in check.results
        for latency in result.latencies
    }


def _finite(value: float) -> float | None:
    """Returns the value; None if it is not finite, since a report cannot show it."""
    return value if math.isfinite(value) else None
