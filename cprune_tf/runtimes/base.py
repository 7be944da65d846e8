"""What every runtime can do: prepare, tune, price, build and time models on its device.

Pricing, staircases, prediction, gates and reports know this interface only. What a model is made of
for a runtime (TVM's fused subgraphs, LiteRT's operators) are its tasks.
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

# Called with (units of work done, units planned, what is running).
Progress = Callable[[int, int, str], None]


class RuntimeSubgraph(Protocol):
    """One call of a task in a model."""

    @property
    def layers(self) -> tuple[str, ...]:
        """Keras layers that it computes, in model order."""


class RuntimeTask(Protocol):
    """One distinct workload of a model, shared by one or more of its subgraphs."""

    @property
    def name(self) -> str:
        """Readable and unique within the model."""

    @property
    def kind(self) -> str:
        """Its operators: equal for tasks that differ in their shapes alone."""

    @property
    def key(self) -> int:
        """Equal for equal workloads, also of other models."""

    @property
    def subgraphs(self) -> Sequence[RuntimeSubgraph]:
        """The calls that share it."""

    @property
    def weight(self) -> int:
        """How many subgraphs share it."""

    @property
    def layers(self) -> tuple[str, ...]:
        """Keras layers of all its subgraphs, in model order."""

    @property
    def flops(self) -> float:
        """Floating point operations of one call; a multiply-add is two."""

    @property
    def argument_shapes(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """(dtype, shape) of each argument; the result is the last one."""


class RuntimeModel(Protocol):
    """A Keras model as a runtime sees it: a frozen dataclass with `tasks` among its fields."""

    @property
    def tasks(self) -> Sequence[RuntimeTask]:
        """Its distinct workloads, in order of first use."""


@dataclasses.dataclass(frozen=True)
class TaskCost:
    """What one task costs in a model.

    Attributes:
        task: The task.
        latency_ms: Of one call, as fast as the runtime is known to do it.
        total_ms: latency_ms x weight.
        share: Of the sum over all tasks, 0..1.
        gflops: Reached.
        structure: The fastest program's tiling; None where the runtime shows no programs.
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
        device: Where models run.
        precision: What they compute in, e.g. "float32".
        num_threads: Threads they are prepared for and timed with.
    """

    name: ClassVar[str]
    # Of the files that `build` writes.
    suffix: ClassVar[str]

    def __init__(self, device: Device, precision: str, num_threads: int) -> None:
        self.device = device
        self.precision = precision
        self.num_threads = num_threads

    @classmethod
    @abc.abstractmethod
    def check(cls, model: keras.Model, frontend: str) -> None:
        """Raises where the runtime cannot run a model, before anything is opened or measured.

        Args:
            model: The Keras model.
            frontend: See config.PruneConfig.

        Raises:
            UserError: Names what the runtime cannot run.
        """

    def __str__(self) -> str:
        return f"{self.name} {self.precision}"

    @property
    @abc.abstractmethod
    def fingerprint(self) -> dict[str, Any]:
        """What measured latencies hold for, as JSON types: all but the workload."""

    @property
    @abc.abstractmethod
    def lanes(self) -> int:
        """Values that one vector instruction works on."""

    @abc.abstractmethod
    def prepare(self, model: keras.Model) -> RuntimeModel:
        """A Keras model as this runtime sees it, with its tasks; nothing is measured.

        Raises:
            UnsupportedOperationError: For an operation that the runtime cannot run.
        """

    @abc.abstractmethod
    def tune(
        self, model: RuntimeModel, trials_per_task: int, progress: Progress | None = None
    ) -> None:
        """Makes every task as fast as the runtime can; what is known already costs nothing.

        Args:
            model: From prepare.
            trials_per_task: Measured programs for each task, for a runtime that searches.
            progress: Told how far it is.

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
        """What a candidate's tasks will cost, in seconds of work instead of a tuning's minutes.

        Args:
            candidate: The pruned model.
            current: The tuned model that it was pruned from.
            on_task: Called before each task that has to be measured.

        Returns:
            Milliseconds; comparable with `tasks_ms(current)`.

        Raises:
            TuningError: If no program of a task works.
        """

    def part(self, model: RuntimeModel, tasks: Iterable[RuntimeTask]) -> RuntimeModel:
        """A model with some of its tasks only: to price these and leave the others alone.

        Args:
            model: From prepare.
            tasks: Some of the model's.
        """
        return typing.cast(
            RuntimeModel, dataclasses.replace(typing.cast(Any, model), tasks=tuple(tasks))
        )

    @abc.abstractmethod
    def tasks_ms(self, model: RuntimeModel) -> float:
        """The sum of all subgraphs' latencies, of a model that was tuned or priced.

        Raises:
            KeyError: If a task was never measured.
        """

    @abc.abstractmethod
    def task_costs(self, model: RuntimeModel) -> tuple[TaskCost, ...]:
        """What each task of a tuned model costs, costliest first."""

    @abc.abstractmethod
    def samples_ms(self, task: Any) -> tuple[float, ...]:
        """Times a measured task again: the mean duration of one call in each sample, in ms.

        Raises:
            KeyError: If the task was never measured.
            DeviceError: If the device fails.
        """

    @abc.abstractmethod
    def filter_tiles(self, task: Any, filters: int) -> tuple[int, ...]:
        """Tiles of filters that fast code for a tuned task works in.

        Filter counts that are multiples of such a tile waste no work.

        Args:
            task: The task.
            filters: How many filters it has. A task whose last axis is not its filters has no
                tiles here.

        Returns:
            Tiles larger than 1, best first; empty where nothing is known.
        """

    @abc.abstractmethod
    def build(self, model: RuntimeModel, path: os.PathLike[str] | str) -> None:
        """Writes a tuned or priced model as the file that is deployed.

        Args:
            model: From prepare.
            path: The file, written atomically; ends in `suffix`.
        """

    def file(self, path: os.PathLike[str] | str, model: keras.Model) -> ModelFile:
        """A built file, ready for the device.

        Args:
            path: What `build` wrote.
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
            paths: What `build` wrote.
            model: A Keras model with the same inputs as all of them.
            measure: How they are timed; its num_threads is not looked at.
        """
        files = [self.file(path, model) for path in paths]
        return self.device.time_models(files, self.num_threads, measure)

    @abc.abstractmethod
    def close(self) -> None:
        """Ends what it started; the device stays open."""

    def __enter__(self) -> Runtime:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def input_specs(model: keras.Model) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """(dtype, shape) of each input of a Keras model, for a batch of one."""
    return tuple(
        (str(tensor.dtype), (1, *(int(size) for size in tensor.shape[1:])))
        for tensor in model.inputs
    )
