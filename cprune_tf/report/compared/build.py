"""Builds the comparison of strategies from their run directories and the joint measurement."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from cprune_tf.accuracy import Metric
from cprune_tf.baselines.tfmot.sparse_files import read_sparse_files
from cprune_tf.devices.latency import Latency
from cprune_tf.front import read_front
from cprune_tf.report import formats, history
from cprune_tf.report import sentences as report_sentences
from cprune_tf.report import types as report_types
from cprune_tf.report.build import build_report
from cprune_tf.report.compared import sentences, types
from cprune_tf.runs import directory, journal
from cprune_tf.runs.events import (
    RUN_EVENTS,
    CandidateJudged,
    DataDescribed,
    LongTermTrained,
    PatternsTrained,
    ProposalTrained,
    SoftStarted,
)
from cprune_tf.runs.records import Record

_PRUNING, _TUNING = "Prune", "Tune the result"
_ORDER = (types.MET, types.MISSED, types.UNPRUNED, types.FAILED)


def build_comparison(
    workdir: pathlib.Path,
    strategies: Sequence[str],
    failures: Mapping[str, str],
    timing: types.Timing | None,
) -> types.Comparison:
    """Builds the comparison; the same directories always give the same one.

    Args:
        workdir: The directory of the comparison; each strategy's run is in the folder of its name.
        strategies: The strategies to compare.
        failures: Why a strategy's run failed, for those that did.
        timing: The joint measurement of all results; None if there is none.

    Returns:
        The comparison.

    Raises:
        ReportError: If a finished run's directory lacks a file.
        JournalError: If a journal is damaged.
    """
    runs = [_Run(workdir / name) for name in strategies if name not in failures]
    finished = [run for run in runs if run.report.finished]
    lost = {name: failures.get(name, "the run is not finished") for name in strategies}
    rows = [run.row(timing) for run in finished]
    names = {row.strategy for row in rows}
    rows += [_failed(name, lost[name]) for name in strategies if name not in names]
    rows.sort(key=_rank)
    report = finished[0].report if finished else None
    required = report.required_accuracy if report else None
    emulated = bool(report and report.device.emulated)
    config = _shared_config(workdir, strategies)
    which_images = finished[0].which_images() if finished else ""
    metric = report.judged_by if report else Metric("accuracy")
    return types.Comparison(
        title=report.title if report else str(config.get("model", "model")),
        verdict=sentences.verdict(rows, required, emulated, metric),
        notes=sentences.notes(rows, timing, config, which_images, metric),
        metric=report.metric if report else None,
        is_minimized=bool(report and report.is_minimized),
        required_accuracy=required,
        device_name=report.device.name if report else None,
        emulated=emulated,
        original=_original(report, timing),
        rows=tuple(rows),
        timing=timing,
        config=config,
    )


def has_pruned_model(root: pathlib.Path) -> bool:
    """Returns whether a finished run delivers a model other than the original."""
    return _Run(root).result != 0


class _Run:
    """A run directory, read once."""

    def __init__(self, root: pathlib.Path) -> None:
        self.root = root
        self.report = build_report(root)
        self.records: tuple[Record, ...] = journal.read_records(
            root / directory.JOURNAL_NAME, RUN_EVENTS
        )

    @property
    def result(self) -> int:
        """The number of the accepted model that the run delivers; 0 for the original."""
        trained = history.last(self.records, LongTermTrained)
        last = len(self.report.iterations) - 1
        return last if trained is None or trained.iteration < 0 else trained.iteration

    def row(self, timing: types.Timing | None) -> types.Row:
        """Returns the row of a finished run."""
        report, pruned = self.report, self.result != 0
        accuracy, required = report.final_accuracy, report.required_accuracy
        met = required is None or (accuracy is not None and accuracy >= required)
        state = (types.MET if met else types.MISSED) if pruned else types.UNPRUNED
        latency = timing.latency(self.root.name) if timing and pruned else None
        params = next((row.pruned for row in report.sizes if row.name == "parameters"), None)
        return types.Row(
            strategy=self.root.name,
            state=state,
            remark="" if pruned else self._why_unpruned(),
            deciding_accuracy=accuracy if pruned else None,
            test_accuracy=_on_test_images(report).pruned if pruned else None,
            latency=latency,
            speedup=_speedup(timing, latency),
            params=None if params is None or not pruned else int(params),
            cost=self._cost(),
            accepted=self._accepted(),
            folder=self.root.name,
            sparse=read_sparse_files(self.root),
        )

    def which_images(self) -> str:
        """Says which images decided; "" if the journal does not say."""
        data = history.last(self.records, DataDescribed)
        return report_sentences.which_images(data, self.report.judged_by) if data else ""

    def _why_unpruned(self) -> str:
        if len(self.report.iterations) > 1:
            return (
                "after long-term training, no accepted model has the required accuracy; the "
                "original is delivered."
            )
        return f"no candidate was accepted ({self.report.stop_reason or 'pruning did not end'})."

    def _cost(self) -> types.SearchCost:
        seconds = {stage.name: stage.elapsed_sec for stage in self.report.stages}
        prune_sec, tune_sec = seconds.get(_PRUNING, 0.0), seconds.get(_TUNING, 0.0)
        candidates = history.of_kind(self.records, CandidateJudged)
        proposals = history.of_kind(self.records, ProposalTrained)
        before_training = (SoftStarted, PatternsTrained)
        earlier = [one for kind in before_training for one in history.of_kind(self.records, kind)]
        # A candidate that was chosen among trained proposals is not trained again.
        chosen = {proposal.index for proposal in proposals}
        trained = [
            candidate
            for candidate in candidates
            if candidate.accuracy is not None and candidate.index not in chosen
        ]
        return types.SearchCost(
            search_sec=prune_sec + tune_sec,
            prune_sec=prune_sec,
            tune_sec=tune_sec,
            num_candidates=len(candidates),
            num_trained=len(proposals) + len(trained) + len(earlier),
            num_sessions=self.report.sessions,
        )

    def _accepted(self) -> tuple[types.AcceptedModel, ...]:
        return tuple(
            types.AcceptedModel(point.number, point.speedup, point.accuracy)
            for point in read_front(self.root)
            if point.number and not point.is_result
        )


def _failed(name: str, reason: str) -> types.Row:
    return types.Row(name, types.FAILED, reason, None, None, None, None, None, None, (), name)


def _rank(row: types.Row) -> tuple[int, float, str]:
    latency_ms = row.latency.median_ms if row.latency else float("inf")
    return (_ORDER.index(row.state), latency_ms, row.strategy)


def _original(report: report_types.Report | None, timing: types.Timing | None) -> types.Original:
    latency = timing.latency(types.ORIGINAL) if timing else None
    if report is None or not report.iterations:
        return types.Original(None, None, latency, None)
    first = report.iterations[0]
    tested = _on_test_images(report).original
    return types.Original(first.accuracy, tested, latency, first.params)


def _on_test_images(report: report_types.Report) -> report_types.Comparison:
    """Returns the accuracies in Keras, which are on the test images."""
    for row in report.accuracies:
        if row.name != formats.VALIDATION:
            return row
    return report_types.Comparison("keras", None, None, None, None)


def _speedup(timing: types.Timing | None, latency: Latency | None) -> types.Speedup | None:
    base = timing.latency(types.ORIGINAL) if timing else None
    if timing is None or timing.device.emulated or base is None or latency is None:
        return None
    return types.Speedup(
        base.median_ms / latency.median_ms, base.q1_ms / latency.q3_ms, base.q3_ms / latency.q1_ms
    )


def _shared_config(workdir: pathlib.Path, strategies: Sequence[str]) -> dict[str, Any]:
    """Returns the config of the runs without the name of the strategy; {} if no run began."""
    paths = (workdir / name / directory.CONFIG_NAME for name in strategies)
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        return {}
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    config.get("strategy", {}).pop("name", None)
    return config
