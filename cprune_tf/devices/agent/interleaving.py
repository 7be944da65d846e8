"""Times several functions against each other: interleaved, warmed up, until medians are stable.

This module runs in the device's process and needs only the standard library and numpy.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Sequence

import numpy as np

# Long enough to fill caches and branch predictors with the model's data, short enough for a slow
# drift of the clock frequency to affect all models alike.
_BLOCK_MS = 10.0
_REFRESH_MS = 1.0
_MIN_ROUNDS = 6


def interleave(
    invokes: Sequence[Callable[[], object]],
    *,
    warmup_ms: float,
    min_samples: int,
    max_time_sec: float,
    stable_fraction: float,
    before_block: Callable[[], object] = lambda: None,
) -> list[list[float]]:
    """Times calls in the order A B C A B C ..., a few milliseconds each at a time.

    If a call is shorter than a block, every block starts with untimed calls (about 1 ms, at least
    one) that bring code and data back into the caches after the other functions' blocks.

    Args:
        invokes: The functions to time; each is called without arguments.
        warmup_ms: Running time of each function before samples count, in ms.
        min_samples: Smallest number of samples of each function, unless its time ends earlier.
        max_time_sec: Longest running time of each function; a call that has begun is finished.
        stable_fraction: Timing ends when, for every function, the medians of the first and the
            second half of its samples differ by at most this fraction.
        before_block: Called before every block, untimed.

    Returns:
        For each function, the duration of every timed call in ms, in the order of the calls.
    """
    budget_ms = max_time_sec * 1000
    collects_garbage = gc.isenabled()
    gc.disable()
    try:
        call_ms = [_warm_up(invoke, warmup_ms, before_block) for invoke in invokes]
        samples: list[list[float]] = [[] for _ in invokes]
        spent_ms = [0.0] * len(invokes)
        rounds = 0
        while True:
            for i, invoke in enumerate(invokes):
                if spent_ms[i] < budget_ms:
                    before_block()
                    block, block_ms = _block(invoke, call_ms[i])
                    samples[i] += block
                    spent_ms[i] += block_ms
            rounds += 1
            if all(
                spent >= budget_ms
                or (rounds >= _MIN_ROUNDS and is_stable(durations, min_samples, stable_fraction))
                for spent, durations in zip(spent_ms, samples, strict=True)
            ):
                return samples
    finally:
        if collects_garbage:
            gc.enable()


def is_stable(samples: Sequence[float], min_samples: int, stable_fraction: float) -> bool:
    """Returns whether more samples would hardly move the median.

    Args:
        samples: Durations in the order in which they were measured.
        min_samples: Fewer samples than this are never stable.
        stable_fraction: Largest relative difference between the medians of the two halves.

    Returns:
        True if there are enough samples and their halves agree.
    """
    if len(samples) < max(2, min_samples):
        return False
    half = len(samples) // 2
    first, second = float(np.median(samples[:half])), float(np.median(samples[half:]))
    return abs(first - second) <= stable_fraction * min(first, second)


def _warm_up(
    invoke: Callable[[], object], warmup_ms: float, before_block: Callable[[], object]
) -> float:
    before_block()
    durations_ms = [_timed(invoke), _timed(invoke)]
    while sum(durations_ms) < warmup_ms:
        durations_ms.append(_timed(invoke))
    return float(np.median(durations_ms[1:]))


def _block(invoke: Callable[[], object], call_ms: float) -> tuple[list[float], float]:
    start = time.perf_counter_ns()
    if call_ms < _BLOCK_MS:
        for _ in range(_count(_REFRESH_MS, call_ms)):
            invoke()
    block = [_timed(invoke) for _ in range(_count(_BLOCK_MS, call_ms))]
    return block, (time.perf_counter_ns() - start) / 1e6


def _count(duration_ms: float, call_ms: float) -> int:
    return max(1, math.ceil(duration_ms / max(call_ms, 1e-3)))


def _timed(invoke: Callable[[], object]) -> float:
    start = time.perf_counter_ns()
    invoke()
    return (time.perf_counter_ns() - start) / 1e6
