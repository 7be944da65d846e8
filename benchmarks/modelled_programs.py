r"""Makes the programs for ARM that come with the package, with a model of a processor.

    python benchmarks/modelled_programs.py --workdir=runs/modelled \
        --measured=runs/programs/x86-64-v3/networks

No ARM board is at hand, so the tuner uses a model (machine_model.py) instead of a clock. The
fastest programs by the model go to cprune_tf/compiler/programs/armv8.2. They are only starting
points, which a run measures again. How good the model is can be checked on a processor that is at
hand: with --measured, the benchmark also models programs that shipped_programs.py measured on an
x86 processor, and reports how much slower the model's choices are than the fastest program. Writes
results/modelled_programs.json. Nothing is timed. Needs Debian or Ubuntu on x86; qemu and LLVM are
fetched, not installed.
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
# ResNet-8 is left out, because ResNet-20 has the same shapes.
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
# Tasks that hardly matter have fewer modelled programs and are left out.
_MIN_MODELLED = 8
_MIN_MEASURED = 12
_CHOSEN = 3
_CYCLES_PER_MS = 1e6  # at 1 GHz: only the order counts

_WORKDIR = flags.DEFINE_string("workdir", None, "The folder of tools and databases.", required=True)
_MEASURED = flags.DEFINE_string("measured", "", "Folder with databases of shipped_programs.py.")
_MAKE = flags.DEFINE_bool("make", True, "Make programs; otherwise only validate the model.")
_TRIALS = flags.DEFINE_integer("trials", 16, "Programs modelled for each task of the networks.")
_EVERY = flags.DEFINE_integer("every", 1, "Model only every n-th measured workload.")
_SAMPLE = flags.DEFINE_integer("sample", 12, "Modelled programs of each measured workload.")


class ModelledMeasurer:
    """Replaces the tuner's ProgramMeasurer, and models programs instead of timing them.

    Args:
        model: The model of the processor.
        builder: The builder that compiles programs, with the model's linker.
        database: The database that receives every modelled program.
        target: The target to compile for.
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
        """Builds and models schedules of one workload, like ProgramMeasurer.measure."""
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
        model: The model of the processor.
        builder: The builder that compiles programs, with the model's linker.
        mods: The programs, after postprocessing.

    Returns:
        For each program, its latency in ms at 1 GHz, or why there is none.
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
        folders: The folders of the databases with measured programs.
        tools: The emulator and LLVM.

    Returns:
        For each workload with enough measured programs, how well the model orders them.
    """
    model = MachineModel(X86, tools, pathlib.Path(_WORKDIR.value))
    target = tvm.target.Target(X86.target)
    rows = []
    with ProgramBuilder(target, linker=model.linker, timeout_sec=120.0) as builder:
        for mod, programs in itertools.islice(_measured(folders), 0, None, _EVERY.value):
            sampled = random.Random(0).sample(programs, min(_SAMPLE.value, len(programs)))
            results = modelled(model, builder, [program.schedule(mod).mod for program in sampled])
            measured_ms = [program.latency_ms for program in sampled]
            # Programs that cannot be modelled would be chosen last.
            by_model = [math.inf if r.latency_ms is None else r.latency_ms for r in results]
            block, extents = anchor_extents(mod) or ("", ())
            rows.append(
                {
                    "block": block,
                    "extents": list(extents),
                    "failed": sum(r.latency_ms is None for r in results),
                    **judge(measured_ms, by_model),
                }
            )
            print(rows[-1], flush=True)
    return rows


def judge(measured_ms: Sequence[float], by_model: Sequence[float]) -> dict[str, Any]:
    """Judges how well a model orders programs.

    Args:
        measured_ms: The measured latencies in ms, one per program.
        by_model: The modelled latencies, in any unit.

    Returns:
        The rank correlation, and measured latencies as multiples of the best one: that of the
        model's first choice, that of the best of its first choices, and for comparison that of the
        best of equally many random programs (geometric mean).
    """
    best, count = min(measured_ms), len(measured_ms)
    chosen = sorted(range(count), key=lambda i: by_model[i])
    ascending = sorted(measured_ms)

    def by_chance(num_drawn: int) -> float:
        ways = [math.comb(count - 1 - i, num_drawn - 1) for i in range(count)]
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
    """Summarises all workloads: the median rank correlation and geometric means of multiples."""
    names = [name for name in rows[0] if name.startswith(("first", "best_of"))]
    means = {name: statistics.geometric_mean(row[name] for row in rows) for name in names}
    multiples = [row[f"best_of_{_CHOSEN}"] for row in rows]
    return {
        "workloads": len(rows),
        "programs": sum(row["programs"] for row in rows),
        "median_rank_correlation": statistics.median(row["rank_correlation"] for row in rows),
        **means,
        f"best_of_{_CHOSEN}_within_15_percent": sum(m <= 1.15 for m in multiples) / len(multiples),
        f"best_of_{_CHOSEN}_worst": max(multiples),
    }


def make(tools: Tools) -> dict[str, Any]:
    """Tunes the networks with the model and writes the package's programs.

    Args:
        tools: The emulator and LLVM.

    Returns:
        Figures about the programs, as JSON types.
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
    source = f"LLVM {tools.llvm_version}'s model of {ARM.name}: modelled, not measured"
    about = {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "cpu": source,
        "networks": [folder.name for folder in folders],
    }
    count = warm_start.export_programs(folders, output, about, min_measured=_MIN_MODELLED)
    return {
        "level": LEVEL,
        "model": source,
        "workloads": count,
        "bytes": sum(path.stat().st_size for path in output.iterdir()),
        "modelled_programs": programs,
        "tests": compare(model, target, warm_start.WarmStart(output)),
    }


