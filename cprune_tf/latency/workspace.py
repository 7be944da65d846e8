"""Opens a model for measuring: device, compiler, programs, channel groups."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from cprune_tf import graph
from cprune_tf.compiler.profiling import ProgramTimer
from cprune_tf.compiler.session import CompilerSession
from cprune_tf.compiler.tasks import LoweredModel
from cprune_tf.config import TuningConfig
from cprune_tf.devices import Device, open_device
from cprune_tf.latency.lab import LatencyLab
from cprune_tf.latency.points import PointStore

POINTS = "points.jsonl"


@dataclasses.dataclass(frozen=True, eq=False)
class OpenedModel:
    """A model with all that its latency is measured with.

    Attributes:
        model: The Keras model.
        channels: Its channel groups.
        lowered: As the compiler sees it; its tasks are measured once `tune` was called.
        device: Where it runs.
        session: The compiler.
        timer: Times single tasks.
        workdir: Where the database and points lie.
        num_threads: Threads it is tuned for.
    """

    model: Any
    channels: graph.ChannelGraph
    lowered: LoweredModel
    device: Device
    session: CompilerSession
    timer: ProgramTimer
    workdir: pathlib.Path
    num_threads: int

    def tune(self, trials: int, progress: Callable[[int, int, str], None] | None = None) -> None:
        """Tunes the model as far as its database does not know it yet.

        Args:
            trials: Measured programs for each task that matters.
            progress: Called with (trials done, trials planned, what is running).

        Raises:
            TuningError: If every program of a task failed.
        """
        self.session.tune(self.lowered, trials, progress)

    @contextlib.contextmanager
    def lab(self) -> Iterator[LatencyLab]:
        """Opens the points for measuring other channel counts of the tuned model.

        Raises:
            PointStoreError: If the points are another target's.
            LockedError: If another process measures there.
        """
        with PointStore(
            self.workdir / POINTS, target=str(self.session.target), num_threads=self.num_threads
        ) as store:
            yield LatencyLab(
                self.model, self.lowered, self.channels, self.session, self.timer, store
            )


@contextlib.contextmanager
def open_model(
    model: Any,
    device_name: str,
    workdir: pathlib.Path,
    config: TuningConfig,
    *,
    num_threads: int = 1,
    protect: Sequence[str] = (),
    seed: int = 0,
    cores: str = "",
    frontend: str = "keras",
) -> Iterator[OpenedModel]:
    """Opens a model; nothing is tuned yet.

    Args:
        model: The Keras model.
        device_name: As for `devices.open_device`.
        workdir: Where the database lies or comes to lie.
        config: How programs are searched and transferred.
        num_threads: Threads to tune for.
        protect: Patterns of layers whose channels stay.
        seed: Of the search.
        cores: What to run on; see `devices.Device`.
        frontend: How the compiler reads the model: "keras" or "tflite".

    Yields:
        The model; device and compiler are closed with the block.

    Raises:
        GraphError: For a model without a graph.
        UnsupportedOperationError: For an operation that the importer does not know.
    """
    channels = graph.analyze(model, protect)
    with (
        open_device(device_name, cores) as device,
        CompilerSession(
            device,
            workdir / "tuning",
            config,
            num_threads=num_threads,
            seed=seed,
            frontend=frontend,
        ) as session,
        ProgramTimer(device, session.database, session.target, num_threads=num_threads) as timer,
    ):
        lowered = session.lower(model)
        yield OpenedModel(model, channels, lowered, device, session, timer, workdir, num_threads)
