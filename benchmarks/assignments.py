"""Random channel assignments, and what whole models with them take."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from cprune_tf import graph
from cprune_tf.config import MeasureConfig
from cprune_tf.latency.lab import LatencyLab
from cprune_tf.latency.workspace import OpenedModel
from cprune_tf.runs import Journal, Schema


@dataclasses.dataclass(frozen=True)
class Measured:
    """One tested assignment.

    Attributes:
        number: The assignment's number.
        keep: The number of units that each group keeps, by group name.
        measured_ms: Median latency of the pruned model in ms.
        unpruned_ms: Median latency in ms of the unpruned model, timed interleaved with it.
        build_sec: Time to build the pruned model, in seconds.
    """

    kind: ClassVar[str] = "test"
    number: int
    keep: Mapping[str, int]
    measured_ms: float
    unpruned_ms: float
    build_sec: float


TEST_EVENTS = Schema(2, (Measured,))


def random_assignments(
    channels: graph.ChannelGraph, count: int, seed: int
) -> tuple[dict[str, int], ...]:
    """Draws assignments as a pruning tool might choose: multiples of 4, a quarter to all units."""
    import numpy as np

    rng = np.random.default_rng(seed)
    assignments = []
    for _ in range(count):
        keep = {}
        for group in channels.prunable:
            num_fours = group.num_channels // 4
            least = max(1, math.ceil(num_fours / 4))
            keep[group.name] = 4 * int(rng.integers(least, num_fours + 1))
        assignments.append(keep)
    return tuple(assignments)


def measured_assignments(
    opened: OpenedModel,
    lab: LatencyLab,
    assignments: Sequence[Mapping[str, int]],
    measure: MeasureConfig,
) -> Iterator[Measured]:
    """Builds and times whole models with some assignments, in turn with the unpruned one.

    Args:
        opened: The tuned model.
        lab: Its lab.
        assignments: Number of units to keep, by group.
        measure: How models are timed.

    Yields:
        The measurement of each assignment, in order. Those that the workdir's tests.jsonl holds are
        not repeated.
    """
    runtime = opened.runtime
    base = opened.workdir / f"base{runtime.suffix}"
    runtime.build(opened.prepared, base)
    with Journal(opened.workdir / "tests.jsonl", TEST_EVENTS) as journal:
        known = {test.number: test for test in journal.events(Measured)}
        for number, keep in enumerate(assignments):
            if number not in known:
                library = opened.workdir / f"test_{number}{runtime.suffix}"
                start = time.monotonic()
                lab.build(keep, library)
                build_sec = time.monotonic() - start
                whole, unpruned = runtime.time([library, base], opened.model, measure)
                library.unlink()
                known[number] = journal.append(
                    Measured(number, dict(keep), whole.median_ms, unpruned.median_ms, build_sec)
                )
            yield known[number]
