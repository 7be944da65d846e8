r"""Makes the starting points that come with the package for ARM, by a model of a processor.

    python benchmarks/modelled_programs.py --workdir=runs/modelled \
        --measured=runs/programs/x86-64-v3/networks

No ARM board is at hand. So the tuner runs with a model in the clock's place (machine_model.py), and
what it finds fastest goes to cprune_tf/compiler/programs/armv8.2. They are starting points: a run
measures them again. What such a model is worth is seen where there are clocks: with --measured, it
also models programs that shipped_programs.py measured on an x86 processor, and says how much slower
than the fastest the ones are that it would have chosen. Writes results/modelled_programs.json.
Nothing is timed. Needs an x86 Debian or Ubuntu: its qemu and LLVM are fetched, not installed.
"""

from __future__ import annotations

import collections
import datetime
import itertools
import json
import math
import pathlib
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

import record
import tvm
from absl import app, flags
from machine_model import MachineModel, ModelError, Processor, Tools, fetch_tools
from scipy import stats
from tvm.s_tir import Schedule
from tvm.s_tir import meta_schedule as ms
from workloads import NETWORKS, PRETRAINED, ds_cnn

from cprune_tf import models
from cprune_tf.compiler import tvm_internals
from cprune_tf.compiler.building.builder import ProgramBuilder
from cprune_tf.compiler.database import RECORDS, WORKLOADS, Program, ProgramDatabase
from cprune_tf.compiler.importer import import_model
from cprune_tf.compiler.structure import anchor_extents
from cprune_tf.compiler.tasks import lower_model
from cprune_tf.compiler.tuning import warm_start
from cprune_tf.compiler.tuning.measuring import MeasureResult
from cprune_tf.compiler.tuning.tuner import Tuner
from cprune_tf.config import TuningConfig
from cprune_tf.devices.bundle import FetchError
from cprune_tf.devices.targets import COMMON

LEVEL = "armv8.2"
# Without ResNet-8, whose shapes are ResNet-20's.
SOURCES = NETWORKS[1:]
# The Neoverse N1 is the Cortex-A76 with another cache; LLVM has a model of the former only.
ARM = Processor(
    "neoverse-n1",
    "aarch64",
    {**COMMON, "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a76", "num-cores": 1},
)
X86 = Processor(
    "znver3",
    "x86_64",
    {**COMMON, "mtriple": "x86_64-linux-gnu", "mcpu": "x86-64-v3", "num-cores": 1},
)
# Fewer were modelled of tasks that hardly matter.
_MIN_MODELLED = 8
_MIN_MEASURED = 12
_CHOSEN = 3
_CYCLES_PER_MS = 1e6  # at 1 GHz: only the order counts

_WORKDIR = flags.DEFINE_string("workdir", None, "Where tools and databases lie.", required=True)
_MEASURED = flags.DEFINE_string("measured", "", "Folder with databases of shipped_programs.py.")
_MAKE = flags.DEFINE_bool("make", True, "Make programs, not only look what the model is worth.")
_TRIALS = flags.DEFINE_integer("trials", 16, "Programs modelled for each task of the networks.")
_EVERY = flags.DEFINE_integer("every", 1, "Of the measured workloads, each n-th is modelled.")
_SAMPLE = flags.DEFINE_integer("sample", 12, "Measured programs that are modelled, a workload.")


class ModelledMeasurer:
    """Stands in for compiler.measuring.ProgramMeasurer: models where that one times.

    Args:
        model: Of the processor.
        builder: What compiles programs, with the model's linker.
        database: Where every modelled program is written.
        target: What is compiled for.
    """

    def __init__(
        self,
        model: MachineModel,
        builder: ProgramBuilder,
        database: ProgramDatabase,
        target: tvm.target.Target,
    ) -> None:
        self.database = database
        self.target = target
        self._model = model
        self._builder = builder

    def measure(self, mod: tvm.IRModule, schedules: Sequence[Schedule]) -> list[MeasureResult]:
        """Builds and models schedules of one workload; see ProgramMeasurer."""
        results = modelled(self._model, self._builder, [schedule.mod for schedule in schedules])
        for schedule, result in zip(schedules, results, strict=True):
            if result.latency_ms is not None:
                arguments = _arguments(schedule.mod)
                self.database.add(mod, schedule.trace, result.latency_ms, self.target, arguments)
        return results


