"""Reads what a finished run reached: speed-ups, accuracies by images, trainings and hours."""

from __future__ import annotations

import dataclasses
import datetime
import json
import pathlib
import statistics
from collections.abc import Sequence
from typing import Any

from cprune_tf.runs import directory, read_records
from cprune_tf.runs.events import (
    RUN_EVENTS,
    Accepted,
    CandidateJudged,
    CrossChecked,
    DataDescribed,
    Evaluated,
    Finished,
    LongTermTrained,
    ProposalTrained,
    RunStarted,
    SoftStarted,
    Stopped,
)
from cprune_tf.runs.records import Record

Span = tuple[datetime.datetime, datetime.datetime]

_NUM_THREADS = 1


@dataclasses.dataclass(frozen=True)
class Accuracies:
    """The accuracies of one model, 0..1.

    Attributes:
        deciding: On the images that decided what was accepted.
        untouched: On the test images that nothing was decided by; None if all of them decided.
        all_test: On all test images, whether they decided or not.
    """

    deciding: float
    untouched: float | None
    all_test: float


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a finished run reached.

    Attributes:
        speedup: The tuned original's latency / the result's, both in TVM on one thread, timed in
            turn.
        speedup_range: The same from the quartiles that are nearest and farthest.
        speedup_over_litert: The original's latency in LiteRT / the result's in TVM.
        original: The original's accuracies.
        result: The result's accuracies.
        validation_source: Where the deciding images come from: "train", "test", "given", or "" if
            all test images decided.
        num_deciding: Number of images that decided.
        num_untouched: Number of test images that did not.
        num_candidates: Candidates that were decided on.
        num_accepted: Candidates that were accepted.
        epochs: Epochs planned in all trainings: of candidates, soft starts and the result.
        kept: Which weights long-term training left; see `events.LongTermTrained`.
        stop_reason: Why pruning ended.
        hours: Duration of all sessions, to the last thing that each of them journalled.
        num_sessions: How often the run was started.
        problems: What the cross-check found wrong.
    """

    speedup: float
    speedup_range: tuple[float, float]
    speedup_over_litert: float
    original: Accuracies
    result: Accuracies
    validation_source: str
    num_deciding: int
    num_untouched: int
    num_candidates: int
    num_accepted: int
    epochs: int
    kept: str
    stop_reason: str
    hours: float
    num_sessions: int
    problems: tuple[str, ...]


def journal(root: pathlib.Path) -> tuple[Record, ...]:
    """Returns the records of a run; none if the directory holds no run yet."""
    path = root / directory.JOURNAL_NAME
    return read_records(path, RUN_EVENTS) if path.is_file() else ()


def is_finished(root: pathlib.Path) -> bool:
    """Returns whether a run has nothing left to do."""
    return any(isinstance(record.event, Finished) for record in journal(root))


def sessions(records: Sequence[Record]) -> list[Span]:
    """Returns when each session of a run began and when it journalled for the last time."""
    spans: list[Span] = []
    for record in records:
        if isinstance(record.event, RunStarted):
            spans.append((record.time, record.time))
        elif spans:
            spans[-1] = (spans[-1][0], record.time)
    return spans


def read_outcome(root: pathlib.Path) -> Outcome:
    """Reads a finished run.

    Args:
        root: The run directory.

    Returns:
        What the run reached.

    Raises:
        ValueError: If the run is not finished.
    """
    if not is_finished(root):
        raise ValueError(f"The run in {root} is not finished; expected one that is.")
    records = journal(root)
    events = [record.event for record in records]

    def last(kind: type) -> Any:
        return next((event for event in reversed(events) if type(event) is kind), None)

    checked: CrossChecked = last(CrossChecked)
    data, trained = last(DataDescribed), last(LongTermTrained)
    base = checked.latency("original", "tvm", _NUM_THREADS)
    pruned = checked.latency("pruned", "tvm", _NUM_THREADS)
    litert = checked.latency("original", "litert", _NUM_THREADS)
    spans = sessions(records)
    return Outcome(
        speedup=base.median_ms / pruned.median_ms,
        speedup_range=(base.q1_ms / pruned.q3_ms, base.q3_ms / pruned.q1_ms),
        speedup_over_litert=litert.median_ms / pruned.median_ms,
        original=_accuracies(last(Evaluated).accuracy, "original", checked, data),
        result=_accuracies(trained.accuracy, "pruned", checked, data),
        validation_source=data.validation_source,
        num_deciding=data.num_validation or data.num_test,
        num_untouched=data.num_test if data.num_validation else 0,
        num_candidates=sum(isinstance(event, CandidateJudged) for event in events),
        num_accepted=sum(isinstance(event, Accepted) for event in events),
        epochs=planned_epochs(root, events),
        kept=trained.kept,
        stop_reason=last(Stopped).reason,
        hours=sum((end - start).total_seconds() for start, end in spans) / 3600,
        num_sessions=len(spans),
        problems=checked.problems,
    )


def planned_epochs(root: pathlib.Path, events: Sequence[Any]) -> int:
    """Counts the epochs of all trainings that a run's journal tells of, as they were planned.

    Args:
        root: The run directory, which has the run's config.
        events: The run's events.

    Returns:
        Epochs of candidates, proposals, soft starts and of the result. Those of a training that
        was interrupted and repeated count once.
    """
    config = json.loads((root / directory.CONFIG_NAME).read_text(encoding="utf-8"))
    chosen = {event.index for event in events if isinstance(event, ProposalTrained)}
    short = sum(isinstance(event, ProposalTrained) for event in events)
    short += sum(
        isinstance(event, CandidateJudged)
        and event.accuracy is not None
        and event.index not in chosen
        for event in events
    )
    soft = sum(event.epochs for event in events if isinstance(event, SoftStarted))
    long = sum(event.epochs for event in events if isinstance(event, LongTermTrained))
    return int(short * config["training"]["short_term"]["epochs"] + soft + long)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Returns mean, standard deviation (0 of a single value), smallest and largest."""
    return {
        "mean": statistics.fmean(values),
        "standard_deviation": statistics.stdev(values) if len(values) > 1 else 0.0,
        "min": min(values),
        "max": max(values),
    }


def _accuracies(
    deciding: float, deployment: str, checked: CrossChecked, data: DataDescribed
) -> Accuracies:
    quoted = checked.result(deployment, "keras").accuracy
    if not data.num_validation:
        return Accuracies(deciding, None, quoted)
    if data.validation_source != "test":
        return Accuracies(deciding, quoted, quoted)
    # The test images were divided: both parts together are all of them.
    total = data.num_validation + data.num_test
    hits = deciding * data.num_validation + quoted * data.num_test
    return Accuracies(deciding, quoted, hits / total)
