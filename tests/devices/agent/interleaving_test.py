from __future__ import annotations

import itertools
import time

import pytest

from cprune_tf.devices.agent.interleaving import interleave, is_stable

SETTINGS = {"warmup_ms": 2.0, "min_samples": 10, "max_time_sec": 5.0, "stable_fraction": 0.5}


def sleeper(name, log, seconds=0.002):
    def invoke():
        log.append(name)
        time.sleep(seconds)

    return invoke


def blocks_of(log):
    return [(name, len(list(group))) for name, group in itertools.groupby(log)]


def test_calls_alternate_in_short_blocks():
    log = []
    samples = interleave([sleeper(name, log) for name in "abc"], **SETTINGS)
    names = [name for name, _ in blocks_of(log)]
    assert names == list("abc") * (len(names) // 3)
    assert len(names) // 3 > 6  # warm-up, and six rounds at least
    assert max(length for _, length in blocks_of(log)) < len(log) / 6
    assert all(len(taken) >= SETTINGS["min_samples"] for taken in samples)


def test_only_timed_calls_are_samples_and_they_last_as_long_as_the_call():
    log = []
    (slow, fast) = interleave([sleeper("s", log, 0.004), sleeper("f", log, 0.001)], **SETTINGS)
    assert len(slow) < log.count("s")
    assert len(fast) < log.count("f")
    assert min(slow) >= 4.0
    assert min(fast) >= 1.0
    assert sorted(fast)[len(fast) // 2] < sorted(slow)[len(slow) // 2]


def test_the_time_budget_ends_what_never_gets_stable():
    log = []
    pause = itertools.cycle((0.001, 0.004))
    settings = {**SETTINGS, "max_time_sec": 0.2, "stable_fraction": 0.0}

    def unsteady():
        time.sleep(next(pause))

    start = time.monotonic()
    samples = interleave([unsteady, sleeper("b", log)], **settings)
    assert all(len(taken) >= 1 for taken in samples)
    assert time.monotonic() - start < 10  # not for ever; the budgets say 0.4


def test_a_slow_call_is_timed_at_least_once_however_small_the_budget():
    log = []
    samples = interleave([sleeper("a", log, 0.05)], **{**SETTINGS, "max_time_sec": 0.001})
    assert len(samples[0]) == 1


def test_before_block_runs_before_the_warm_up_and_every_block():
    log = []
    interleave(
        [sleeper("a", log), sleeper("b", log)], before_block=lambda: log.append("-"), **SETTINGS
    )
    names = [name for name, _ in blocks_of(log)]
    assert names == ["-", "a", "-", "b"] * (len(names) // 4)


@pytest.mark.parametrize(
    ("samples", "min_samples", "fraction", "expected"),
    [
        ([1.0] * 10, 10, 0.01, True),
        ([1.0] * 9, 10, 0.01, False),
        ([], 0, 0.5, False),
        ([1.0], 0, 0.5, False),
        ([1.0] * 5 + [1.005] * 5, 10, 0.01, True),
        ([1.0] * 5 + [1.2] * 5, 10, 0.01, False),
        ([1.2] * 5 + [1.0] * 5, 10, 0.01, False),
        ([1.0, 9.0] * 10, 10, 0.01, True),  # spread is no drift
    ],
)
def test_is_stable(samples, min_samples, fraction, expected):
    assert is_stable(samples, min_samples, fraction) is expected
