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
from cprune_tf.devices.errors import DeviceError, DeviceUnreachableError

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
        measured = []
        try:
            jobs = list(zip(schedules, builds, strict=True))
            timed = self._device.map(lambda job: self._time(*job), jobs)
            for schedule, outcome in zip(schedules, timed, strict=True):
                if isinstance(outcome, str):
                    measured.append(Measured(None, outcome))
                    continue
                arguments, samples_ms = outcome
                self.database.add(mod, schedule.trace, samples_ms, self.target, arguments)
                measured.append(Measured(statistics.median(samples_ms), None))
        finally:
            self._builder.discard(builds)
        return measured

    def _time(
        self, schedule: Schedule, build: BuildResult
    ) -> str | tuple[list[ms.arg_info.ArgInfo], tuple[float, ...]]:
        """One program's arguments and samples in ms, or why there are none."""
        if build.library is None:
            return f"build: {build.error}"
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
        except DeviceUnreachableError:
            raise  # nothing more can be measured: not this program's fault
        except DeviceError as error:
            # A program that crashes or hangs costs one trial; the device has recovered by now.
            return f"run: {error}"
        return list(arguments), samples_ms
