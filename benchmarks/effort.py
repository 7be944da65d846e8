"""Records beside a run's journal what the run asks of the device and how long its trainings take.

The journal tells when pruning began and ended. What is recorded here tells how much of that time
was training, how many programs were timed, and how many whole models. Each entry is on the disk
when the work it describes has ended, so a killed run loses only what it was doing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import pathlib
import shutil
import time
import typing
import unittest.mock
from collections.abc import Iterator, Sequence
from typing import Any

from cprune_tf import devices
from cprune_tf.config import ConfigError, PruneConfig
from cprune_tf.devices.latency import Latency
from cprune_tf.devices.local import LocalDevice
from cprune_tf.runs.events import Baseline, RunStarted, Stopped
from cprune_tf.runs.records import Record
from cprune_tf.storage import jsonl

if typing.TYPE_CHECKING:
    pass

ACTIVITY = "activity.jsonl"
PROGRAM, MODELS, TRAINING = "program", "models", "training"


@dataclasses.dataclass(frozen=True)
class Work:
    """One piece of work.

    Attributes:
        what: PROGRAM: a program of a task was timed; MODELS: whole models were timed in turn;
            TRAINING: a candidate was trained and evaluated.
        start_sec: When it began, in seconds since 1970.
        elapsed_sec: How long it took.
        count: Programs that were not timed before, or models.
    """

    what: str
    start_sec: float
    elapsed_sec: float
    count: int = 1


@dataclasses.dataclass(frozen=True)
class SearchEffort:
    """What a run spent between the tuned original and the end of pruning.

    Attributes:
        search_sec: Duration without the trainings and evaluations of candidates.
        training_sec: Duration of these.
        device_sec: Part of search_sec in which the device timed programs or models.
        num_programs: Programs that were timed, each of them once or several times.
        num_models: Whole models that were timed; one that is timed in turn with two others is one
            of three.
        num_sessions: How often the run was started.
    """

    search_sec: float
    training_sec: float
    device_sec: float
    num_programs: int
    num_models: int
    num_sessions: int

    @property
    def num_measurements(self) -> int:
        """Programs and models together."""
        return self.num_programs + self.num_models


class Recorder:
    """Appends work to a file.

    Args:
        path: The file; an unfinished last line is cut off.
    """

    def __init__(self, path: pathlib.Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            jsonl.repair(path, jsonl.read(path, json.loads))
        self._stream = path.open("ab", buffering=0)

    @contextlib.contextmanager
    def doing(self, what: str, count: int = 1) -> Iterator[None]:
        """Records the work of a block, even if it fails."""
        start_sec, start = time.time(), time.monotonic()
        try:
            yield
        finally:
            work = Work(what, start_sec, time.monotonic() - start, count)
            self._stream.write(json.dumps(dataclasses.asdict(work)).encode() + b"\n")

    def close(self) -> None:
        """Closes the file."""
        self._stream.close()


class RecordingDevice(LocalDevice):
    """This machine as a device, with a record of what it times."""

    def __init__(self, recorder: Recorder, cores: str = "") -> None:
        super().__init__(cores)
        self._recorder = recorder
        self._libraries: set[str] = set()

    def time_kernel(self, library_path: Any, *arguments: Any, **settings: Any) -> tuple[float, ...]:
        """See Device. A program is timed several times: it counts when it is new."""
        path = str(library_path)
        is_new = path not in self._libraries
        self._libraries.add(path)
        with self._recorder.doing(PROGRAM, int(is_new)):
            return super().time_kernel(library_path, *arguments, **settings)

    def time_models(
        self, models: Sequence[devices.ModelFile], *arguments: Any, **settings: Any
    ) -> tuple[Latency, ...]:
        """See Device."""
        with self._recorder.doing(MODELS, len(models)):
            return super().time_models(models, *arguments, **settings)


def check_config(config: PruneConfig) -> None:
    """Raises ConfigError if a run with this config could not be recorded."""
    if config.device != "local":
        raise ConfigError(
            f"config.device is {config.device!r}; expected 'local', whose measurements are counted."
        )
    if config.tuning.database:
        raise ConfigError(
            f"config.tuning.database is {config.tuning.database!r}; expected none, since a run "
            "that finds another's measurements there saves what is counted."
        )


def prune(config: PruneConfig, root: pathlib.Path) -> None:
    """Begins a run or goes on with it, and records its work in ROOT/activity.jsonl.

    Args:
        config: The config of the run; see `check_config`.
        root: The run directory.
    """
    import keras

    from cprune_tf import api

    recorder = Recorder(root / ACTIVITY)
    try:
        with (
            RecordingDevice(recorder, config.measure.cores) as device,
            _recorded_trainings(recorder),
        ):
            api.prune(config.model, device=device, config=config, workdir=root, resume=True)
    finally:
        recorder.close()
        # The next run starts like one in a process of its own.
        keras.backend.clear_session()


@contextlib.contextmanager
def _recorded_trainings(recorder: Recorder) -> Iterator[None]:
    from cprune_tf.strategies.workbench import Workbench

    def recorded(original: Any) -> Any:
        def method(*arguments: Any, **settings: Any) -> Any:
            with recorder.doing(TRAINING):
                return original(*arguments, **settings)

        return method

    with contextlib.ExitStack() as stack:
        for name in ("train", "soft_start"):
            method = recorded(getattr(Workbench, name))
            stack.enter_context(unittest.mock.patch.object(Workbench, name, method))
        yield


def copy_tuning(source: pathlib.Path, root: pathlib.Path) -> None:
    """Lets a run that has not begun start from measured programs; does nothing if it has begun.

    Args:
        source: A folder `tuning`.
        root: The run directory.
    """
    target = root / "tuning"
    if target.exists():
        return
    partial = root / "tuning.partial"
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source, partial, ignore=shutil.ignore_patterns("*.lock"))
    partial.rename(target)


def read_work(root: pathlib.Path) -> tuple[Work, ...]:
    """Reads what was recorded of a run, oldest first."""
    path = root / ACTIVITY
    values = jsonl.read(path, json.loads).values if path.exists() else ()
    return tuple(Work(**value) for value in values)


def search_effort(records: Sequence[Record], work: Sequence[Work]) -> SearchEffort:
    """Sums up what a run spent on pruning.

    A session counts up to its last record, in the journal or beside it. What it did after that is
    lost, and the next session did it again.

    Args:
        records: The run's journal, with the events that pruning begins and ends with.
        work: What was recorded beside it.

    Returns:
        The effort.

    Raises:
        ValueError: If pruning has not ended.
    """
    begun = [_seconds(r.time) for r in records if type(r.event) is Baseline]
    ended = [_seconds(r.time) for r in records if type(r.event) is Stopped]
    if not begun or not ended:
        raise ValueError("Pruning has not ended; expected the journal of a finished run.")
    starts = [_seconds(r.time) for r in records if type(r.event) is RunStarted]
    marks = sorted(
        [_seconds(r.time) for r in records] + [w.start_sec + w.elapsed_sec for w in work]
    )
    windows = []
    for start, next_start in zip(starts, [*starts[1:], float("inf")], strict=True):
        last = max(mark for mark in marks if start <= mark < next_start)
        window = (max(start, begun[-1]), min(last, ended[-1]))
        if window[0] < window[1]:
            windows.append(window)
    training_sec = sum(_inside(w, windows) for w in work if w.what == TRAINING)
    on_device = [w for w in work if w.what != TRAINING and _inside(w, windows) > 0]
    return SearchEffort(
        search_sec=sum(end - start for start, end in windows) - training_sec,
        training_sec=training_sec,
        device_sec=sum(_inside(w, windows) for w in on_device),
        num_programs=sum(w.count for w in on_device if w.what == PROGRAM),
        num_models=sum(w.count for w in on_device if w.what == MODELS),
        num_sessions=len(starts),
    )


def _inside(work: Work, windows: Sequence[tuple[float, float]]) -> float:
    """How many seconds of a piece of work lie in one of the windows."""
    start, end = work.start_sec, work.start_sec + work.elapsed_sec
    return sum(max(0.0, min(end, last) - max(start, first)) for first, last in windows)


def _seconds(moment: datetime.datetime) -> float:
    return moment.timestamp()