def modelled(
    model: MachineModel, builder: ProgramBuilder, mods: Sequence[tvm.IRModule]
) -> list[MeasureResult]:
    """Builds and models programs.

    Args:
        model: Of the processor.
        builder: With the model's linker.
        mods: The programs, after postprocessing.

    Returns:
        For each, milliseconds at 1 GHz, or why there are none.
    """
    results = []
    for mod, build in zip(mods, builder.submit(mods), strict=True):
        built = build.result()
        if built.library is None:
            results.append(MeasureResult(None, f"build: {built.error}"))
            continue
        tensors = [(str(info.dtype), tuple(map(int, info.shape))) for info in _arguments(mod)]
        try:
            cycles = model.cycles(built.library, tensors)
        except ModelError as error:
            results.append(MeasureResult(None, f"model: {error}"))
        else:
            results.append(MeasureResult(cycles / _CYCLES_PER_MS, None))
        builder.discard([built])
    return results


def validate(folders: Sequence[pathlib.Path], tools: Tools) -> list[dict[str, Any]]:
    """Models measured programs.

    Args:
        folders: Databases.
        tools: For the model.

    Returns:
        For each workload of which enough were measured, how good the model's choice is.
    """
    model = MachineModel(X86, tools, pathlib.Path(_WORKDIR.value))
    target = tvm.target.Target(X86.target)
    rows = []
    with ProgramBuilder(target, linker=model.linker, timeout_sec=120.0) as builder:
        for mod, programs in itertools.islice(_measured(folders), 0, None, _EVERY.value):
            sampled = random.Random(0).sample(programs, min(_SAMPLE.value, len(programs)))
            results = modelled(model, builder, [one.schedule(mod).mod for one in sampled])
            known = [p.latency_ms for p in sampled]
            # What the model cannot look at is what it would choose last.
            by_model = [math.inf if r.latency_ms is None else r.latency_ms for r in results]
            block, extents = anchor_extents(mod) or ("", ())
            rows.append(
                {
                    "block": block,
                    "extents": list(extents),
                    "failed": sum(r.latency_ms is None for r in results),
                    **judge(known, by_model),
                }
            )
            print(rows[-1], flush=True)
    return rows


