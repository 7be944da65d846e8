"""Programs of earlier runs, or shipped with the package, as starting points for new tasks.

They are transferred to a task's shape and measured like any other program. Their latencies in the
earlier run do not count.

A folder of such programs contains the files of MetaSchedule's JSON database, like a run's `tuning`
folder. The files of shipped programs are compressed. Their `about.json` says where they come from:
the processor that they were measured on, or the processor model that chose them.
"""

from __future__ import annotations

import dataclasses
import functools
import gzip
import heapq
import json
import logging
import math
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tvm
from tvm.s_tir import meta_schedule as ms

from cprune_tf.compiler import tvm_internals
from cprune_tf.compiler.database import RECORDS, WORKLOADS, Program
from cprune_tf.compiler.structure import anchor_extents
from cprune_tf.compiler.transfer import distinct_programs
from cprune_tf.config import ConfigError

_LOGGER = logging.getLogger(__name__)
SHIPPED = "shipped"
_FOLDER = pathlib.Path(__file__).resolve().parents[1] / "programs"
_ABOUT = "about.json"
# The version of the shipped files' format. Programs in another format are not used.
_FORMAT = 1
# How many of each workload's fastest programs are read.
_FASTEST = 8
# How many of the nearest workloads give programs.
_MAX_SOURCES = 3


@dataclasses.dataclass(frozen=True)
class _Source:
    """A workload of an earlier run.

    Attributes:
        workload: MetaSchedule's workload object.
        serialized: The workload as JSON types, as in the file. It is kept because TVM cannot
            convert every workload object back to JSON.
        block: The name of the anchor, the reduction block with the most iterations.
        extents: The extents of that block's loops.
        records: The workload's fastest records, as JSON types.
        num_measured: The number of all records of the workload.
    """

    workload: ms.database.Workload
    serialized: Any
    block: str
    extents: tuple[int, ...]
    records: tuple[Any, ...]
    num_measured: int

    @functools.cached_property
    def programs(self) -> tuple[Program, ...]:
        """The programs of `records`, in order."""
        programs = []
        for values in self.records:
            record = ms.database.TuningRecord.from_json(values, self.workload)
            programs.append(Program(record.trace, float(record.run_secs[0]) * 1e3, record))
        return tuple(programs)


class WarmStart:
    """Finds the programs in one folder whose shapes are nearest to a workload's.

    Args:
        folder: A folder with a database's two files, compressed or not; None: no programs.
        setting: What named the folder, for the error.

    Raises:
        ConfigError: If the folder contains no database.
    """

    def __init__(self, folder: pathlib.Path | None, setting: str = "tuning.warm_start") -> None:
        self._folder = folder
        if folder is not None and not all(
            _find_file(folder, name) for name in (WORKLOADS, RECORDS)
        ):
            raise ConfigError(
                f"{setting} is {str(folder)!r}, which does not contain both {WORKLOADS} and "
                f"{RECORDS}. Expected the folder `tuning` of an earlier run."
            )

    @functools.cached_property
    def _sources(self) -> list[_Source]:
        """The workloads of the folder, read on first use because reading takes a moment."""
        return [] if self._folder is None else list(_read(self._folder))

    def nearest(self, mod: tvm.IRModule, limit: int) -> tuple[Program, ...]:
        """Finds programs of workloads with the same anchor, the most similar shapes first.

        Args:
            mod: The workload that needs first programs.
            limit: The largest number of programs.

        Returns:
            Programs of at most three workloads; those of one workload differ in inner tiling.
        """
        anchor = anchor_extents(mod)
        if anchor is None:
            return ()
        block, extents = anchor

        def distance(source: _Source) -> float:
            pairs = zip(source.extents, extents, strict=True)
            return sum(abs(math.log(a / b)) for a, b in pairs)

        similar = [
            source
            for source in self._sources
            if source.block == block and len(source.extents) == len(extents)
        ]
        programs: list[Program] = []
        for source in heapq.nsmallest(_MAX_SOURCES, similar, key=distance):
            programs += distinct_programs(source.programs, limit - len(programs))
            if len(programs) >= limit:
                break
        return tuple(programs)


