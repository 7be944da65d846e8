"""Programs measured in earlier runs or shipped with the package, as starting points for new tasks.

They are transferred to a task's shape and measured like any other program; nothing of what they
took elsewhere counts. A folder of them is what MetaSchedule's JSON database writes, as it lies in a
run's `tuning` folder; the shipped ones are compressed and say in `about.json` where they are from:
a processor that they were measured on, or the model of one that chose them.
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
# Of what is written here; a reader that finds another number takes nothing.
_FORMAT = 1
# Of each workload, this many of its fastest programs are looked at.
_FASTEST = 8


@dataclasses.dataclass(frozen=True)
class _Source:
    """A workload of an earlier run.

    Attributes:
        workload: MetaSchedule's object.
        written: The same as it stands in the file: TVM writes some things that it cannot convert.
        block: The name of the block that computes most.
        extents: Of that block's loops.
        records: Its fastest records, as JSON types.
        num_measured: All records it had.
    """

    workload: ms.database.Workload
    written: Any
    block: str
    extents: tuple[int, ...]
    records: tuple[Any, ...]
    num_measured: int

    @functools.cached_property
    def programs(self) -> tuple[Program, ...]:
        """Those of its records, in order."""
        found = []
        for values in self.records:
            record = ms.database.TuningRecord.from_json(values, self.workload)
            found.append(Program(record.trace, float(record.run_secs[0]) * 1e3, record))
        return tuple(found)


class WarmStart:
    """The programs of one folder, by how near their shapes are.

    Args:
        folder: With a database's two files, compressed or not; None: no programs.

    Raises:
        ConfigError: The folder holds no database.
    """

    def __init__(self, folder: pathlib.Path | None) -> None:
        self._folder = folder
        if folder is not None and not all(_find(folder, name) for name in (WORKLOADS, RECORDS)):
            raise ConfigError(
                f"tuning.warm_start is {str(folder)!r}: there is no {WORKLOADS} and {RECORDS} in "
                "it. Expected the folder `tuning` of an earlier run, 'shipped', or ''."
            )

    @functools.cached_property
    def _sources(self) -> list[_Source]:
        """Read when first asked for: it takes a moment."""
        return [] if self._folder is None else list(_read(self._folder))

    def nearest(self, mod: tvm.IRModule, limit: int) -> tuple[Program, ...]:
        """Programs of workloads that compute alike, the most similar shapes first.

        Args:
            mod: The workload to start.
            limit: Programs at most.

        Returns:
            Programs that differ in inner tiling, of at most three workloads.
        """
        anchor = anchor_extents(mod)
        if anchor is None:
            return ()
        block, extents = anchor

        def distance(source: _Source) -> float:
            pairs = zip(source.extents, extents, strict=True)
            return sum(abs(math.log(a / b)) for a, b in pairs)

        alike = [s for s in self._sources if s.block == block and len(s.extents) == len(extents)]
        found: list[Program] = []
        for source in heapq.nsmallest(3, alike, key=distance):
            found += distinct_programs(source.programs, limit - len(found))
            if len(found) >= limit:
                break
        return tuple(found)


def open_warm_start(setting: str, target: tvm.target.Target) -> WarmStart:
    """The starting points that a configuration names.

    Args:
        setting: "shipped": those that come with the package for the target's kind of processor;
            "": none; else a folder.
        target: What is compiled for.

    Returns:
        The programs; empty where none are shipped for such a target or this TVM.

    Raises:
        ConfigError: The folder holds no database.
    """
    if setting != SHIPPED:
        return WarmStart(pathlib.Path(setting) if setting else None)
    level = _level(target)
    folder = _FOLDER / level if level else None
    if folder is None or not (folder / _ABOUT).exists():
        return WarmStart(None)
    about = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
    if (about["format"], about["tvm"]) != (_FORMAT, tvm.__version__):
        _LOGGER.info("The shipped programs are TVM %s's; they are not used.", about["tvm"])
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
        folders: Databases.
        output: The folder to write; made if missing.
        about: What to say of their origin, as JSON types.
        programs: Of each workload, so many that differ in inner tiling.
        min_measured: Workloads of which fewer programs were measured are left out: those were
            priced, not tuned.

    Returns:
        How many workloads were written.

    Raises:
        ConfigError: A folder holds no database.
    """
    best: dict[int, tuple[_Source, tuple[Program, ...]]] = {}
    for folder in folders:
        for source in WarmStart(folder)._sources:
            if source.num_measured < min_measured:
                continue
            chosen = distinct_programs(source.programs, programs)
            key = int(source.written[0])
            if key not in best or chosen[0].latency_ms < best[key][1][0].latency_ms:
                best[key] = (source, chosen)
    output.mkdir(parents=True, exist_ok=True)
    workloads, records = [], []
    for number, (source, chosen) in enumerate(best.values()):
        workloads.append(json.dumps(source.written))
        records += [
            json.dumps([number, values])
            for program, values in zip(source.programs, source.records, strict=True)
            if any(program is one for one in chosen)
        ]
    for name, lines in ((WORKLOADS, workloads), (RECORDS, records)):
        # No time in the header: the same programs make the same file.
        text = "".join(f"{line}\n" for line in lines).encode()
        (output / f"{name}.gz").write_bytes(gzip.compress(text, mtime=0))
    content = {"format": _FORMAT, "tvm": tvm.__version__, **about}
    (output / _ABOUT).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return len(best)


def _level(target: tvm.target.Target) -> str | None:
    """The kind of processor that programs are shipped for."""
    if tvm_internals.is_gpu(target):
        return None
    has = tvm.get_global_func("target.target_has_feature")
    if has("avx512f", target):
        return "x86-64-v4"
    if has("avx2", target):
        return "x86-64-v3"
    # A core that LLVM has no name for is described by its extensions: these came with ARMv8.2.
    is_v8_2 = any(has(feature, target) for feature in ("v8.2a", "fullfp16", "dotprod"))
    return "armv8.2" if is_v8_2 and has("neon", target) else None


def _find(folder: pathlib.Path, name: str) -> pathlib.Path | None:
    paths = (folder / name, folder / f"{name}.gz")
    return next((path for path in paths if path.is_file()), None)


def _lines(folder: pathlib.Path, name: str) -> Iterator[Any]:
    """The whole lines of a file; a run that still writes may have left the last unfinished."""
    path = _find(folder, name)
    assert path is not None
    data = path.read_bytes()
    for line in (gzip.decompress(data) if path.suffix == ".gz" else data).splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            _LOGGER.warning("A line of %s cannot be read; it is left out.", path)


def _read(folder: pathlib.Path) -> Iterator[_Source]:
    records: dict[int, list[Any]] = {}
    for number, record in _lines(folder, RECORDS):
        records.setdefault(int(number), []).append(record)
    for number, values in enumerate(_lines(folder, WORKLOADS)):
        own = records.get(number, [])
        fastest = heapq.nsmallest(_FASTEST, own, key=lambda record: record[1][0])
        if not fastest:
            continue
        workload = ms.database.Workload.from_json(values)
        anchor = anchor_extents(workload.mod)
        if anchor is not None:
            yield _Source(workload, values, *anchor, tuple(fastest), len(own))