def compare(
    model: MachineModel, target: tvm.target.Target, programs: warm_start.WarmStart
) -> dict[str, Any]:
    """Models what a search gains by starting from the programs.

    Args:
        model: The model of the processor.
        target: The target to compile for.
        programs: The programs to start from.

    Returns:
        For a network with other shapes, by trials of each task: the modelled time with these
        programs divided by the time without them.
    """
    ratios: dict[str, float] = {}
    with (
        ProgramBuilder(target, linker=model.linker, timeout_sec=120.0) as builder,
        tempfile.TemporaryDirectory() as directory,
    ):
        for trials in (4, 8):
            modelled_ms: list[float] = []
            for start in (programs, None):
                folder = pathlib.Path(directory, f"{trials}_{len(modelled_ms)}")
                measurer = ModelledMeasurer(model, builder, ProgramDatabase(folder), target)
                modelled_ms.append(tune(measurer, ds_cnn(), trials, start=start))
            ratios[str(trials)] = modelled_ms[0] / modelled_ms[1]
    return {"DS-CNN": ratios}


def tune(
    measurer: ModelledMeasurer,
    model: Any,
    trials: int,
    *,
    start: warm_start.WarmStart | None = None,
) -> float:
    """Tunes a Keras model.

    Args:
        measurer: The measurer that models programs.
        model: The Keras model.
        trials: Number of trials of each task, in one round.
        start: The programs to start from; None for a search from scratch.

    Returns:
        The modelled time of all tasks in ms.
    """
    config = TuningConfig(trials_per_round=trials)
    tuner = Tuner(measurer, config, seed=0, warm_start=start)  # type: ignore[arg-type]
    lowered = lower_model(import_model(model), measurer.target)
    tuner.tune(lowered.tasks, trials, lambda *status: print(*status, flush=True))
    return lowered.latency_ms(measurer.database)


def _measured(folders: Sequence[pathlib.Path]) -> Iterator[tuple[tvm.IRModule, list[Program]]]:
    """Yields each workload with enough measured programs once, with its programs."""
    yielded = set()
    for folder in folders:
        paths = [str(folder / name) for name in (WORKLOADS, RECORDS)]
        native = ms.database.JSONDatabase(*paths, allow_missing=False)
        programs_of: dict[int, list[Program]] = collections.defaultdict(list)
        mods = {}
        for entry in native.get_all_tuning_records():
            key = tvm_internals.structural_hash(entry.workload.mod)
            mods[key] = entry.workload.mod
            programs_of[key].append(Program(entry.trace, float(entry.run_secs[0]) * 1e3, entry))
        for key, programs in programs_of.items():
            if key not in yielded and len(programs) >= _MIN_MEASURED:
                yielded.add(key)
                yield mods[key], programs


def _arguments(mod: tvm.IRModule) -> list[Any]:
    return list(ms.arg_info.ArgInfo.from_entry_func(mod, remove_preproc=True))


def main(argv: Sequence[str]) -> None:
    """Runs the benchmark; a missing tool ends it with one line of explanation."""
    del argv
    try:
        run()
    except (FetchError, ModelError) as error:
        sys.exit(f"error: {error}")


def run() -> None:
    """Validates the model, makes programs, and writes the results."""
    tools = fetch_tools(pathlib.Path(_WORKDIR.value).resolve() / "tools")
    new_values: dict[str, Any] = {}
    if _MEASURED.value:
        folders = sorted(path.parent for path in pathlib.Path(_MEASURED.value).glob(f"*/{RECORDS}"))
        if not folders:
            raise app.UsageError(f"--measured={_MEASURED.value} has no folder with a {RECORDS}.")
        rows = validate(folders, tools)
        new_values["validation"] = {"model": X86.name, **summary(rows), "rows": rows}
    if _MAKE.value:
        new_values["made"] = make(tools)
    path = record.RESULTS / "modelled_programs.json"
    values = json.loads(path.read_text()) if path.exists() else {}
    old_values = {name: values[name] for name in ("validation", "made") if name in values}
    print(record.write("modelled_programs", {**old_values, **new_values}))


if __name__ == "__main__":
    app.run(main)
