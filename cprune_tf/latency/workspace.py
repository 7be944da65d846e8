"""Opens a model for measuring, with its device, runtime, channel groups and measured points."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from cprune_tf import graph
from cprune_tf.config import PruneConfig, TuningConfig
from cprune_tf.devices import Device, open_device
from cprune_tf.latency.lab import LatencyLab
from cprune_tf.latency.points import PointStore
from cprune_tf.runtimes import Runtime, RuntimeModel, RuntimeOptions, open_runtime
from cprune_tf.runtimes.base import Progress
from cprune_tf.runtimes.registry import find_runtime

POINTS = "points.jsonl"
# The runtime's folder in a workdir; a run directory uses the same name.
_TUNING = "tuning"


@dataclasses.dataclass(frozen=True, eq=False)
class OpenedModel:
    """A model, with everything needed to measure its latency.

    Attributes:
        model: The Keras model.
        channels: The model's channel groups.
        runtime: The runtime that measures the model, open on its device.
        prepared: The model as the runtime sees it; its tasks are measured by `tune`.
        workdir: The folder of the runtime's measurements and of the points.
    """

    model: Any
    channels: graph.ChannelGraph
    runtime: Runtime
    prepared: RuntimeModel
    workdir: pathlib.Path

    @property
    def device(self) -> Device:
        """The device that the model runs on."""
        return self.runtime.device

    def tune(self, trials: int, progress: Progress | None = None) -> None:
        """Tunes the model's tasks, continuing from earlier tunings in the workdir.

        Args:
            trials: Number of measured programs for each task that affects the latency.
            progress: Called with (trials done, trials planned, description of the running work).

        Raises:
            TuningError: If every program of a task failed.
        """
        self.runtime.tune(self.prepared, trials, progress)

    @contextlib.contextmanager
    def lab(self) -> Iterator[LatencyLab]:
        """Opens the lab that measures the tuned model at other channel counts.

        Yields:
            The lab; its file of points is closed when the block ends.

        Raises:
            PointStoreError: If the points were measured with another runtime or for another target.
            LockedError: If another process has the file of points open.
        """
        with PointStore(self.workdir / POINTS, fingerprint=self.runtime.fingerprint) as store:
            yield LatencyLab(self.model, self.prepared, self.channels, self.runtime, store)


@contextlib.contextmanager
def open_model(
    model: Any,
    device: str | Device,
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
    """Opens a model for measuring, without tuning it.

    Args:
        model: The Keras model.
        device: The device's name, see `devices.open_device`; or an open device, which stays open.
        workdir: The folder of the measurements, earlier and new.
        tuning: How programs are searched and transferred.
        runtime: Name of the runtime that measures; one of `runtimes.registry.runtime_names()`.
        precision: The precision that the runtime computes in, e.g. "float32".
        num_threads: Number of threads to tune for.
        protect: Layer-name patterns (fnmatch) whose channels are never removed.
        seed: The seed of the search for programs.
        cores: The cores to run on; see `devices.Device`.
        frontend: How TVM reads the model: "keras" or "tflite".

    Yields:
        The model; its device and runtime are closed when the block ends.

    Raises:
        ConfigError: If the runtime or precision does not exist.
        GraphError: If the model has no graph.
        UnsupportedOperationError: If the runtime cannot run one of the model's operations.
    """
    options = RuntimeOptions(
        precision,
        workdir / _TUNING,
        tuning,
        num_threads=num_threads,
        seed=seed,
        frontend=frontend,
    )
    find_runtime(runtime, precision)  # Fails early: opening a device can take long.
    channels = graph.analyze(model, protect)
    with (
        _opened(device, cores) as on_device,
        open_runtime(runtime, on_device, options) as opened,
    ):
        yield OpenedModel(model, channels, opened, opened.prepare(model), workdir)


def open_as_configured(
    model: Any, device: str | Device, workdir: pathlib.Path, config: PruneConfig
) -> contextlib.AbstractContextManager[OpenedModel]:
    """Opens a model for measuring under the conditions of a run's config; see `open_model`.

    Args:
        model: The Keras model.
        device: The device's name, or an open device, which stays open.
        workdir: The folder of the measurements, earlier and new.
        config: The run's config.
    """
    return open_model(
        model,
        device,
        workdir,
        config.tuning,
        runtime=config.runtime,
        precision=config.precision,
        num_threads=config.measure.num_threads,
        protect=config.protect,
        seed=config.seed,
        cores=config.measure.cores,
        frontend=config.frontend,
    )


def _opened(device: str | Device, cores: str) -> contextlib.AbstractContextManager[Device]:
    return open_device(device, cores) if isinstance(device, str) else contextlib.nullcontext(device)
