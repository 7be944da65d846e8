"""Reads a run's history from its journal: accepted models, decisions, tasks, channels, time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from cprune_tf.devices.latency import Latency
from cprune_tf.report import types
from cprune_tf.runs.events import (
    Accepted,
    Baseline,
    CandidateJudged,
    CountRuledOut,
    Finished,
    RunStarted,
    StageEnded,
)
from cprune_tf.runs.records import Event, Record
from cprune_tf.runs.results import ModelRecord, TaskRecord

E = TypeVar("E", bound=Event)


def of_kind(records: Iterable[Record], kind: type[E]) -> list[E]:
    """Returns the events of exactly this class, oldest first."""
    return [record.event for record in records if type(record.event) is kind]


def last(records: Iterable[Record], kind: type[E]) -> E | None:
    """Returns the newest event of exactly this class; None if there is none."""
    events = of_kind(records, kind)
    return events[-1] if events else None


def models(records: Iterable[Record]) -> list[tuple[int, ModelRecord]]:
    """Returns the models that became the current one, by iteration; number 0 is the original.

    Args:
        records: The journal's records.

    Returns:
        (number of candidates tried before the model, model). If an iteration was journalled twice,
        the last one counts.
    """
    by_iteration: dict[int, tuple[int, ModelRecord]] = {}
    num_tried = 0
    for record in records:
        event = record.event
        if isinstance(event, CandidateJudged):
            num_tried += 1
        elif isinstance(event, (Baseline, Accepted)):
            by_iteration[event.iteration] = (num_tried, event)
    return [by_iteration[iteration] for iteration in sorted(by_iteration)]


def iterations(records: Iterable[Record]) -> tuple[types.Iteration, ...]:
    """Returns the accepted models, the original first."""
    return tuple(
        types.Iteration(
            iteration=model.iteration,
            after_candidate=num_tried,
            accuracy=model.accuracy,
            latency=latency(model.latency),
            params=model.params,
            macs=model.macs,
            channels=dict(model.channels),
            model=model.model,
            difference=None if model.paired is None else model.paired.difference,
            standard_error=None if model.paired is None else model.paired.standard_error,
        )
        for num_tried, model in models(records)
    )


def latency(measured: Latency) -> types.Latency:
    """Converts a measured latency to the form that a report shows."""
    return types.Latency(
        median_ms=measured.median_ms,
        q1_ms=measured.q1_ms,
        q3_ms=measured.q3_ms,
        min_ms=measured.min_ms,
        count=measured.count,
        num_threads=measured.num_threads,
        processor=measured.conditions.processor,
    )


def decisions(records: Sequence[Record]) -> tuple[types.Decision, ...]:
    """Returns the decisions about all candidates, oldest first."""
    current = {model.iteration: model for _, model in models(records)}
    return tuple(
        _decision(number, event, current[event.iteration])
        for number, event in enumerate(of_kind(records, CandidateJudged), start=1)
    )


def _decision(number: int, event: CandidateJudged, current: ModelRecord) -> types.Decision:
    measured, paired = event.measured, event.paired
    # A price is scaled to the latency that the current model had when it was made. A measured
    # candidate was timed side by side with the current model. So each has its own reference.
    priced_ms, current_ms = current.latency.median_ms, event.current_latency_ms
    return types.Decision(
        number=number,
        iteration=event.iteration,
        # A strategy that aims at no single task still names what it tries.
        task=event.task or event.key,
        layers=event.layers,
        removed=dict(event.removed),
        step=event.step,
        price_ms=event.price_ms,
        price_ratio=None if event.price_ms is None else event.price_ms / priced_ms,
        current_latency_ms=current_ms,
        measured=None if measured is None else latency(measured),
        latency_ratio=None if measured is None else measured.median_ms / current_ms,
        accuracy=event.accuracy,
        num_images=None if paired is None else paired.num_images,
        difference=None if paired is None else paired.difference,
        standard_error=None if paired is None else paired.standard_error,
        current_accuracy=event.current_accuracy,
        decision=event.decision,
        reason=event.reason,
        elapsed_sec=event.elapsed_sec,
    )


def decision_counts(candidates: Sequence[types.Decision]) -> dict[str, int]:
    """Counts the candidates by decision, in the order of the decisions' first appearance."""
    counts: dict[str, int] = {}
    for decision in candidates:
        counts[decision.decision] = counts.get(decision.decision, 0) + 1
    return counts


def ruled_out(records: Iterable[Record]) -> tuple[types.RuledOut, ...]:
    """Returns the channel counts that their price ruled out, by target in order of appearance."""
    by_key: dict[str, list[CountRuledOut]] = {}
    for event in of_kind(records, CountRuledOut):
        by_key.setdefault(event.key, []).append(event)
    return tuple(
        types.RuledOut(
            key=key,
            steps=tuple(event.step for event in events),
            lowest_ratio=min(event.price_ratio for event in events),
            highest_ratio=max(event.price_ratio for event in events),
            reason=events[-1].reason,
        )
        for key, events in by_key.items()
    )


def tasks(model: ModelRecord) -> tuple[TaskRecord, ...]:
    """Returns a model's tasks, the one with the largest share first."""
    return tuple(sorted(model.tasks, key=lambda task: -task.total_ms))


def layers(
    original: types.Iteration | None, pruned: types.Iteration | None
) -> tuple[types.LayerChannels, ...]:
    """Returns the channels of each layer in the original and, if it exists, the pruned model.

    A layer that the pruned model does not have keeps no channels.
    """
    if original is None:
        return ()
    if pruned is None:
        return tuple(
            types.LayerChannels(layer, before, None, None)
            for layer, before in original.channels.items()
        )
    after = {layer: pruned.channels.get(layer, 0) for layer in original.channels}
    return tuple(
        types.LayerChannels(layer, before, after[layer], after[layer] / before if before else None)
        for layer, before in original.channels.items()
    )


def stages(records: Iterable[Record]) -> tuple[types.StageTime, ...]:
    """Returns the time spent on each stage in all sessions, in the order of their first ending."""
    times: dict[str, float] = {}
    for event in of_kind(records, StageEnded):
        times[event.name] = times.get(event.name, 0.0) + event.elapsed_sec
    total = sum(times.values())
    return tuple(
        types.StageTime(name, elapsed, elapsed / total if total else 0.0)
        for name, elapsed in times.items()
    )


def elapsed_sec(records: Iterable[Record]) -> float | None:
    """Sums the seconds of all sessions of a run, each from its start to its last event."""
    sessions: list[list[Record]] = []
    for record in records:
        if isinstance(record.event, RunStarted):
            sessions.append([])
        if sessions:
            sessions[-1].append(record)
    if not sessions:
        return None
    return sum(_session_sec(session) for session in sessions)


def _session_sec(session: Sequence[Record]) -> float:
    finished = last(session, Finished)
    if finished is not None:
        return finished.elapsed_sec
    return (session[-1].time - session[0].time).total_seconds()
