"""Builds schedules, times them on the device and writes the latencies to the database."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import tvm
from tvm.s_tir import Schedule
from tvm.s_tir import meta_schedule as ms

from cprune_tf.compiler import tvm_internals
from cprune_tf.compiler.building.builder import BuildResult, ProgramBuilder
from cprune_tf.compiler.database import ProgramDatabase
from cprune_tf.compiler.lowerings import lowering_of
from cprune_tf.devices.base import Device
from cprune_tf.devices.errors import DeviceError, DeviceUnreachableError

# A shared machine or a warm phone is sometimes slower by up to a half for a second. So the programs
# of a round are timed in turn, three times over, for at least 10 ms each. The shortest time counts,
# because disturbances only ever add to it.
_NUM_PASSES = 3
_MIN_SAMPLE_MS = 10

_Timed = tuple[list[ms.arg_info.ArgInfo], list[float]]


@dataclasses.dataclass(frozen=True)
class MeasureResult:
    """The result of building and timing one schedule.

    Attributes:
        latency_ms: The latency of one call, in ms; None if the schedule failed.
        error: The reason of the failure; None if the schedule ran.
    """

    latency_ms: float | None
    error: str | None


def any_succeeded(results: Sequence[MeasureResult]) -> bool:
    """Whether at least one schedule ran."""
    return any(result.latency_ms is not None for result in results)


@dataclasses.dataclass(frozen=True, eq=False)
class Job:
    """One schedule that is being built and will be timed.

    Attributes:
        mod: The schedule's workload, normalised.
        schedule: The schedule after postprocessing.
        build: The future result of the build.
        index_limits: See Lowering.index_limits.
    """

    mod: tvm.IRModule
    schedule: Schedule
    build: concurrent.futures.Future[BuildResult]
    index_limits: Mapping[int, int]


@dataclasses.dataclass(frozen=True, eq=False)
class Pending:
    """Schedules of one workload that are being built.

    Attributes:
        jobs: One job for each schedule, in order.
    """

    jobs: tuple[Job, ...]


class ProgramMeasurer:
    """Measures schedules of workloads on a device.

    Args:
        device: The device that programs run on.
        builder: The build processes that compile programs.
        database: The database to which each valid measurement is written at once.
        target: The target that is compiled for.
        num_threads: The number of threads that a program runs with.
        timeout_sec: The time limit of one program's run, in seconds.
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
            schedules: The workload's schedules, after postprocessing.

        Returns:
            The pending builds, to be passed to `finish`.
        """
        builds = self._builder.submit([schedule.mod for schedule in schedules])
        limits = lowering_of(mod).index_limits(mod)
        jobs = [Job(mod, *pair, limits) for pair in zip(schedules, builds, strict=True)]
        return Pending(tuple(jobs))

    def finish(self, pending: Sequence[Pending]) -> list[list[MeasureResult]]:
        """Times schedules that `begin` started to build.

        On this machine's own cores, timing starts when everything is built. On another device,
        building and timing overlap.

        Args:
            pending: The pending builds from `begin`; all of them are timed in turn.

        Returns:
            A list for each element of `pending`, with one result for each schedule, in order.

        Raises:
            DeviceUnreachableError: If the device cannot be reached any more.
            DatabaseError: If a measurement cannot be written.
        """
        jobs = [job for workload in pending for job in workload.jobs]
        builds = [job.build for job in jobs]
        if self._device.shares_host:
            # Building and timing at once would disturb the timing.
            concurrent.futures.wait(builds)
        outcomes: list[_Timed | str] = []
        try:
            # A program that failed once is not timed again.
            for outcome in self._device.map(self._time, jobs):
                outcomes.append(outcome)
            for _ in range(_NUM_PASSES - 1):
                self._time_again(jobs, outcomes)
        finally:
            self._builder.discard([build.result() for build in builds])
            # If the device was lost, `outcomes` is shorter, and what was timed is still stored.
            results = iter([self._store(*pair) for pair in zip(jobs, outcomes, strict=False)])
        return [list(itertools.islice(results, len(workload.jobs))) for workload in pending]

    def measure(self, mod: tvm.IRModule, schedules: Sequence[Schedule]) -> list[MeasureResult]:
        """Builds and times schedules of one workload.

        Args:
            mod: The workload, normalised.
            schedules: The workload's schedules, after postprocessing.

        Returns:
            One result for each schedule, in order.
        """
        return self.finish([self.begin(mod, schedules)])[0]

    def _time_again(self, jobs: Sequence[Job], outcomes: list[_Timed | str]) -> None:
        """Adds a sample to each program that has not failed."""
        running = [index for index, outcome in enumerate(outcomes) if not isinstance(outcome, str)]
        new_outcomes = self._device.map(lambda index: self._time(jobs[index]), running)
        for index, outcome in zip(running, new_outcomes, strict=True):
            previous = outcomes[index]
            if isinstance(outcome, str) or isinstance(previous, str):
                outcomes[index] = outcome
            else:
                previous[1].extend(outcome[1])

    def _store(self, job: Job, outcome: _Timed | str) -> MeasureResult:
        """Writes one program's shortest sample to the database."""
        if isinstance(outcome, str):
            return MeasureResult(None, outcome)
        arguments, samples_ms = outcome
        self.database.add(job.mod, job.schedule.trace, min(samples_ms), self.target, arguments)
        return MeasureResult(min(samples_ms), None)

    def _time(self, job: Job) -> _Timed | str:
        """Times one program; returns its arguments and samples in ms, or why it failed."""
        build = job.build.result()
        if build.library is None:
            return f"build: {build.error}"
        arguments = ms.arg_info.ArgInfo.from_entry_func(job.schedule.mod, remove_preproc=True)
        shapes = tvm_internals.shapes_of(arguments)
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
                index_limits=job.index_limits,
            )
        except DeviceUnreachableError:
            raise  # this is not the program's fault, and nothing more can be measured
        except DeviceError as error:
            # A program that crashes or hangs costs one trial; the device has recovered by now.
            return f"run: {error}"
        return list(arguments), list(samples_ms)
