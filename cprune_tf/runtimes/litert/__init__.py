"""The runtime LiteRT: its tasks are the operators of a `.tflite` file, each timed on its own.

LiteRT does not search, so `tune` and `price` only time what was never timed. A task is timed as a
file that holds this operator alone (`litert.workloads`), interleaved with others and with a file
that does almost nothing. The latter's latency, which is what every call costs, is subtracted.

Tasks that are timed at different times must be comparable, although a machine's speed drifts. So a
reference operator is timed with every batch, and the batch's latencies are scaled to the time at
which the reference was timed first.
"""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
import tempfile
import typing
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from cprune_tf.config import MeasureConfig
from cprune_tf.devices import Device, DeviceError, Latency, ModelFile
from cprune_tf.litert import PRECISIONS
from cprune_tf.litert.resizing import Resize, resized
from cprune_tf.litert.workloads import Workload
from cprune_tf.litert.writing import empty_workload, reference_workload, write
from cprune_tf.runtimes.base import Progress, Runtime, TaskCost
from cprune_tf.runtimes.litert.files import file_maker
from cprune_tf.runtimes.litert.timings import Timing, TimingStore
from cprune_tf.runtimes.registry import RuntimeOptions, register_runtime
from cprune_tf.storage import files

if typing.TYPE_CHECKING:
    import keras

# Operators take microseconds, so a few ten milliseconds hold enough samples of most.
_TIMING = MeasureConfig(warmup_ms=2.0, min_samples=20, max_time_sec=0.12, stable_fraction=0.02)
# So many files are timed in turn; after each batch, its latencies are on the disk.
_BATCH = 24
# A difference of two latencies can fall below 0, and a latency must be above it.
_LEAST_MS = 1e-5
# float32 values in a vector register, by the instruction set that has it.
_LANES = {"avx512f": 16, "avx2": 8, "avx": 8}
_LANES_OTHERWISE = 4
_MAKES_FILTERS = ("CONV_2D", "FULLY_CONNECTED")