def open_warm_start(setting: str, target: tvm.target.Target) -> WarmStart:
    """Opens the starting points that a configuration names.

    Args:
        setting: "shipped" for the programs that come with the package for the target's kind of
            processor, "" for none, else the path of a folder.
        target: The target that is compiled for.

    Returns:
        The programs; none if no programs are shipped for the target or for this version of TVM.

    Raises:
        ConfigError: If the folder contains no database.
    """
    if setting != SHIPPED:
        return WarmStart(pathlib.Path(setting) if setting else None)
    level = _level(target)
    folder = _FOLDER / level if level else None
    if folder is None or not (folder / _ABOUT).exists():
        return WarmStart(None)
    about = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
    if (about["format"], about["tvm"]) != (_FORMAT, tvm.__version__):
        _LOGGER.info(
            "The shipped programs are not used: they are for TVM %s in format %s; expected TVM %s "
            "and format %s.",
            about["tvm"],
            about["format"],
            tvm.__version__,
            _FORMAT,
        )
        return WarmStart(None)
    return WarmStart(folder)


def export_programs(
    folders: Sequence[pathlib.Path],
    output: pathlib.Path,
    about: Mapping[str, Any],
    *,
    programs: int = 3,
    min_measured: int = 1,
) -> int:
    """Writes the fastest programs of several runs as one compressed folder.

    Args:
        folders: The folders of the runs' databases.
        output: The folder to write, created if it does not exist.
        about: The programs' origin, as JSON types, for `about.json`.
        programs: The number of programs of each workload; they differ in inner tiling.
        min_measured: Workloads with fewer measured programs are left out, because they were priced
            and not tuned.

    Returns:
        The number of workloads that were written.

    Raises:
        ConfigError: If a folder contains no database.
    """
    best: dict[int, tuple[_Source, tuple[Program, ...]]] = {}
    for folder in folders:
        for source in WarmStart(folder, "--runs")._sources:
            if source.num_measured < min_measured:
                continue
            source_programs = distinct_programs(source.programs, programs)
            key = int(source.serialized[0])
            if key not in best or source_programs[0].latency_ms < best[key][1][0].latency_ms:
                best[key] = (source, source_programs)
    output.mkdir(parents=True, exist_ok=True)
    workloads, records = [], []
    for number, (source, source_programs) in enumerate(best.values()):
        workloads.append(json.dumps(source.serialized))
        records += [
            json.dumps([number, values])
            for program, values in zip(source.programs, source.records, strict=True)
            if any(program is exported for exported in source_programs)
        ]
    for name, lines in ((WORKLOADS, workloads), (RECORDS, records)):
        # The header contains no time, so that the same programs give the same file.
        text = "".join(f"{line}\n" for line in lines).encode()
        (output / f"{name}.gz").write_bytes(gzip.compress(text, mtime=0))
    content = {"format": _FORMAT, "tvm": tvm.__version__, **about}
    (output / _ABOUT).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return len(best)


def _level(target: tvm.target.Target) -> str | None:
    """The kind of processor in a target, by the name of its folder of shipped programs.

    None if it is none of the kinds that programs can be shipped for.
    """
    if tvm_internals.is_gpu(target):
        return None
    has_feature = tvm.get_global_func("target.target_has_feature")
    if has_feature("avx512f", target):
        return "x86-64-v4"
    if has_feature("avx2", target):
        return "x86-64-v3"
    # A core without a name in LLVM is described by its extensions. These came with ARMv8.2.
    is_v8_2 = any(has_feature(feature, target) for feature in ("v8.2a", "fullfp16", "dotprod"))
    return "armv8.2" if is_v8_2 and has_feature("neon", target) else None


def _find_file(folder: pathlib.Path, name: str) -> pathlib.Path | None:
    paths = (folder / name, folder / f"{name}.gz")
    return next((path for path in paths if path.is_file()), None)


def _lines(folder: pathlib.Path, name: str) -> Iterator[Any]:
    """Reads the lines of a file; the last one may be unfinished if a run is still writing."""
    path = _find_file(folder, name)
    assert path is not None
    data = path.read_bytes()
    for line in (gzip.decompress(data) if path.suffix == ".gz" else data).splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            _LOGGER.warning("A line of %s cannot be read as JSON; it is left out.", path)


def _read(folder: pathlib.Path) -> Iterator[_Source]:
    """Reads the workloads of a folder that have a reduction and at least one record."""
    records: dict[int, list[Any]] = {}
    for number, record in _lines(folder, RECORDS):
        records.setdefault(int(number), []).append(record)
    for number, values in enumerate(_lines(folder, WORKLOADS)):
        workload_records = records.get(number, [])
        fastest = heapq.nsmallest(_FASTEST, workload_records, key=lambda record: record[1][0])
        if not fastest:
            continue
        workload = ms.database.Workload.from_json(values)
        anchor = anchor_extents(workload.mod)
        if anchor is not None:
            yield _Source(workload, values, *anchor, tuple(fastest), len(workload_records))
