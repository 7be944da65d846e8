"""What a run did, from its journal: accepted models, decisions, tasks, channels, time."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from cprune_tf.report import fields, types

Event = Mapping[str, Any]


def of_kind(events: Sequence[Event], kind: str) -> list[Event]:
    """The events of one kind, oldest first."""
    return [event for event in events if event.get("event") == kind]


def last(events: Sequence[Event], kind: str) -> Event:
    """The newest event of a kind; an empty one where there is none."""
    found = of_kind(events, kind)
    return found[-1] if found else {}


def models(events: Sequence[Event]) -> list[tuple[int, Event]]:
    """The models that became the current one, by iteration; number 0 is the original.

    Args:
        events: The journal.

    Returns:
        Pairs of the number of candidates tried before and the "baseline" or "accepted" event. An
        iteration that was journalled twice counts as it was the last time.
    """
    found: dict[int, tuple[int, Event]] = {}
    tried = 0
    for event in events:
        if event.get("event") == "candidate":
            tried += 1
        elif event.get("event") == "baseline":
            found[0] = (0, event)
        elif event.get("event") == "accepted":
            number = fields.integer(event, "iteration")
            found[max(found, default=0) + 1 if number is None else number] = (tried, event)
    return [found[number] for number in sorted(found)]


def iterations(events: Sequence[Event]) -> tuple[types.Iteration, ...]:
    """The accepted models, the original first."""
    return tuple(
        types.Iteration(
            iteration=fields.integer(event, "iteration") or 0,
            after_candidate=tried,
            accuracy=fields.number(event, "accuracy"),
            latency=fields.latency(event, "latency"),
            params=fields.integer(event, "params"),
            macs=fields.integer(event, "macs"),
            channels=fields.counts(event, "channels"),
            model=fields.text(event, "model"),
        )
        for tried, event in models(events)
    )


def decisions(events: Sequence[Event]) -> tuple[types.Decision, ...]:
    """Every candidate, oldest first."""
    return tuple(
        types.Decision(
            number=number,
            iteration=fields.integer(event, "iteration"),
            task=fields.text(event, "task"),
            layers=fields.texts(event, "layers"),
            removed=fields.counts(event, "removed"),
            step=fields.integer(event, "step"),
            price_ms=fields.number(event, "price_ms"),
            current_latency_ms=fields.number(event, "current_latency_ms"),
            measured=fields.latency(event, "measured"),
            accuracy=fields.number(event, "accuracy"),
            current_accuracy=fields.number(event, "current_accuracy"),
            decision=fields.text(event, "decision") or "not recorded",
            reason=fields.text(event, "reason"),
            elapsed_sec=fields.number(event, "elapsed_sec"),
        )
        for number, event in enumerate(of_kind(events, "candidate"), start=1)
    )


def decision_counts(found: Sequence[types.Decision]) -> dict[str, int]:
    """How many candidates ended how, in the order of their first appearance."""
    result: dict[str, int] = {}
    for decision in found:
        result[decision.decision] = result.get(decision.decision, 0) + 1
    return result


def tasks(event: Event) -> tuple[types.Task, ...]:
    """A model's tasks, the one with the largest share first."""
    found = [_task(task) for task in fields.mappings(event, "tasks")]
    return tuple(sorted(found, key=lambda task: -(task.total_ms or 0.0)))


def _task(task: Event) -> types.Task:
    return types.Task(
        name=fields.text(task, "name") or "(unnamed)",
        anchor=fields.text(task, "anchor"),
        weight=fields.integer(task, "weight"),
        layers=fields.texts(task, "layers"),
        groups=fields.texts(task, "groups"),
        macs=fields.number(task, "macs"),
        latency_ms=fields.number(task, "latency_ms"),
        total_ms=fields.number(task, "total_ms"),
        share=fields.number(task, "share"),
        gflops=fields.number(task, "gflops"),
        structure_step=fields.integer(task, "structure_step"),
        program=fields.text(task, "program"),
        protected=fields.text(task, "protected"),
    )


def layers(
    original: types.Iteration | None, pruned: types.Iteration | None
) -> tuple[types.LayerChannels, ...]:
    """Channels of each layer in the original and in the pruned model, where there is one."""
    if original is None:
        return ()
    after = pruned.channels if pruned else {}
    return tuple(
        types.LayerChannels(
            layer=layer,
            before=before,
            after=after.get(layer),
            kept=after[layer] / before if layer in after and before else None,
        )
        for layer, before in original.channels.items()
    )


def stages(events: Sequence[Event]) -> tuple[types.StageTime, ...]:
    """Time by stage over all sessions, in the order of their first ending."""
    times: dict[str, float] = {}
    for event in of_kind(events, "stage"):
        name = fields.text(event, "name") or "(unnamed)"
        times[name] = times.get(name, 0.0) + (fields.number(event, "elapsed_sec") or 0.0)
    total = sum(times.values())
    return tuple(
        types.StageTime(name, elapsed, elapsed / total if total else 0.0)
        for name, elapsed in times.items()
    )


def elapsed_sec(events: Sequence[Event]) -> float | None:
    """Seconds the sessions of a run took, from its start to the last thing it wrote."""
    sessions: list[list[Event]] = []
    for event in events:
        if event.get("event") == "run_started":
            sessions.append([])
        if sessions:
            sessions[-1].append(event)
    if not sessions:
        return None
    return sum(_session_sec(session) for session in sessions)


def _session_sec(session: Sequence[Event]) -> float:
    told = fields.number(last(session, "finished"), "elapsed_sec")
    if told is not None:
        return told
    first, final = _time(session[0]), _time(session[-1])
    return (final - first).total_seconds() if first and final else 0.0


def _time(event: Event) -> datetime.datetime | None:
    value = fields.text(event, "time")
    return datetime.datetime.fromisoformat(value.replace("Z", "+00:00")) if value else None
