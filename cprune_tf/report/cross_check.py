"""What the cross-check found, as a report shows it."""

from __future__ import annotations

import math

from cprune_tf.report import history, types
from cprune_tf.runs import results

LatencyKey = tuple[str, str, int]
"""Deployment ("original", "pruned"), runtime, threads."""


def summarize(check: results.CrossCheck) -> types.CrossCheck:
    """Its checks and problems, without latencies."""
    checks = tuple(
        types.RuntimeCheck(
            deployment=result.deployment,
            runtime=result.runtime,
            accuracy=result.accuracy,
            max_abs_error=_finite(result.max_abs_error),
            max_relative_error=_finite(result.max_relative_error),
            top1_agreement=result.top1_agreement,
            file_bytes=result.file_bytes,
        )
        for result in check.results
    )
    return types.CrossCheck(check.num_images, checks, check.problems)


def latencies(check: results.CrossCheck) -> dict[LatencyKey, types.Latency]:
    """Its latencies, all timed turn by turn."""
    return {
        (result.deployment, result.runtime, latency.num_threads): history.latency(latency)
        for result in check.results
        for latency in result.latencies
    }


def _finite(value: float) -> float | None:
    """An error of outputs that are not finite numbers is none that could be shown."""
    return value if math.isfinite(value) else None
