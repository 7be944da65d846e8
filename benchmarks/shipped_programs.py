r"""Makes the programs that come with the package, and measures what starting from them gains.

    python benchmarks/shipped_programs.py --level=x86-64-v3 --workdir=runs/programs

Networks are tuned from scratch for a generic processor level, on this machine; the fastest programs
go to cprune_tf/compiler/programs/LEVEL. Then other models are tuned with few trials per task, with
and without these programs as starting points, and both results are timed interleaved. The same
command continues a tuning that was stopped. Writes the level's entry in
results/shipped_programs.json.
"""

from __future__ import annotations

import datetime
import json
import pathlib
import statistics
import time
from collections.abc import Sequence
from typing import Any

import record
from absl import app, flags
from workloads import NETWORKS, PRETRAINED, ds_cnn

from cprune_tf import models
from cprune_tf.compiler.session import CompilerSession
from cprune_tf.compiler.tuning import warm_start
from cprune_tf.config import MeasureConfig, TuningConfig
from cprune_tf.devices import Device, ModelFile, open_device
from cprune_tf.models.small import vgg_small

# Tasks that hardly matter have fewer measured programs and are left out.
_MIN_MEASURED = 12
_LEVEL = flags.DEFINE_enum(
    "level", None, ("x86-64-v3", "x86-64-v4"), "The processor level to compile for."
)
_WORKDIR = flags.DEFINE_string("workdir", None, "The folder of the databases.", required=True)
_TRIALS = flags.DEFINE_integer("trials", 32, "Trials of each task of the networks.")
_TEST_TRIALS = flags.DEFINE_list("test_trials", ["8", "16"], "Trials of each task of the tests.")
_ROUNDS = flags.DEFINE_integer("rounds", 9, "Number of interleaved comparisons.")


def held_out() -> dict[str, Any]:
    """Returns models whose shapes do not occur in the networks."""
    return {"DS-CNN": ds_cnn(), "VGG-like (32)": vgg_small((32, 32, 3))}


def tune_networks(device: Device, root: pathlib.Path) -> list[pathlib.Path]:
    """Tunes every network in a separate database; returns the databases' folders."""
    folders = []
    for name in NETWORKS:
        folder = root / "networks" / pathlib.Path(name).stem
        config = TuningConfig(warm_start="")
        with CompilerSession(device, folder, config, num_threads=1, seed=0) as session:
            start = time.monotonic()
            summary = session.tune(
                session.lower(models.load_model(str(PRETRAINED / name))), _TRIALS.value
            )
        print(f"{name}: {summary}, {time.monotonic() - start:.0f} s", flush=True)
        folders.append(folder)
    return folders


def compare(
    device: Device, model: Any, programs: pathlib.Path, folder: pathlib.Path, trials: int
) -> dict[str, Any]:
    """Tunes one model with and without the programs, and times both results."""
    inputs = (("float32", (1, *model.input_shape[1:])),)
    files, measured = [], {}
    for name, start_from in (("with", str(programs)), ("without", "")):
        config = TuningConfig(trials_per_round=trials, warm_start=start_from)
        start = time.monotonic()
        with CompilerSession(device, folder / name, config, num_threads=1, seed=0) as session:
            lowered = session.lower(model)
            summary = session.tune(lowered, trials)
            seconds = time.monotonic() - start
            session.build(lowered, folder / f"{name}.so")
        measured[name] = {"num_trials": summary.num_trials, "seconds": seconds}
        files.append(ModelFile(name, "tvm", str(folder / f"{name}.so"), inputs))
    runs = [device.time_models(files, 1, MeasureConfig()) for _ in range(_ROUNDS.value)]
    ratios = [first.median_ms / second.median_ms for first, second in runs]
    for number, name in enumerate(measured):
        measured[name]["latency_ms"] = statistics.median(run[number].median_ms for run in runs)
    return {
        "trials_per_task": trials,
        **measured,
        "with_over_without": [min(ratios), statistics.median(ratios), max(ratios)],
    }


def main(argv: Sequence[str]) -> None:
    """Tunes the networks, exports the programs, compares, and writes the results."""
    del argv
    root = pathlib.Path(_WORKDIR.value) / _LEVEL.value
    output = pathlib.Path(warm_start.__file__).parent / "programs" / _LEVEL.value
    with open_device(f"local?cpu={_LEVEL.value}") as device:
        folders = tune_networks(device, root)
        about = {
            "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
            "cpu": device.info().cpu_name,
            "networks": [pathlib.Path(name).stem for name in NETWORKS],
        }
        count = warm_start.export_programs(folders, output, about, min_measured=_MIN_MEASURED)
        print(f"{count} workloads in {output}", flush=True)
        tests: dict[str, list[dict[str, Any]]] = {}
        for name, model in held_out().items():
            for trials in map(int, _TEST_TRIALS.value):
                folder = root / "tests" / f"{model.name}_{trials}_{time.monotonic_ns()}"
                comparison = compare(device, model, output, folder, trials)
                tests.setdefault(name, []).append(comparison)
                print(name, comparison, flush=True)
    old_path = record.RESULTS / "shipped_programs.json"
    levels = json.loads(old_path.read_text())["levels"] if old_path.exists() else {}
    levels[_LEVEL.value] = {
        "workloads": count,
        "bytes": sum(path.stat().st_size for path in output.iterdir()),
        "trials_per_task": _TRIALS.value,
        "tests": tests,
    }
    print(record.write("shipped_programs", {"num_threads": 1, "levels": levels}))


if __name__ == "__main__":
    flags.mark_flag_as_required("level")
    app.run(main)