@dataclasses.dataclass(frozen=True)
class LitertCall:
    """One operator of a file.

    Attributes:
        layers: The Keras layers that it computes, in the model's order.
    """

    layers: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class LitertTask:
    """One distinct operator of a file.

    Attributes:
        name: A readable name, unique within the model.
        workload: The operator with its shapes and options.
        subgraphs: The operators of the file that are equal to it.
    """

    name: str
    workload: Workload
    subgraphs: tuple[LitertCall, ...]

    @property
    def kind(self) -> str:
        """The operator with its options."""
        return self.workload.kind

    @property
    def key(self) -> int:
        """A number that is equal for equal workloads, also across models."""
        return int(self.workload.digest, 16)

    @property
    def weight(self) -> int:
        """How many operators of the file are equal to this one."""
        return len(self.subgraphs)

    @property
    def layers(self) -> tuple[str, ...]:
        """The Keras layers of all these operators."""
        return tuple(dict.fromkeys(name for call in self.subgraphs for name in call.layers))

    @property
    def flops(self) -> float:
        """Floating-point operations of one run."""
        return self.workload.flops

    @property
    def argument_shapes(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """(dtype, shape) of each tensor; the last one is the result."""
        return tuple((tensor.dtype, tensor.shape) for tensor in self.workload.tensors)


@dataclasses.dataclass(frozen=True)
class LitertModel:
    """A model as LiteRT runs it.

    Attributes:
        tasks: The distinct operators, in order of first use.
        content: The `.tflite` file that was divided into the operators.
        keras_model: The model.
    """

    tasks: tuple[LitertTask, ...]
    content: bytes = dataclasses.field(repr=False)
    keras_model: Any = dataclasses.field(repr=False)


@register_runtime("litert", PRECISIONS)
class LitertRuntime(Runtime):
    """LiteRT with XNNPACK on one device, and the operators that were timed there.

    float16 means that the file holds its weights in float16; LiteRT computes in float32. int8 means
    that it computes in int8 wherever LiteRT can; see docs/int8.md.

    Args:
        device: The device that models run on; needs LiteRT, but not TVM.
        options: The settings to open the runtime with.

    Raises:
        DeviceError: If the device has no LiteRT.
        TimingsError: If the folder holds latencies of other conditions.
        LockedError: If another process measures in the folder.
    """

    name = "litert"
    suffix = ".tflite"

    def __init__(self, device: Device, options: RuntimeOptions) -> None:
        super().__init__(device, options.precision, options.num_threads)
        self._files = file_maker(options)
        if device.info().runtimes["litert"] is None:
            raise DeviceError(
                f"The runtime is litert, but LiteRT is not installed on the device "
                f"({device.info()}). Run there: pip install ai-edge-litert."
            )
        self._timings = TimingStore.open_in(
            options.tuning.database or options.workdir,
            self.fingerprint,
            shared=bool(options.tuning.database),
        )

    @classmethod
    def check(cls, model: keras.Model, options: RuntimeOptions) -> None:
        """See Runtime. Only a conversion tells."""
        file_maker(options).divided(model)

    @property
    def fingerprint(self) -> dict[str, Any]:
        """See Runtime. XNNPACK's version is part of LiteRT's."""
        info = self.device.info()
        return {
            "runtime": self.name,
            "litert": info.runtimes["litert"],
            "cpu": info.cpu_name,
            "abi": info.abi,
            "features": sorted(info.features),
            "cores": list(self.device.core_ids()) or info.num_cores,
            "emulated": info.emulated,
            "num_threads": self.num_threads,
        }

    @property
    def lanes(self) -> int:
        """See Runtime."""
        features = self.device.info().features
        return max((_LANES.get(name, 0) for name in features), default=0) or _LANES_OTHERWISE

    def prepare(self, model: keras.Model) -> LitertModel:
        """See Runtime. The operators are those of the file that would be deployed."""
        file = self._files.divided(model)
        calls: dict[Workload, list[LitertCall]] = {}
        for workload, layers in file.parts:
            calls.setdefault(workload, []).append(LitertCall(layers))
        tasks = (
            LitertTask(f"{workload.label}#{number}", workload, tuple(subgraphs))
            for number, (workload, subgraphs) in enumerate(calls.items())
        )
        return LitertModel(tuple(tasks), file.content, model)

    def tune(self, model: Any, trials_per_task: int, progress: Progress | None = None) -> None:
        """See Runtime. Times every operator; there is nothing to search."""
        self._time_missing(model.tasks, progress=progress)

    def price(
        self, candidate: Any, current: Any, on_task: Callable[[Any], None] | None = None
    ) -> float:
        """See Runtime. The current model does not matter."""
        self._time_missing(candidate.tasks, on_task=on_task)
        return self.tasks_ms(candidate)

    def resized_task(self, task: Any, reduced: Any, resize: Resize) -> LitertTask | None:
        """See Runtime."""
        workload = resized(task.workload, reduced.workload, resize)
        if workload is None:
            return None
        return LitertTask(task.name, workload, task.subgraphs)

    def tasks_ms(self, model: Any) -> float:
        """See Runtime."""
        return math.fsum(self._timing(task).median_ms * task.weight for task in model.tasks)

    def task_costs(self, model: Any) -> tuple[TaskCost, ...]:
        """See Runtime."""
        whole_ms = self.tasks_ms(model)
        costs = [self._cost(task, whole_ms) for task in model.tasks]
        return tuple(sorted(costs, key=lambda cost: -cost.total_ms))

    def samples_ms(self, task: Any) -> tuple[float, ...]:
        """See Runtime. Returns values that have the quartiles of the task's measurement."""
        timing = self._timing(task)
        q1_ms, q3_ms = timing.q1_ms, timing.q3_ms
        return (q1_ms, q1_ms, timing.median_ms, q3_ms, q3_ms)

    def filter_tiles(self, task: Any, filters: int) -> tuple[int, ...]:
        """See Runtime. XNNPACK computes one or two vectors of filters at a time."""
        codes = {operator.code for operator in task.workload.operators}
        if task.workload.result.shape[-1] != filters or codes.isdisjoint(_MAKES_FILTERS):
            return ()
        return tuple(tile for tile in (2 * self.lanes, self.lanes) if 1 < tile <= filters)

    def build(self, model: Any, path: os.PathLike[str] | str) -> None:
        """See Runtime. Writes the `.tflite` file."""
        known = typing.cast(LitertModel, model)
        content = self._files.deployed(known.keras_model, known.content)
        files.write_bytes(pathlib.Path(path), content)

    def close(self) -> None:
        """See Runtime."""
        self._timings.close()

    def _cost(self, task: LitertTask, whole_ms: float) -> TaskCost:
        latency_ms = self._timing(task).median_ms
        total_ms = latency_ms * task.weight
        return TaskCost(
            task, latency_ms, total_ms, total_ms / whole_ms, task.flops / latency_ms / 1e6, None
        )

    def _timing(self, task: LitertTask) -> Timing:
        timing = self._timings.get(task.workload.digest)
        if timing is None:
            raise KeyError(f"{task.name} was never measured; call tune or price first.")
        return timing

    def _time_missing(
        self,
        tasks: Iterable[LitertTask],
        on_task: Callable[[Any], None] | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Times the tasks that were never timed; each batch is kept before the next one begins."""
        missing = list(
            {
                task.workload.digest: task
                for task in tasks
                if self._timings.get(task.workload.digest) is None
            }.values()
        )
        for start in range(0, len(missing), _BATCH):
            batch = missing[start : start + _BATCH]
            if progress is not None:
                progress(start, len(missing), f"{batch[0].name} and {len(batch) - 1} others")
            if on_task is not None:
                for task in batch:
                    on_task(task)
            self._timings.add(self._time([task.workload for task in batch]))
        if progress is not None:
            progress(len(missing), len(missing), "")

    def _time(self, workloads: Sequence[Workload]) -> list[Timing]:
        """Times workloads in turn, together with the reference."""
        timed = (reference_workload(), *workloads)
        with tempfile.TemporaryDirectory(prefix="cprune_litert_") as folder:
            models = [
                _written(workload, pathlib.Path(folder) / f"{number}.tflite")
                for number, workload in enumerate((empty_workload(), *timed))
            ]
            call, *latencies = self.device.time_models(models, self.num_threads, _TIMING)
        reference, *timings = (
            _without_call(workload, latency, call)
            for workload, latency in zip(timed, latencies, strict=True)
        )
        first = self._timings.get(reference.digest)
        if first is None:
            return [reference, *timings]
        return [timing.scaled(first.median_ms / reference.median_ms) for timing in timings]


def _written(workload: Workload, path: pathlib.Path) -> ModelFile:
    path.write_bytes(write(workload))
    return ModelFile(workload.label, "litert", str(path))


def _without_call(workload: Workload, latency: Latency, call: Latency) -> Timing:
    median_ms, q1_ms, q3_ms = (
        max(value - call.median_ms, _LEAST_MS)
        for value in (latency.median_ms, latency.q1_ms, latency.q3_ms)
    )
    return Timing(workload.digest, workload.label, median_ms, q1_ms, q3_ms)
