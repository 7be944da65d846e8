"""Timing several things against each other: interleaved, warmed up, until the medians are stable.

Only the standard library and numpy: this runs in the device's process.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Sequence

import numpy as np

# Long enough that the caches and branch predictors are the model's own, short enough that a slow
# drift of the clock frequency meets all models alike.
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

    Every block starts with untimed calls (about 1 ms, at least one where a call is shorter than a
    block) that bring the code and data back into the caches after the others' blocks.

    Args:
        invokes: What to time; each is called without arguments.
        warmup_ms: Running time of each thrown away first.
        min_samples: Samples of each at least, unless its time ends before.
        max_time_sec: Running time of each at most (the call under way is finished).
        stable_fraction: The end comes when, for each, the medians of the first and the second half
            of its samples differ by less than this fraction.
        before_block: Called before every block, untimed.

    Returns:
        For each, the duration of every timed call in ms, in the order they were made.
    """
    budget_ms = max_time_sec * 1000
    enabled = gc.isenabled()
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
                or (rounds >= _MIN_ROUNDS and is_stable(taken, min_samples, stable_fraction))
                for spent, taken in zip(spent_ms, samples, strict=True)
            ):
                return samples
    finally:
        if enabled:
            gc.enable()


def is_stable(samples: Sequence[float], min_samples: int, stable_fraction: float) -> bool:
    """Whether more samples would hardly move the median.

    Args:
        samples: Durations in the order they were taken.
        min_samples: Fewer than that are never stable.
        stable_fraction: Largest relative difference between the medians of the two halves.

    Returns:
        True where there are enough samples and their halves agree.
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
    taken = [_timed(invoke), _timed(invoke)]
    while sum(taken) < warmup_ms:
        taken.append(_timed(invoke))
    return float(np.median(taken[1:]))


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
