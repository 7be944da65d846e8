"""Makes a Report of a run directory, and of nothing else."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from cprune_tf.errors import UserError
from cprune_tf.report import comparisons, cross_check, fields, history, types, verdict
from cprune_tf.runs import directory, journal


class ReportError(UserError, RuntimeError):
    """A directory that no report can be made of; says why."""


def build_report(run_dir: str | os.PathLike[str]) -> types.Report:
    """Reads a run directory, finished or not, even while the run goes on.

    Args:
        run_dir: The directory.

    Returns:
        The report; the same one for the same directory.

    Raises:
        ReportError: Where there is no journal.
        JournalError: Where the journal is damaged.
    """
    root = pathlib.Path(run_dir)
    path = root / directory.JOURNAL_NAME
    if not path.is_file():
        raise ReportError(
            f"{root} holds no {directory.JOURNAL_NAME}; expected the --workdir of a pruning run."
        )
    events = journal.read_events(path)
    config = _read_mapping(root / directory.CONFIG_NAME)
    environment = _read_mapping(root / directory.ENVIRONMENT_NAME)
    return _Builder(root, events, config, environment).build()


class _Builder:
    """Holds what several parts of the report are made of."""

    def __init__(
        self,
        root: pathlib.Path,
        events: Sequence[history.Event],
        config: dict[str, Any],
        environment: dict[str, Any],
    ) -> None:
        self.root = root
        self.events = events
        self.config = config
        self.environment = environment
        self.started = history.last(events, "run_started")
        self.baseline = history.last(events, "baseline")
        self.trained = history.last(events, "long_term_trained")
        self.check_event = history.last(events, "cross_check")
        self.end = history.last(events, "finished")
        self.finished = bool(self.end)
        self.models = history.models(events)
        self.iterations = history.iterations(events)
        self.check = cross_check.read(self.check_event)
        self.files = comparisons.exported_files(root, history.last(events, "exported"))
        self.device = _device(
            fields.mapping(self.check_event, "device"), fields.mapping(self.started, "device")
        )
        num_models = len(self.iterations)
        self.num_accepted = max(num_models - 1, 0)
        self.original = self.iterations[0] if num_models else None
        # A finished run without an accepted candidate ends with the original's channels.
        has_result = num_models > 1 or (num_models == 1 and self.finished)
        self.pruned = self.iterations[-1] if has_result else None

    def build(self) -> types.Report:
        decisions = history.decisions(self.events)
        latencies = self._latencies()
        accuracies = comparisons.accuracies(
            self._checks(), self._first_accuracy(), self._final_accuracy()
        )
        return types.Report(
            title=fields.text(self.started, "model")
            or fields.text(self.config, "model")
            or "model",
            finished=self.finished,
            status=self._status(len(decisions)),
            verdict=self._verdict(latencies),
            stop_reason=self._stop_reason(),
            version=fields.text(self.started, "version"),
            config_hash=fields.text(self.started, "config_hash"),
            sessions=len(history.of_kind(self.events, "run_started")),
            metric=self._metric(),
            required_accuracy=self._required_accuracy(),
            final_accuracy=self._final_accuracy(),
            device=self.device,
            latencies=latencies,
            accuracies=accuracies,
            sizes=comparisons.sizes(self.original, self.pruned, self._file_sizes()),
            iterations=self.iterations,
            decisions=decisions,
            decision_counts=history.decision_counts(decisions),
            layers=history.layers(self.original, self.pruned),
            tasks_original=history.tasks(self.models[0][1]) if self.models else (),
            tasks_pruned=history.tasks(self.models[-1][1]) if self.num_accepted else (),
            cross_check=self.check,
            files=self.files,
            stages=history.stages(self.events),
            elapsed_sec=history.elapsed_sec(self.events),
            peak_memory_bytes=fields.integer(self.end, "peak_memory_bytes"),
            long_term_epochs=fields.integer(self.trained, "epochs"),
            notes=self._notes(),
            environment=self.environment,
            config=self.config,
        )

    def _status(self, num_tried: int) -> str:
        last_event = str(self.events[-1].get("event")) if self.events else "nothing"
        return verdict.status(
            self.finished, self._stop_reason(), self.num_accepted, num_tried, last_event
        )

    def _verdict(self, latencies: Sequence[types.LatencyComparison]) -> str:
        return verdict.verdict(
            latencies,
            self._first_accuracy(),
            self._final_accuracy(),
            self._required_accuracy(),
            self._metric(),
            bool(self.device.emulated),
            self.num_accepted,
        )

    def _stop_reason(self) -> str | None:
        return fields.text(history.last(self.events, "stopped"), "reason")

    def _required_accuracy(self) -> float | None:
        return fields.number(self.baseline, "required_accuracy")

    def _first_accuracy(self) -> float | None:
        return self.original.accuracy if self.original else None

    def _latencies(self) -> tuple[types.LatencyComparison, ...]:
        return comparisons.latencies(
            cross_check.latencies(self.check_event),
            self.original,
            self.pruned,
            bool(self.device.emulated),
            fields.integer(fields.mapping(self.config, "measure"), "num_threads"),
        )

    def _checks(self) -> tuple[types.RuntimeCheck, ...]:
        return self.check.checks if self.check else ()

    def _file_sizes(self) -> dict[tuple[str, str], int]:
        result = self.pruned.model if self.pruned else None
        names = {
            comparisons.ORIGINAL: self.original.model if self.original else None,
            comparisons.PRUNED: fields.text(self.trained, "model") or result,
        }
        sizes = {which: comparisons.size_of(self.root, name or "") for which, name in names.items()}
        return comparisons.file_sizes(sizes, self.files, self._checks())

    def _final_accuracy(self) -> float | None:
        trained = fields.number(self.trained, "accuracy")
        if trained is not None:
            return trained
        return self.pruned.accuracy if self.pruned else None

    def _metric(self) -> str | None:
        told = fields.text(self.baseline, "metric")
        return told or fields.text(fields.mapping(self.config, "strategy"), "metric")

    def _notes(self) -> tuple[str, ...]:
        notes = []
        if self.device.emulated:
            notes.append(
                "The device is emulated: its latencies are shown as what steered the run, and no "
                "speed-up is given."
            )
        elif self.started and self.device.emulated is None:
            notes.append("Whether the device is a real one is not recorded.")
        for event in history.of_kind(self.events, "environment_changed"):
            changes = "; ".join(fields.texts(event, "changes"))
            notes.append(f"The machine or its packages changed while the run was paused: {changes}")
        sessions = len(history.of_kind(self.events, "run_started"))
        if sessions > 1:
            notes.append(
                f"The run was interrupted and resumed: {sessions} sessions. Times include what was "
                "cut off."
            )
        governor = fields.text(self.device.details, "governor")
        if governor and governor != "performance":
            notes.append(f"The device's governor was {governor!r}: its clock may have varied.")
        return tuple(notes)


def _device(*records: dict[str, Any]) -> types.Device:
    """Joins what several events tell; the last one that tells a field counts."""
    details: dict[str, Any] = {}
    emulated: bool | None = None
    for record in records:
        told = record.pop("emulated", None)
        if isinstance(told, bool):
            emulated = told or bool(emulated)
        details.update(record)
    name, abi = fields.text(details, "cpu_name"), fields.text(details, "abi")
    return types.Device(f"{name} ({abi})" if name and abi else name, emulated, details)


def _read_mapping(path: pathlib.Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ReportError(f"{path} is not JSON ({error}); restore it from a copy.") from error
    if not isinstance(value, dict):
        raise ReportError(f"{path} holds a {type(value).__name__}; expected a JSON object.")
    return value
