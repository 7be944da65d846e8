"""The interface of all runtimes: prepare, tune, price, build and time models on a device.

Pricing, staircases, prediction, gates and reports use this interface only. A runtime divides a
model into tasks: TVM into its fused subgraphs, LiteRT into its operators.
"""

from __future__ import annotations

import abc
import dataclasses
import os
import typing
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, Protocol

from cprune_tf.config import MeasureConfig
from cprune_tf.devices import Device, Latency, ModelFile

if typing.TYPE_CHECKING:
    import keras

    from cprune_tf.compiler.structure import ProgramStructure
    from cprune_tf.litert.resizing import Resize
    from cprune_tf.runtimes.registry import RuntimeOptions

# Called with (units of work done, units planned, description of the running work).
Progress = Callable[[int, int, str], None]


class RuntimeSubgraph(Protocol):
    """One call of a task in a model."""

    @property
    def layers(self) -> tuple[str, ...]:
        """The Keras layers that the call computes, in the model's order."""


class RuntimeTask(Protocol):
    """One distinct workload of a model, shared by one or more of its subgraphs."""

    @property
    def name(self) -> str:
        """A readable name, unique within the model."""

    @property
    def kind(self) -> str:
        """The task's operators; equal for tasks that differ only in their shapes."""

    @property
    def key(self) -> int:
        """A number that is equal for equal workloads, also across models."""

    @property
    def subgraphs(self) -> Sequence[RuntimeSubgraph]:
        """The calls that share the task."""

    @property
    def weight(self) -> int:
        """How many subgraphs share the task."""

    @property
    def layers(self) -> tuple[str, ...]:
        """The Keras layers of all the task's subgraphs, in the model's order."""

    @property
    def flops(self) -> float:
        """Floating-point operations of one call; a multiply-add counts as two."""

    @property
    def argument_shapes(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """(dtype, shape) of each argument; the last entry is the result."""


class RuntimeModel(Protocol):
    """A Keras model as a runtime sees it: a frozen dataclass with `tasks` among its fields."""

    @property
    def tasks(self) -> Sequence[RuntimeTask]:
        """The model's distinct workloads, in order of first use."""


@dataclasses.dataclass(frozen=True)
class TaskCost:
    """The latency of one task in a model.

    Attributes:
        task: The task.
        latency_ms: Latency of one call of the fastest version that the runtime has measured.
        total_ms: latency_ms x the task's weight.
        share: total_ms as a fraction (0..1) of the sum over all tasks.
        gflops: Achieved rate in 1e9 floating-point operations per second.
        structure: The program structure of the fastest program; None if the runtime does not
            expose programs.
    """

    task: RuntimeTask
    latency_ms: float
    total_ms: float
    share: float
    gflops: float
    structure: ProgramStructure | None


class Runtime(abc.ABC):
    """A runtime at one precision, open on one device.

    Args:
        device: The device that models run on.
        precision: The precision that models compute in, e.g. "float32".
        num_threads: Number of threads that models are prepared for and timed with.
    """

    name: ClassVar[str]
    # The suffix of the files that `build` writes, e.g. ".so".
    suffix: ClassVar[str]
    # Whether `task_costs` tells the structure of the fastest programs.
    exposes_programs: ClassVar[bool] = False

    def __init__(self, device: Device, precision: str, num_threads: int) -> None:
        self.device = device
        self.precision = precision
        self.num_threads = num_threads

    @classmethod
    @abc.abstractmethod
    def check(cls, model: keras.Model, options: RuntimeOptions) -> None:
        """Raises an error if the runtime cannot run a model; opens and measures nothing.

        Args:
            model: The Keras model.
            options: The settings that the runtime would be opened with.

        Raises:
            UserError: If the runtime cannot run the model; names the parts that it cannot run.
        """

    def __str__(self) -> str:
        return f"{self.name} {self.precision}"

    @property
    @abc.abstractmethod
    def fingerprint(self) -> dict[str, Any]:
        """The conditions that measured latencies hold for, as JSON types, without the workload."""

    @property
    @abc.abstractmethod
    def lanes(self) -> int:
        """How many float32 values one vector instruction works on."""

    @abc.abstractmethod
    def prepare(self, model: keras.Model) -> RuntimeModel:
        """Divides a Keras model into this runtime's tasks, without measuring anything.

        Args:
            model: The Keras model.

        Returns:
            The model as this runtime sees it.

        Raises:
            UnsupportedOperationError: If the runtime cannot run one of the model's operations.
        """

    @abc.abstractmethod
    def tune(
        self, model: RuntimeModel, trials_per_task: int, progress: Progress | None = None
    ) -> None:
        """Makes every task as fast as the runtime can; earlier results are reused.

        Args:
            model: A model from `prepare`.
            trials_per_task: Number of measured programs for each task, if the runtime searches.
            progress: Called with (work done, work planned, description of the running work).

        Raises:
            TuningError: If every program of a task failed.
        """

    @abc.abstractmethod
    def price(
        self,
        candidate: RuntimeModel,
        current: RuntimeModel,
        on_task: Callable[[Any], None] | None = None,
    ) -> float:
        """Predicts the latency of a candidate's tasks, in seconds instead of minutes of tuning.

        Args:
            candidate: The pruned model.
            current: The tuned model that the candidate was pruned from.
            on_task: Called before each task that has to be measured.

        Returns:
            The sum over all subgraphs in milliseconds; comparable with `tasks_ms(current)`.

        Raises:
            TuningError: If no program of a task works.
        """

    def part(self, model: RuntimeModel, tasks: Iterable[RuntimeTask]) -> RuntimeModel:
        """Returns a model with only some of its tasks, so that only these are priced.

        Args:
            model: A model from `prepare`.
            tasks: The tasks of the model to keep.
        """
        return typing.cast(
            RuntimeModel, dataclasses.replace(typing.cast(Any, model), tasks=tuple(tasks))
        )

    def resized_task(self, task: Any, reduced: Any, resize: Resize) -> RuntimeTask | None:
        """Makes a task at other channel counts without a model, which saves a conversion.

        Args:
            task: A task of a model from `prepare`.
            reduced: The same task of a model with fewer channels in every group.
            resize: The channel counts of both tasks, and those that are wanted.

        Returns:
            The task at the wanted counts; None if this runtime needs a model for it.
        """
        return None

    @abc.abstractmethod
    def tasks_ms(self, model: RuntimeModel) -> float:
        """Sums the latencies of all subgraphs of a tuned or priced model, in milliseconds.

        Raises:
            KeyError: If a task was never measured.
        """

    @abc.abstractmethod
    def task_costs(self, model: RuntimeModel) -> tuple[TaskCost, ...]:
        """Returns the latency of each task of a tuned model, the costliest first."""

    @abc.abstractmethod
    def samples_ms(self, task: Any) -> tuple[float, ...]:
        """Times a measured task again, if its latency is that of the fastest of several programs.

        Returns:
            For each sample, the mean duration of one call in milliseconds.

        Raises:
            KeyError: If the task was never measured.
            DeviceError: If the device fails.
        """

    @abc.abstractmethod
    def filter_tiles(self, task: Any, filters: int) -> tuple[int, ...]:
        """Returns the filter tiles that fast code for a tuned task works in.

        A filter count that is a multiple of such a tile wastes no work.

        Args:
            task: The task.
            filters: The task's number of filters. A task whose last axis has another extent has
                no filter tiles.

        Returns:
            Tiles larger than 1, best first; empty if no tile is known.
        """

    @abc.abstractmethod
    def build(self, model: RuntimeModel, path: os.PathLike[str] | str) -> None:
        """Builds a tuned or priced model and writes the file that would be deployed.

        Args:
            model: A model from `prepare`.
            path: The file, written atomically; its name must end in `suffix`.
        """

    def file(self, path: os.PathLike[str] | str, model: keras.Model) -> ModelFile:
        """Describes a built file to the device.

        Args:
            path: A file written by `build`.
            model: A Keras model with the same inputs.
        """
        return ModelFile(os.path.basename(path), self.name, os.fspath(path), input_specs(model))

    def time(
        self,
        paths: Sequence[os.PathLike[str] | str],
        model: keras.Model,
        measure: MeasureConfig,
    ) -> tuple[Latency, ...]:
        """Times whole built models against each other, interleaved.

        Args:
            paths: Files written by `build`.
            model: A Keras model with the same inputs as all files.
            measure: How the models are timed. Its num_threads is ignored in favour of the
                runtime's.

        Returns:
            The latency of each file, in the order of `paths`.
        """
        files = [self.file(path, model) for path in paths]
        return self.device.time_models(files, self.num_threads, measure)

    @abc.abstractmethod
    def close(self) -> None:
        """Frees the runtime's resources; the device stays open."""

    def __enter__(self) -> Runtime:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def input_specs(model: keras.Model) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Returns (dtype, shape) of each input of a Keras model's files, for a batch of one.

    They take float32 for any type of floating point.
    """
    return tuple(
        (
            "float32" if "float" in tensor.dtype else str(tensor.dtype),
            (1, *(int(size) for size in tensor.shape[1:])),
        )
        for tensor in model.inputs
    )
