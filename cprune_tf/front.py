"""The front of a run: each accepted model is a point of latency and accuracy, to be exported."""

from __future__ import annotations

import dataclasses
import pathlib
import typing

from cprune_tf.accuracy import Metric
from cprune_tf.errors import UserError
from cprune_tf.runs import read_records
from cprune_tf.runs.directory import JOURNAL_NAME
from cprune_tf.runs.events import RUN_EVENTS, Accepted, Baseline, LongTermTrained
from cprune_tf.runs.results import ModelRecord
from cprune_tf.storage import files

if typing.TYPE_CHECKING:
    import keras


class FrontError(UserError, ValueError):
    """A point that cannot be exported: says what was asked for and what there is."""


@dataclasses.dataclass(frozen=True)
class Point:
    """One accepted model.

    Attributes:
        number: 0 for the original.
        accuracy: On the images that decide, 0..1, or the score by another metric, after whatever
            training the model had.
        latency_ms: Median on the device.
        speedup: The original's latency / the model's, measured side by side.
        params: Number of parameters.
        model: The `.keras` file, relative to the run directory.
        is_result: Whether the run delivers this model, after long-term training.
        is_dominated: Whether another point is at least as fast and as accurate, and better in one.
    """

    number: int
    accuracy: float
    latency_ms: float
    speedup: float
    params: int
    model: str
    is_result: bool
    is_dominated: bool


def read_front(workdir: pathlib.Path) -> tuple[Point, ...]:
    """Reads the points of a run, which may still be going on.

    Args:
        workdir: The run directory.

    Returns:
        The original first.

    Raises:
        FrontError: The directory holds no run whose original was measured.
        JournalError: The journal is damaged.
    """
    journal = workdir / JOURNAL_NAME
    if not journal.is_file():
        raise FrontError(f"{workdir} holds no {JOURNAL_NAME}; expected the directory of a run.")
    records: dict[int, ModelRecord] = {}
    trained: LongTermTrained | None = None
    for record in read_records(journal, RUN_EVENTS):
        event = record.event
        if isinstance(event, (Baseline, Accepted)):
            records[event.iteration] = event
        elif isinstance(event, LongTermTrained):
            trained = event
    if not records:
        raise FrontError(f"The run in {workdir} has not measured its original yet; let it go on.")
    points = [_point(record, trained, max(records)) for _, record in sorted(records.items())]
    return tuple(
        dataclasses.replace(point, is_dominated=any(_dominates(other, point) for other in points))
        for point in points
    )


def read_metric(workdir: pathlib.Path) -> Metric:
    """Returns what the points of a run are judged by.

    Args:
        workdir: The run directory, which `read_front` has read.
    """
    events = [record.event for record in read_records(workdir / JOURNAL_NAME, RUN_EVENTS)]
    baseline = next(event for event in events if isinstance(event, Baseline))
    return Metric(baseline.metric, baseline.is_minimized)


def export_point(
    workdir: pathlib.Path,
    number: int,
    output: pathlib.Path,
    *,
    original: keras.Model | None = None,
) -> tuple[str, ...]:
    """Writes one point's model for deployment.

    Args:
        workdir: The run directory.
        number: The point's.
        output: The folder to write to; made if missing.
        original: The model that was pruned, for classes and functions in it that are not
            registered; None if Keras knows all of them.

    Returns:
        Names of the files in `output`: `model.keras`, what the runtime built, and `model.tflite`.

    Raises:
        FrontError: There is no such point, its files are gone, or its model has classes that are
            neither registered nor in `original`. Nothing is written then.
        StorageError: A file cannot be written.
    """
    from cprune_tf import litert

    points = {point.number: point for point in read_front(workdir)}
    if number not in points:
        raise FrontError(
            f"The run in {workdir} has the points {', '.join(map(str, points))}; {number} is none "
            "of them."
        )
    point = points[number]
    sources = [path for path in _built(workdir, point) if path.is_file()]
    source = workdir / point.model
    if not source.is_file() or not sources:
        raise FrontError(f"The files of point {number} are gone from {workdir}; resume the run.")
    needs_tflite = sources[0].suffix != ".tflite"
    model = _loaded(source, original) if needs_tflite else None
    output.mkdir(parents=True, exist_ok=True)
    written = []
    for path in (source, sources[0]):
        written.append(f"model{path.suffix}")
        files.write_bytes(output / written[-1], path.read_bytes())
    if model is not None:
        files.write_bytes(output / "model.tflite", litert.convert(model))
        written.append("model.tflite")
    return tuple(written)


def _loaded(source: pathlib.Path, original: keras.Model | None) -> keras.Model:
    from cprune_tf.graph.storing import load_stored
    from cprune_tf.models import ModelError, load_model

    if original is not None:
        return load_stored(source, original)
    try:
        return load_model(source)
    except ModelError as error:
        raise FrontError(
            f"{error} To export it, call Pruner.export in the process that pruned it, or "
            "cprune_tf.front.export_point(..., original=the model that was pruned)."
        ) from error


def _built(workdir: pathlib.Path, point: Point) -> list[pathlib.Path]:
    """Where the runtime's file of a point may lie; its suffix is the runtime's."""
    model = workdir / point.model
    return sorted(
        path
        for path in model.parent.glob(f"{model.stem}.*")
        if path.stem == model.stem and path.suffix != ".keras"
    )


def _point(record: ModelRecord, trained: LongTermTrained | None, last: int) -> Point:
    is_result = trained is not None and record.iteration == (
        trained.iteration if trained.iteration >= 0 else last
    )
    accuracy, model = record.accuracy, record.model
    if trained is not None and is_result:
        accuracy, model = trained.accuracy, trained.model
    return Point(
        record.iteration,
        accuracy,
        record.latency.median_ms,
        1 / record.latency_ratio,
        record.params,
        model,
        is_result,
        is_dominated=False,
    )


def _dominates(one: Point, other: Point) -> bool:
    no_worse = one.speedup >= other.speedup and one.accuracy >= other.accuracy
    return no_worse and (one.speedup > other.speedup or one.accuracy > other.accuracy)
