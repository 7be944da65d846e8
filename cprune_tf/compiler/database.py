"""The database of measured programs, which makes sure that no program is measured twice.

It is a thin layer over MetaSchedule's JSON database. It repairs the files that a killed process
left behind, and gives latencies in milliseconds.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import statistics
from collections.abc import Sequence
from typing import Any

import tvm
from tvm.s_tir import meta_schedule as ms

from cprune_tf.errors import UserError
from cprune_tf.storage import jsonl

WORKLOADS = "database_workload.json"
RECORDS = "database_tuning_record.json"
_NO_LIMIT = 1_000_000  # more programs than any workload has


class DatabaseError(UserError, RuntimeError):
    """The database cannot be read or written; the message says which file and what to do."""


@dataclasses.dataclass(frozen=True)
class Program:
    """One measured schedule of a workload.

    Attributes:
        trace: The MetaSchedule trace, with its decisions.
        latency_ms: The latency of one call on the device, in ms.
        record: The database record that the program was read from.
    """

    trace: tvm.s_tir.schedule.Trace
    latency_ms: float
    record: ms.database.TuningRecord

    def schedule(self, mod: tvm.IRModule) -> tvm.s_tir.Schedule:
        """Schedules the workload as it was when it was measured, postprocessing included.

        Args:
            mod: The program's workload, normalised.

        Returns:
            The schedule, ready to build.
        """
        schedule = tvm.s_tir.Schedule(mod)
        self.trace.apply_to_schedule(schedule, remove_postproc=False)
        return schedule


class ProgramDatabase:
    """Measured programs by workload, on disk.

    Args:
        directory: The folder of the database's two files; it is created if it does not exist.

    Raises:
        DatabaseError: If the folder cannot be written, or a file is corrupt before its last line.
    """

    def __init__(self, directory: pathlib.Path | str) -> None:
        directory = pathlib.Path(directory)
        try:
            directory.mkdir(parents=True, exist_ok=True)
            for name in (WORKLOADS, RECORDS):
                # TVM opens the files for writing only when it stores the first measurement. Opening
                # them here reports a read-only folder before anything is measured.
                (directory / name).open("ab").close()
                _repair_last_line(directory / name)
            self._database = ms.database.JSONDatabase(work_dir=str(directory))
        except OSError as error:
            raise DatabaseError(
                f"The tuning database in {directory} cannot be opened: {error}. "
                "Check that the folder is writable and the disk is not full."
            ) from error
        except (RuntimeError, ValueError) as error:
            raise DatabaseError(
                f"The tuning database in {directory} is corrupt: {str(error).splitlines()[-1]}. "
                "Move the folder elsewhere and start again; the model is then tuned anew."
            ) from error
        self.directory = directory

    @property
    def native(self) -> ms.database.Database:
        """MetaSchedule's database object, which its passes and searches need."""
        return self._database

    def __len__(self) -> int:
        return len(self._database)

    def programs(self, mod: tvm.IRModule, limit: int = _NO_LIMIT) -> tuple[Program, ...]:
        """Reads the valid measured programs of a workload.

        Args:
            mod: The workload, normalised.
            limit: The largest number of programs to return.

        Returns:
            The programs, fastest first; empty if none was measured.
        """
        if not self._database.has_workload(mod):
            return ()
        workload = self._database.commit_workload(mod)
        records = self._database.get_top_k(workload, limit)
        return tuple(
            Program(record.trace, _latency_ms(record.run_secs), record) for record in records
        )

    def best_latency_ms(self, mod: tvm.IRModule) -> float | None:
        """The fastest measured program's latency in ms; None if no program was measured."""
        programs = self.programs(mod, 1)
        return programs[0].latency_ms if programs else None

    def add(
        self,
        mod: tvm.IRModule,
        trace: tvm.s_tir.schedule.Trace,
        latency_ms: float,
        target: tvm.target.Target,
        arguments: Sequence[Any],
    ) -> None:
        """Writes one measured program to disk.

        Args:
            mod: The workload, normalised.
            trace: The program's trace.
            latency_ms: The latency of one call, in ms.
            target: The target that the program was built for.
            arguments: MetaSchedule's ArgInfo of each argument.

        Raises:
            DatabaseError: If the measurement cannot be written to disk.
        """
        records = self.directory / RECORDS
        try:
            size_before = records.stat().st_size
            workload = self._database.commit_workload(mod)
            self._database.commit_tuning_record(
                ms.database.TuningRecord(
                    trace, workload, [latency_ms / 1e3], target, list(arguments)
                )
            )
            # TVM does not check whether its writes succeed.
            if records.stat().st_size <= size_before:
                raise OSError(f"{RECORDS} did not grow")
            for name in (RECORDS, WORKLOADS):
                if not _ends_with_newline(self.directory / name):
                    raise OSError(f"{name} ends in an unfinished line")
        except (OSError, RuntimeError, ValueError) as error:
            raise DatabaseError(
                f"A measurement could not be written to {self.directory}: "
                f"{str(error).splitlines()[-1]}. Check that the disk has free space."
            ) from error


def _latency_ms(run_secs: Sequence[Any]) -> float:
    return statistics.median(float(value) for value in run_secs) * 1e3


def _repair_last_line(path: pathlib.Path) -> None:
    """Repairs the last line of a file whose writer was killed.

    Raises:
        ValueError: If another line cannot be read.
    """
    try:
        lines = jsonl.read(path, _check_json)
    except jsonl.LineError as error:
        raise ValueError(f"line {error.number} of {path.name} cannot be read") from error
    jsonl.repair(path, lines)


def _check_json(line: bytes) -> None:
    """Raises ValueError if a line is not JSON; returns nothing, as a database may be large."""
    json.loads(line)


def _ends_with_newline(path: pathlib.Path) -> bool:
    """Whether a file's last byte is a newline."""
    with path.open("rb") as stream:
        if stream.seek(0, 2) == 0:
            return False
        stream.seek(-1, 2)
        return stream.read(1) == b"\n"
