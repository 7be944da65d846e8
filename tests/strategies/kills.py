"""Kills a run in the middle, as a signal would, and counts what is measured for staircases."""

from __future__ import annotations

from cprune_tf.latency.lab import LatencyLab
from cprune_tf.runs import Journal, events


class Killed(BaseException):
    """Stands for a signal: nothing catches it."""


def dying(function, call, counts=lambda *arguments: True):
    """Dies at the given call of a function, of those calls that count."""
    left = call

    def called(*arguments, **named):
        nonlocal left
        left -= counts(*arguments)
        if left == 0:
            raise Killed
        return function(*arguments, **named)

    return called


def die_at(patch, bench, moment):
    """Makes a run die while it writes its plan, measures a candidate or trains it.

    Args:
        patch: What undoes it afterwards.
        bench: The workbench of the run.
        moment: "plan", "measure" or "train", and a number: the call that dies.
    """
    what, call = moment
    if what == "plan":

        def plans(journal, event):
            return isinstance(event, events.CandidatePlanned)

        patch.setattr(Journal, "append", dying(Journal.append, call, plans))
    else:
        patch.setattr(type(bench), what, dying(getattr(type(bench), what), call))


def measured_tasks(monkeypatch):
    """Returns a list that grows by each task which a lab measures from now on."""
    measured = []
    measure = LatencyLab.measure

    def counted(lab, keep, on_task=None, only=None):
        units = lab.full(keep)
        tasks = {(site.family, site.counts(units)) for site in lab._unmeasured(units)}
        measured.extend(tasks if only is None else tasks & set(only))
        return measure(lab, keep, on_task, only)

    monkeypatch.setattr(LatencyLab, "measure", counted)
    return measured
