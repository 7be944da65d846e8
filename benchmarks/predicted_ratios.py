"""How well the strategy `predictive` predicted: its candidates, and assignments it never chose.

What is measured for that is measured in a copy of the run's measurements, so that the run's own
stay as they are.
"""

from __future__ import annotations

import dataclasses
import pathlib
import shutil
import statistics
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from assignments import measured_assignments, random_assignments

from cprune_tf import graph, models
from cprune_tf.config import PruneConfig
from cprune_tf.latency.workspace import POINTS, OpenedModel, open_as_configured
from cprune_tf.runs import Journal, Schema, directory, read_records
from cprune_tf.runs.events import (
    RUN_EVENTS,
    Accepted,
    Baseline,
    CandidateJudged,
    CandidatePlanned,
)
from cprune_tf.strategies.planning.planner import Planner, PlannerConfig


@dataclasses.dataclass(frozen=True)
class CandidateTimed:
    """A candidate that the run had refused without timing it.

    Attributes:
        index: The candidate's number.
        ratio: Its latency / that of the model it was made from, timed in turn.
    """

    kind: ClassVar[str] = "candidate_timed"
    index: int
    ratio: float


_EVENTS = Schema(1, (CandidateTimed,))


@dataclasses.dataclass(frozen=True)
class Predicted:
    """One prediction.

    Attributes:
        predicted: Predicted latency / the latency that it is compared with.
        measured: The same, measured.
    """

    predicted: float
    measured: float

    @property
    def error(self) -> float:
        """The relative error."""
        return self.predicted / self.measured - 1


def summary(predictions: Sequence[Predicted]) -> dict[str, Any]:
    """Returns the median and the largest of the absolute errors, and all predictions."""
    errors = [abs(one.error) for one in predictions]
    return {
        "count": len(errors),
        "median_error": statistics.median(errors) if errors else None,
        "max_error": max(errors, default=None),
        "predictions": [{**dataclasses.asdict(one), "error": one.error} for one in predictions],
    }


def check_predictions(
    config: PruneConfig, root: pathlib.Path, folder: pathlib.Path, count: int, seed: int
) -> tuple[list[Predicted], list[Predicted]]:
    """Compares what a finished run predicted, or would have, with measurements.

    Args:
        config: The run's config.
        root: The run directory.
        folder: The folder of the copied and the new measurements; a later call repeats none.
        count: Number of random assignments.
        seed: Seed of the random assignments.

    Returns:
        The run's candidates, then the random assignments, which are predicted from what the run
        had measured.
    """
    _copy_once(root, folder)
    events = [record.event for record in read_records(root / directory.JOURNAL_NAME, RUN_EVENTS)]
    original = models.load_model(str(root / _model_file(events, 0)))
    with open_as_configured(original, config.device, folder, config) as opened:
        # Predicted before anything is measured here.
        predictions = _random_predictions(opened, config, count, seed)
        candidates = list(_candidates(opened, config, root, events))
        with opened.lab() as lab:
            assignments = [keep for keep, _ in predictions]
            measurements = measured_assignments(opened, lab, assignments, config.measure)
            random = [
                Predicted(ratio, measured.measured_ms / measured.unpruned_ms)
                for (_, ratio), measured in zip(predictions, measurements, strict=True)
            ]
    return candidates, random


def _copy_once(root: pathlib.Path, folder: pathlib.Path) -> None:
    if folder.exists():
        return
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(root / "tuning", partial / "tuning", ignore=shutil.ignore_patterns("*.lock"))
    if (root / POINTS).exists():
        shutil.copy2(root / POINTS, partial / POINTS)
    partial.rename(folder)


def _random_predictions(
    opened: OpenedModel, config: PruneConfig, count: int, seed: int
) -> list[tuple[dict[str, int], float]]:
    """Random assignments and their predicted latency / the original's."""
    with opened.lab() as lab:
        planner = Planner(lab, PlannerConfig(seed=config.seed))
        whole_ms = planner.predict({})
        return [
            (keep, planner.predict(keep) / whole_ms)
            for keep in random_assignments(opened.channels, count, seed)
        ]


def _candidates(
    opened: OpenedModel, config: PruneConfig, root: pathlib.Path, events: Sequence[Any]
) -> Iterator[Predicted]:
    plans = {event.index: event for event in events if isinstance(event, CandidatePlanned)}
    with Journal(opened.workdir / "candidates.jsonl", _EVENTS) as journal:
        known = {event.index: event.ratio for event in journal.events(CandidateTimed)}
        for event in events:
            if not isinstance(event, CandidateJudged):
                continue
            if event.measured is not None:
                ratio = event.measured.median_ms / event.current_latency_ms
            else:
                ratio = known.get(event.index, 0.0)
            if not ratio:
                file = root / _model_file(events, event.iteration)
                removed = dict(plans[event.index].removed)
                ratio = _time_candidate(opened, config, models.load_model(str(file)), removed)
                journal.append(CandidateTimed(event.index, ratio))
            yield Predicted(plans[event.index].ratio, ratio)


def _time_candidate(
    opened: OpenedModel, config: PruneConfig, current: Any, removed: dict[str, tuple[int, ...]]
) -> float:
    runtime = opened.runtime
    channels = graph.analyze(current, config.protect)
    smaller = graph.rebuild(current, removed, fold_constants=False, graph=channels)
    prepared, candidate = runtime.prepare(current), runtime.prepare(smaller)
    runtime.price(candidate, prepared)
    paths = [opened.workdir / f"{name}{runtime.suffix}" for name in ("candidate", "current")]
    for model, path in zip((candidate, prepared), paths, strict=True):
        # TVM keeps loaded libraries by path.
        path.unlink(missing_ok=True)
        runtime.build(model, path)
    measured, base = runtime.time(paths, current, config.measure)
    return measured.median_ms / base.median_ms


def _model_file(events: Sequence[Any], iteration: int) -> str:
    """The file of an accepted model, relative to the run directory."""
    records = [event for event in events if isinstance(event, (Baseline, Accepted))]
    return next(one.model for one in reversed(records) if one.iteration == iteration)
