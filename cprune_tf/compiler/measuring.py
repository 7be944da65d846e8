"""Builds schedules, times them on the device and writes what was learned to the database."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence

import tvm
from tvm.s_tir import Schedule
from tvm.s_tir import meta_schedule as ms

from cprune_tf.compiler.builder import BuildResult, ProgramBuilder
from cprune_tf.compiler.database import ProgramDatabase
from cprune_tf.devices.base import Device
from cprune_tf.devices.errors import DeviceError

# Three repeats of at least 10 ms: on an idle machine their median is stable to 1-2 %, and a trial
# stays shorter than the build before it.
_NUM_REPEATS = 3
_MIN_REPEAT_MS = 10


@dataclasses.dataclass(frozen=True)
class Measured:
    """What became of one schedule.

    Attributes:
        latency_ms: Of one call; None where it failed.
        error: Why it failed, else None.
    """

    latency_ms: float | None
    error: str | None


class ProgramMeasurer:
    """Measures schedules of workloads on a device.

    Args:
        device: Where programs run.
        builder: What compiles them.
        database: Where every valid measurement is written at once.
        target: What is compiled for.
        num_threads: Threads a program runs with.
        timeout_sec: For one program's run.
    """

    def __init__(
        self,
        device: Device,
        builder: ProgramBuilder,
        database: ProgramDatabase,
        target: tvm.target.Target,
        *,
        num_threads: int,
        timeout_sec: float,
    ) -> None:
        self.database = database
        self.target = target
        self._device = device
        self._builder = builder
        self._num_threads = num_threads
        self._timeout_sec = timeout_sec

    def measure(self, mod: tvm.IRModule, schedules: Sequence[Schedule]) -> list[Measured]:
        """Builds and times schedules of one workload.

        Args:
            mod: The workload, normalised.
            schedules: Its schedules, after postprocessing.

        Returns:
            One result for each schedule, in order.
        """
        builds = self._builder.build([schedule.mod for schedule in schedules])
        try:
            return [
                self._run(mod, schedule, build)
                for schedule, build in zip(schedules, builds, strict=True)
            ]
        finally:
            self._builder.discard(builds)

    def _run(self, mod: tvm.IRModule, schedule: Schedule, build: BuildResult) -> Measured:
        if build.library is None:
            return Measured(None, f"build: {build.error}")
        arguments = ms.arg_info.ArgInfo.from_entry_func(schedule.mod, remove_preproc=True)
        shapes = [
            (str(info.dtype), tuple(int(extent) for extent in info.shape)) for info in arguments
        ]
        try:
            samples_ms = self._device.time_kernel(
                build.library,
                "main",
                shapes,
                num_threads=self._num_threads,
                number=1,
                repeat=_NUM_REPEATS,
                min_repeat_ms=_MIN_REPEAT_MS,
                timeout_sec=self._timeout_sec,
            )
        except DeviceError as error:
            # A program that crashes or hangs costs one trial; the device has recovered by now.
            return Measured(None, f"run: {error}")
        self.database.add(mod, schedule.trace, samples_ms, self.target, arguments)
        return Measured(statistics.median(samples_ms), None)
