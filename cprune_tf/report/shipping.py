"""Finds which of a run's files to ship: the fastest that loses no more than was allowed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from cprune_tf.report import types
from cprune_tf.report.comparisons import ORIGINAL
from cprune_tf.report.cross_check import LatencyKey

# Accuracies are quotients of counts, and the allowed loss is a difference of two.
_ROUNDING = 1e-9


def shippable(
    checks: Sequence[types.RuntimeCheck],
    measured: Mapping[LatencyKey, types.Latency],
    allowed_loss: float | None,
    num_threads: int,
    emulated: bool,
) -> tuple[types.Shippable, ...]:
    """Lists the files of a cross-check.

    Args:
        checks: The checks, made on the test images.
        measured: The latencies, all timed interleaved.
        allowed_loss: The accuracy (0..1) or score that the result may lose; None if unknown.
        num_threads: The number of threads that the run was for, which decides what is fastest.
        emulated: Whether the device is emulated: then latencies tell nothing, and no file is best.

    Returns:
        The files, the fastest first.
    """
    reference = next(
        (
            check.accuracy
            for check in checks
            if (check.deployment, check.runtime) == (ORIGINAL, "keras")
        ),
        None,
    )
    counts = thread_counts(measured)
    files = []
    for check in checks:
        if check.file_bytes is None:
            continue
        suffices = None
        if reference is not None and allowed_loss is not None and check.accuracy is not None:
            suffices = check.accuracy >= reference - allowed_loss - _ROUNDING
        key = check.deployment, check.runtime
        latencies = tuple(measured.get((*key, count)) for count in counts)
        files.append(
            types.Shippable(*key, latencies, check.accuracy, check.file_bytes, suffices, False)
        )

    def speed(file: types.Shippable) -> float:
        latency = measured.get((file.deployment, file.runtime, num_threads))
        return math.inf if latency is None else latency.median_ms

    files.sort(key=speed)
    measured_files = [file for file in files if speed(file) < math.inf and not emulated]
    best = next((file for file in measured_files if file.suffices), None)
    return tuple(
        dataclasses.replace(file, is_best=True) if file is best else file for file in files
    )


def thread_counts(measured: Mapping[LatencyKey, types.Latency]) -> tuple[int, ...]:
    """Returns the numbers of threads that were measured, in rising order."""
    return tuple(sorted({threads for _, _, threads in measured}))
