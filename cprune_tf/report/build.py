"""Builds a Report from a run directory alone."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from cprune_tf.accuracy import TOP1, Metric
from cprune_tf.errors import UserError
from cprune_tf.report import (
    comparisons,
    cross_check,
    history,
    patterns,
    sentences,
    shipping,
    types,
)
from cprune_tf.runs import directory, journal
from cprune_tf.runs.events import (
    RUN_EVENTS,
    Baseline,
    CrossChecked,
    DataDescribed,
    EnvironmentChanged,
    Evaluated,
    Exported,
    Finished,
    LongTermTrained,
    PatternsTrained,
    RunStarted,
    Stopped,
)
from cprune_tf.runs.records import Record
from cprune_tf.runs.results import file_label


class ReportError(UserError, RuntimeError):
    """Raised if no report can be made from a directory; says why."""


def build_report(run_dir: str | os.PathLike[str]) -> types.Report:
    """Builds the report of a finished or unfinished run, even while the run continues.

    Args:
        run_dir: The run directory.

    Returns:
        The report; the same directory always gives the same report.

    Raises:
        ReportError: If the directory holds no journal, or a JSON file in it cannot be read.
        JournalError: If the journal is damaged or has another format.
    """
    root = pathlib.Path(run_dir)
    path = root / directory.JOURNAL_NAME
    if not path.is_file():
        raise ReportError(
            f"{root} holds no {directory.JOURNAL_NAME}; expected the --workdir of a pruning run."
        )
    records = journal.read_records(path, RUN_EVENTS)
    config = _read_mapping(root / directory.CONFIG_NAME)
    environment = _read_mapping(root / directory.ENVIRONMENT_NAME)
    return _Builder(root, records, config, environment).build()


class _Builder:
    """Holds the events that several parts of the report use; None for events not yet journalled."""

    def __init__(
        self,
        root: pathlib.Path,
        records: Sequence[Record],
        config: dict[str, Any],
        environment: dict[str, Any],
    ) -> None:
        self.root = root
        self.records = records
        self.config = config
        self.environment = environment
        self.started = history.last(records, RunStarted)
        self.data = history.last(records, DataDescribed)
        self.evaluated = history.last(records, Evaluated)
        self.baseline = history.last(records, Baseline)
        self.stopped = history.last(records, Stopped)
        self.trained = history.last(records, LongTermTrained)
        self.checked = history.last(records, CrossChecked)
        self.end = history.last(records, Finished)
        self.models = history.models(records)
        self.iterations = history.iterations(records)
        self.check = cross_check.summarize(self.checked) if self.checked else None
        exported = history.last(records, Exported)
        self.files = exported.files if exported else ()
        self.device = _device(self.started, self.checked)
        num_models = len(self.iterations)  # The original and all accepted candidates.
        self.num_accepted = max(num_models - 1, 0)
        self.original = self.iterations[0] if num_models else None
        # A finished run without an accepted candidate ends with the original's channels.
        has_result = num_models > 1 or (num_models == 1 and self.end is not None)
        self.result = self._delivered()
        self.pruned = self.iterations[self.result] if has_result else None

    def _delivered(self) -> int:
        """Returns the position of the model that the run delivers among the accepted ones."""
        trained = self.trained.iteration if self.trained else -1
        numbers = [iteration.iteration for iteration in self.iterations]
        return numbers.index(trained) if trained in numbers else len(numbers) - 1

    def build(self) -> types.Report:
        started = self.started
        decisions = history.decisions(self.records)
        latencies = self._latencies()
        accuracies = comparisons.accuracies(
            self._checks(),
            self._first_accuracy(),
            self._final_accuracy(),
            self._final_error(),
            self._num_validation() > 0,
            self._judge(),
        )
        return types.Report(
            title=started.model if started else "model",
            finished=self.end is not None,
            status=self._status(len(decisions)),
            verdict=self._verdict(latencies, accuracies),
            stop_reason=self._stop_reason(),
            version=started.version if started else None,
            config_hash=started.config_hash if started else None,
            sessions=self._num_sessions(),
            metric=self.baseline.metric if self.baseline else None,
            is_minimized=self._metric().is_minimized,
            required_accuracy=self._required_accuracy(),
            final_accuracy=self._final_accuracy(),
            device=self.device,
            runtime=self._runtime(),
            latencies=latencies,
            accuracies=accuracies,
            shippable=self._shippable(),
            shippable_threads=shipping.thread_counts(self._measured()),
            sizes=comparisons.sizes(self.original, self.pruned, self._file_sizes()),
            iterations=self.iterations,
            decisions=decisions,
            decision_counts=history.decision_counts(decisions),
            ruled_out=history.ruled_out(self.records),
            layers=history.layers(self.original, self.pruned),
            patterns=self._patterns(),
            tasks_original=history.tasks(self.models[0][1]) if self.models else (),
            tasks_pruned=history.tasks(self.models[self.result][1]) if self.num_accepted else (),
            cross_check=self.check,
            files=self.files,
            stages=history.stages(self.records),
            elapsed_sec=history.elapsed_sec(self.records),
            peak_memory_bytes=self.end.peak_memory_bytes if self.end else None,
            long_term_epochs=self.trained.epochs if self.trained else None,
            notes=self._notes(),
            environment=self.environment,
            config=self.config,
        )

    def _status(self, num_tried: int) -> str:
        last_event = self.records[-1].event.kind if self.records else "nothing"
        return sentences.status(
            self.end is not None, self._stop_reason(), self.num_accepted, num_tried, last_event
        )

    def _num_validation(self) -> int:
        return self.data.num_validation if self.data else 0

    def _verdict(
        self,
        latencies: Sequence[types.LatencyComparison],
        accuracies: Sequence[types.Comparison],
    ) -> str:
        return sentences.verdict(
            latencies,
            self._tested(accuracies) if self._num_validation() and len(accuracies) > 1 else None,
            self.evaluated.accuracy if self.evaluated else self._first_accuracy(),
            self._final_accuracy(),
            self._final_error(),
            self._required_accuracy(),
            self._metric(),
            bool(self.device.emulated),
            self.num_accepted,
            "int8 in LiteRT" if self._judge() != "keras" else "",
        )

    def _tested(self, accuracies: Sequence[types.Comparison]) -> types.Comparison:
        """The original in Keras, and the result as the judge sees it, on the test images."""
        in_keras = next(row for row in accuracies if row.name == "keras")
        judged = accuracies[0]
        if judged.name == in_keras.name:
            return judged
        return comparisons.compare(judged.name, in_keras.original, judged.pruned)

    def _judge(self) -> str:
        """What gave the accuracies that decided: Keras, or the label of the int8 files."""
        return self._label() if self.config.get("precision") == "int8" else "keras"

    def _label(self) -> str:
        """The label of the files that the run was for; see `runs.results.file_label`."""
        return file_label(self._runtime(), str(self.config.get("precision", "float32")))

    def _stop_reason(self) -> str | None:
        return self.stopped.reason if self.stopped else None

    def _required_accuracy(self) -> float | None:
        return self.baseline.required_accuracy if self.baseline else None

    def _metric(self) -> Metric:
        if self.baseline is None:
            return Metric("accuracy")
        return Metric(self.baseline.metric, self.baseline.is_minimized)

    def _first_accuracy(self) -> float | None:
        return self.original.accuracy if self.original else None

    def _final_accuracy(self) -> float | None:
        if self.trained is not None:
            return self.trained.accuracy
        return self.pruned.accuracy if self.pruned else None

    def _final_error(self) -> float | None:
        """The standard error of the result's accuracy minus the original's."""
        if self.trained is not None:
            return self.trained.paired.standard_error if self.trained.paired else None
        return self.pruned.standard_error if self.pruned else None

    def _num_sessions(self) -> int:
        return len(history.of_kind(self.records, RunStarted))

    def _latencies(self) -> tuple[types.LatencyComparison, ...]:
        emulated = bool(self.device.emulated)
        return comparisons.latencies(
            self._measured(), self.original, self.pruned, emulated, self._label()
        )

    def _measured(self) -> dict[cross_check.LatencyKey, types.Latency]:
        return cross_check.latencies(self.checked) if self.checked else {}

    def _shippable(self) -> tuple[types.Shippable, ...]:
        if self.checked is None:
            return ()
        evaluated, required = self.evaluated, self._required_accuracy()
        allowed = None
        if evaluated is not None and required is not None:
            allowed = evaluated.accuracy - required
        threads = self.original.latency.num_threads if self.original else 1
        return shipping.shippable(
            self._checks(),
            self._measured(),
            allowed,
            threads,
            bool(self.device.emulated),
        )

    def _patterns(self) -> types.Patterns | None:
        event = history.last(self.records, PatternsTrained)
        if event is None:
            return None
        result = self.iterations[self.result] if self.iterations else None
        is_delivered = result is not None and result.after_candidate == event.index + 1
        return patterns.summarize(event, self.files, is_delivered)

    def _runtime(self) -> str:
        """Returns the runtime that the run was for."""
        return str(self.config.get("runtime", "tvm"))

    def _checks(self) -> tuple[types.RuntimeCheck, ...]:
        return self.check.checks if self.check else ()

    def _file_sizes(self) -> dict[tuple[str, str], int]:
        sizes: dict[str, int | None] = {}
        if self.original is not None:
            sizes[comparisons.ORIGINAL] = comparisons.size_of(self.root, self.original.model)
        result = self.trained or self.pruned
        if result is not None:
            sizes[comparisons.PRUNED] = comparisons.size_of(self.root, result.model)
        return comparisons.file_sizes(sizes, self.files, self._checks())

    def _notes(self) -> tuple[str, ...]:
        notes = []
        if self.device.emulated:
            notes.append(
                "The device is emulated: its latencies are shown only because they steered the "
                "run, and no speed-up is given."
            )
        if self.data is not None:
            notes.append(
                sentences.which_images(self.data, self._metric() if self.baseline else TOP1)
            )
        if self._runtime() == "litert":
            notes.append(sentences.for_litert(str(self.config.get("precision", "float32"))))
        for event in history.of_kind(self.records, EnvironmentChanged):
            changes = "; ".join(event.changes)
            notes.append(f"The machine or its packages changed while the run was paused: {changes}")
        if self.trained is not None and 0 <= self.result < self.num_accepted:
            notes.append(
                f"{self.num_accepted} pruned models were accepted. The result is number "
                f"{self.result}: after long-term training, the later ones missed the required "
                f"{self._metric().word}."
            )
        sessions = self._num_sessions()
        if sessions > 1:
            notes.append(
                f"The run was interrupted and resumed: {sessions} sessions. Times include "
                "interrupted work."
            )
        governor = self.device.details.get("governor")
        if governor and governor != "performance":
            notes.append(
                f"The device's CPU governor was {governor!r}, so its clock rate may have varied."
            )
        return tuple(notes)


def _device(started: RunStarted | None, checked: CrossChecked | None) -> types.Device:
    """Returns the device that the run was tuned on; emulated if either event says so."""
    infos = [event.device for event in (started, checked) if event is not None]
    if not infos:
        return types.Device(None, None, {})
    device = infos[0]
    details = device.to_json()
    del details["emulated"]
    name = f"{device.cpu_name} ({device.abi})" if device.cpu_name else device.abi
    return types.Device(name, any(info.emulated for info in infos), details)


def _read_mapping(path: pathlib.Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ReportError(f"{path} is not JSON ({error}); restore the file from a copy.") from error
    if not isinstance(value, dict):
        raise ReportError(
            f"{path} holds a {type(value).__name__}; expected a JSON object. Restore the file from "
            "a copy."
        )
    return value