def judge(measured_ms: Sequence[float], by_model: Sequence[float]) -> dict[str, Any]:
    """How well a model orders programs.

    Args:
        measured_ms: Their latencies.
        by_model: What the model says, in any unit.

    Returns:
        The rank correlation; and measured latencies as multiples of the best one: of the program
        that the model puts first, of the best of those it puts first, and what the best of as many
        random ones would have (geometric mean).
    """
    best, count = min(measured_ms), len(measured_ms)
    chosen = sorted(range(count), key=lambda i: by_model[i])
    ascending = sorted(measured_ms)

    def by_chance(drawn: int) -> float:
        ways = [math.comb(count - 1 - i, drawn - 1) for i in range(count)]
        logs = [w * math.log(ms / best) for w, ms in zip(ways, ascending, strict=True)]
        return math.exp(sum(logs) / sum(ways))

    return {
        "programs": count,
        "best_us": best * 1e3,
        "rank_correlation": float(stats.spearmanr(measured_ms, by_model).statistic),
        "first": measured_ms[chosen[0]] / best,
        f"best_of_{_CHOSEN}": min(measured_ms[i] for i in chosen[:_CHOSEN]) / best,
        "first_by_chance": by_chance(1),
        f"best_of_{_CHOSEN}_by_chance": by_chance(_CHOSEN),
    }


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of all workloads: the median rank correlation, geometric means of the multiples."""
    names = [name for name in rows[0] if name.startswith(("first", "best_of"))]
    means = {name: statistics.geometric_mean(row[name] for row in rows) for name in names}
    found = [row[f"best_of_{_CHOSEN}"] for row in rows]
    return {
        "workloads": len(rows),
        "programs": sum(row["programs"] for row in rows),
        "median_rank_correlation": statistics.median(row["rank_correlation"] for row in rows),
        **means,
        f"best_of_{_CHOSEN}_within_15_percent": sum(one <= 1.15 for one in found) / len(found),
        f"best_of_{_CHOSEN}_worst": max(found),
    }


def make(tools: Tools) -> dict[str, Any]:
    """Tunes the networks with the model and writes the package's programs.

    Args:
        tools: For the model.

    Returns:
        What was made, as JSON types.
    """
    root = pathlib.Path(_WORKDIR.value)
    output = pathlib.Path(warm_start.__file__).parent / "programs" / LEVEL
    model = MachineModel(ARM, tools, root)
    target = tvm.target.Target(ARM.target)
    folders: list[pathlib.Path] = []
    programs: dict[str, int] = {}
    with ProgramBuilder(target, linker=model.linker, timeout_sec=120.0) as builder:
        for name in SOURCES:
            folders.append(root / "networks" / pathlib.Path(name).stem)
            measurer = ModelledMeasurer(model, builder, ProgramDatabase(folders[-1]), target)
            start = time.monotonic()
            tune(measurer, models.load_model(str(PRETRAINED / name)), _TRIALS.value)
            programs[folders[-1].name] = len(measurer.database)
            print(f"{name}: {time.monotonic() - start:.0f} s", flush=True)
    how = f"LLVM {tools.llvm_version}'s model of {ARM.name}: modelled, not measured"
    about = {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "cpu": how,
        "networks": [folder.name for folder in folders],
    }
    count = warm_start.export_programs(folders, output, about, min_measured=_MIN_MODELLED)
    return {
        "level": LEVEL,
        "model": how,
        "workloads": count,
        "bytes": sum(path.stat().st_size for path in output.iterdir()),
        "modelled_programs": programs,
        "tests": compare(model, target, warm_start.WarmStart(output)),
    }


def compare(
    model: MachineModel, target: tvm.target.Target, programs: warm_start.WarmStart
) -> dict[str, Any]:
    """What starting from the programs gains, by the same model.

    Args:
        model: Of the processor.
        target: What is compiled for.
        programs: To start from.

    Returns:
        For a model of other shapes, by trials of each task: modelled time with them / without.
    """
    found: dict[str, float] = {}
    with (
        ProgramBuilder(target, linker=model.linker, timeout_sec=120.0) as builder,
        tempfile.TemporaryDirectory() as directory,
    ):
        for trials in (4, 8):
            taken = []
            for start in (programs, None):
                folder = pathlib.Path(directory, f"{trials}_{len(taken)}")
                measurer = ModelledMeasurer(model, builder, ProgramDatabase(folder), target)
                taken.append(tune(measurer, ds_cnn(), trials, start=start))
            found[str(trials)] = taken[0] / taken[1]
    return {"DS-CNN": found}


def tune(
    measurer: ModelledMeasurer,
    model: Any,
    trials: int,
    *,
    start: warm_start.WarmStart | None = None,
) -> float:
    """Tunes a Keras model.

    Args:
        measurer: Where programs are modelled.
        model: The model.
        trials: Of each task, in one round.
        start: Programs to start from.

    Returns:
        The modelled time of all its tasks.
    """
    config = TuningConfig(trials_per_round=trials)
    tuner = Tuner(measurer, config, seed=0, warm_start=start)  # type: ignore[arg-type]
    lowered = lower_model(import_model(model), measurer.target)
    tuner.tune(lowered.tasks, trials, lambda *said: print(*said, flush=True))
    return lowered.latency_ms(measurer.database)


def _measured(folders: Sequence[pathlib.Path]) -> Iterator[tuple[tvm.IRModule, list[Program]]]:
    """Workloads of which enough was measured, with their programs; each once."""
    seen = set()
    for folder in folders:
        paths = [str(folder / name) for name in (WORKLOADS, RECORDS)]
        native = ms.database.JSONDatabase(*paths, allow_missing=False)
        found: dict[int, list[Program]] = collections.defaultdict(list)
        mods = {}
        for one in native.get_all_tuning_records():
            key = tvm_internals.structural_hash(one.workload.mod)
            mods[key] = one.workload.mod
            found[key].append(Program(one.trace, float(one.run_secs[0]) * 1e3, one))
        for key, programs in found.items():
            if key not in seen and len(programs) >= _MIN_MEASURED:
                seen.add(key)
                yield mods[key], programs


def _arguments(mod: tvm.IRModule) -> list[Any]:
    return list(ms.arg_info.ArgInfo.from_entry_func(mod, remove_preproc=True))


def main(argv: Sequence[str]) -> None:
    """Validates, makes, writes; or says in a line what is missing."""
    del argv
    try:
        run()
    except (FetchError, ModelError) as error:
        sys.exit(f"error: {error}")


def run() -> None:
    """Validates, makes, writes."""
    tools = fetch_tools(pathlib.Path(_WORKDIR.value).resolve() / "tools")
    found: dict[str, Any] = {}
    if _MEASURED.value:
        folders = sorted(path.parent for path in pathlib.Path(_MEASURED.value).glob(f"*/{RECORDS}"))
        if not folders:
            raise app.UsageError(f"--measured={_MEASURED.value} has no folder with a {RECORDS}.")
        rows = validate(folders, tools)
        found["validation"] = {"model": X86.name, **summary(rows), "rows": rows}
    if _MAKE.value:
        found["made"] = make(tools)
    before = record.RESULTS / "modelled_programs.json"
    values = json.loads(before.read_text()) if before.exists() else {}
    kept = {name: values[name] for name in ("validation", "made") if name in values}
    print(record.write("modelled_programs", {**kept, **found}))


if __name__ == "__main__":
    app.run(main)
