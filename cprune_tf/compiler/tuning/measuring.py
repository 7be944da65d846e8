"""Builds schedules, times them on the device and writes what was learned to the database."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import itertools
from collections.abc import Sequence

import tvm
from tvm.s_tir import Schedule
from tvm.s_tir import meta_schedule as ms

from cprune_tf.compiler.building.builder import BuildResult, ProgramBuilder
from cprune_tf.compiler.database import ProgramDatabase
from cprune_tf.devices.base import Device
from cprune_tf.devices.errors import DeviceError, DeviceUnreachableError

# A shared machine or a warm phone is slower for a second now and then, by up to a half. So the
# programs of a round are timed in turn, three times over, for at least 10 ms each, and the shortest
# time counts: what others take away only ever adds to it.
_NUM_PASSES = 3
_MIN_SAMPLE_MS = 10

_Timed = tuple[list[ms.arg_info.ArgInfo], list[float]]


@dataclasses.dataclass(frozen=True)
class Measured:
    """What became of one schedule.

    Attributes:
        latency_ms: Of one call; None where it failed.
        error: Why it failed, else None.
    """

    latency_ms: float | None
    error: str | None


def any_succeeded(results: Sequence[Measured]) -> bool:
    """Whether at least one schedule ran."""
    return any(result.latency_ms is not None for result in results)


@dataclasses.dataclass(frozen=True, eq=False)
class Job:
    """One schedule on its way.

    Attributes:
        mod: Its workload.
        schedule: After postprocessing.
        build: Its library, or why there is none, to come.
    """

    mod: tvm.IRModule
    schedule: Schedule
    build: concurrent.futures.Future[BuildResult]


@dataclasses.dataclass(frozen=True, eq=False)
class Pending:
    """Schedules of one workload that are being built."""

    jobs: tuple[Job, ...]


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

    @property
    def num_build_workers(self) -> int:
        """How many programs are built at the same time."""
        return self._builder.num_workers

    def begin(self, mod: tvm.IRModule, schedules: Sequence[Schedule]) -> Pending:
        """Starts to build schedules of one workload.

        Args:
            mod: The workload, normalised.
            schedules: Its schedules, after postprocessing.

        Returns:
            What `finish` takes.
        """
        builds = self._builder.submit([schedule.mod for schedule in schedules])
        jobs = [Job(mod, *pair) for pair in zip(schedules, builds, strict=True)]
        return Pending(tuple(jobs))

    def finish(self, pending: Sequence[Pending]) -> list[list[Measured]]:
        """Times what was begun, once it is built; elsewhere, both go on at the same time.

        Args:
            pending: From `begin`; all of it is timed in turn.

        Returns:
            For each, one result for each schedule, in order.
        """
        jobs = [job for one in pending for job in one.jobs]
        builds = [job.build for job in jobs]
        if self._device.shares_host:
            # Building and timing at once would disturb the timing.
            concurrent.futures.wait(builds)
        outcomes: list[_Timed | str] = []
        try:
            # Nothing of a program that fails once is timed again.
            for outcome in self._device.map(self._time, jobs):
                outcomes.append(outcome)
            for _ in range(_NUM_PASSES - 1):
                self._time_again(jobs, outcomes)
        finally:
            self._builder.discard([build.result() for build in builds])
            measured = iter([self._keep(*pair) for pair in zip(jobs, outcomes, strict=False)])
        return [list(itertools.islice(measured, len(one.jobs))) for one in pending]

    def measure(self, mod: tvm.IRModule, schedules: Sequence[Schedule]) -> list[Measured]:
        """Builds and times schedules of one workload.

        Args:
            mod: The workload, normalised.
            schedules: Its schedules, after postprocessing.

        Returns:
            One result for each schedule, in order.
        """
        return self.finish([self.begin(mod, schedules)])[0]

    def _time_again(self, jobs: Sequence[Job], outcomes: list[_Timed | str]) -> None:
        """Adds a sample to what ran before."""
        running = [index for index, outcome in enumerate(outcomes) if not isinstance(outcome, str)]
        again = self._device.map(lambda index: self._time(jobs[index]), running)
        for index, outcome in zip(running, again, strict=True):
            before = outcomes[index]
            if isinstance(outcome, str) or isinstance(before, str):
                outcomes[index] = outcome
            else:
                before[1].extend(outcome[1])

    def _keep(self, job: Job, outcome: _Timed | str) -> Measured:
        """Writes one program's samples to the database."""
        if isinstance(outcome, str):
            return Measured(None, outcome)
        arguments, samples_ms = outcome
        self.database.add(job.mod, job.schedule.trace, min(samples_ms), self.target, arguments)
        return Measured(min(samples_ms), None)

    def _time(self, job: Job) -> _Timed | str:
        """One program's arguments and a sample in ms, or why there is none."""
        build = job.build.result()
        if build.library is None:
            return f"build: {build.error}"
        arguments = ms.arg_info.ArgInfo.from_entry_func(job.schedule.mod, remove_preproc=True)
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
                repeat=1,
                min_repeat_ms=_MIN_SAMPLE_MS,
                timeout_sec=self._timeout_sec,
            )
        except DeviceUnreachableError:
            raise  # nothing more can be measured: not this program's fault
        except DeviceError as error:
            # A program that crashes or hangs costs one trial; the device has recovered by now.
            return f"run: {error}"
        return list(arguments), list(samples_ms)
