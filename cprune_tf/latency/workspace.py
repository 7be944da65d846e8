"""Opens a model for measuring: its device, its runtime, its channel groups, its points."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from cprune_tf import graph
from cprune_tf.config import TuningConfig
from cprune_tf.devices import Device, open_device
from cprune_tf.latency.lab import LatencyLab
from cprune_tf.latency.points import PointStore
from cprune_tf.runtimes import Runtime, RuntimeModel, RuntimeOptions, open_runtime
from cprune_tf.runtimes.base import Progress
from cprune_tf.runtimes.registry import find_runtime

POINTS = "points.jsonl"
# In a workdir, as in a run directory: what the runtime keeps there.
_TUNING = "tuning"


@dataclasses.dataclass(frozen=True, eq=False)
class OpenedModel:
    """A model with all that its latency is measured with.

    Attributes:
        model: The Keras model.
        channels: Its channel groups.
        runtime: What measures it, open on its device.
        prepared: The model as the runtime sees it; its tasks are measured once `tune` was called.
        workdir: Where the runtime's measurements and the points lie.
    """

    model: Any
    channels: graph.ChannelGraph
    runtime: Runtime
    prepared: RuntimeModel
    workdir: pathlib.Path

    @property
    def device(self) -> Device:
        """Where it runs."""
        return self.runtime.device

    def tune(self, trials: int, progress: Progress | None = None) -> None:
        """Tunes the model's tasks as far as earlier tunings in the workdir did not.

        Args:
            trials: Measured programs for each task that matters.
            progress: Called with (trials done, trials planned, what is running).

        Raises:
            TuningError: If every program of a task failed.
        """
        self.runtime.tune(self.prepared, trials, progress)

    @contextlib.contextmanager
    def lab(self) -> Iterator[LatencyLab]:
        """Opens the points for measuring other channel counts of the tuned model.

        Raises:
            PointStoreError: If the points were measured with another runtime or for another target.
            LockedError: If another process measures there.
        """
        with PointStore(self.workdir / POINTS, fingerprint=self.runtime.fingerprint) as store:
            yield LatencyLab(self.model, self.prepared, self.channels, self.runtime, store)


@contextlib.contextmanager
def open_model(
    model: Any,
    device_name: str,
    workdir: pathlib.Path,
    tuning: TuningConfig,
    *,
    runtime: str = "tvm",
    precision: str = "float32",
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
        workdir: Where the measurements lie or come to lie.
        tuning: How programs are searched and transferred.
        runtime: What measures; one of `runtimes.registry.runtime_names()`.
        precision: What the runtime computes in.
        num_threads: Threads to tune for.
        protect: Patterns of layers whose channels stay.
        seed: Of the search.
        cores: What to run on; see `devices.Device`.
        frontend: How TVM reads the model: "keras" or "tflite".

    Yields:
        The model; device and runtime are closed with the block.

    Raises:
        ConfigError: For a runtime or precision that does not exist.
        GraphError: For a model without a graph.
        UnsupportedOperationError: For an operation that the runtime cannot run.
    """
    options = RuntimeOptions(
        precision,
        workdir / _TUNING,
        tuning,
        num_threads=num_threads,
        seed=seed,
        frontend=frontend,
    )
    find_runtime(runtime, precision)  # a wrong choice shall not cost the opening of a device
    channels = graph.analyze(model, protect)
    with (
        open_device(device_name, cores) as device,
        open_runtime(runtime, device, options) as opened,
    ):
        yield OpenedModel(model, channels, opened, opened.prepare(model), workdir)
