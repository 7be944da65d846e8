"""Libraries for several numbers of threads: one each, and everything picks the one that fits."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import rich.console

import cprune_tf
from cprune_tf.config import PruneConfig
from cprune_tf.deployment import write_deploy_folder
from cprune_tf.devices import DeviceError
from cprune_tf.devices.local import LocalDevice
from cprune_tf.report import terminal
from cprune_tf.runs import RunDirectory
from tests.pipeline import handmade, tiny_config

pytestmark = pytest.mark.skipif(
    len(os.sched_getaffinity(0)) < 2, reason="needs two cores for two threads"
)
_TOOLS = pathlib.Path(__file__).parents[2] / "tools"
_IMAGE = np.random.default_rng(0).random((1, 8, 8, 1), dtype=np.float32)


@dataclasses.dataclass(frozen=True)
class Deployed:
    """A folder for deployment whose libraries hold different models, so that outputs tell them.

    Attributes:
        folder: The folder.
        models: The model in the library for each number of threads.
    """

    folder: pathlib.Path
    models: dict[int, keras.Model]


@pytest.fixture(scope="module")
def deployed(tmp_path_factory):
    root = tmp_path_factory.mktemp("deployed")
    models = {count: handmade.keras_model(8, seed=count) for count in (1, 2)}
    deployment = dataclasses.replace(
        handmade.deploy("pruned", models[1], root),
        num_threads=1,
        further_libraries=((2, handmade.tvm_library(models[2], root / "two.so")),),
    )
    with RunDirectory.create(root / "run", PruneConfig()) as run:
        write_deploy_folder(run, deployment, None, {"kind": "llvm"})
    np.save(root / "run" / "deploy" / "image.npy", _IMAGE)
    return Deployed(root / "run" / "deploy", models)


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, *map(str, command)]
    return subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize(
    ("flags", "ran"), [([], 1), (["--threads=2"], 2), (["litert", "--threads=2"], 1)]
)
def test_the_deployed_script_runs_the_library_for_the_threads(deployed, flags, ran):
    done = _run(deployed.folder / "run.py", deployed.folder / "image.npy", *flags)
    assert done.returncode == 0, done.stderr
    printed = np.array(done.stdout.replace("[", " ").replace("]", " ").split(), np.float32)
    np.testing.assert_allclose(printed, deployed.models[ran](_IMAGE)[0], atol=1e-5)


@pytest.mark.parametrize(
    ("flag", "reason"),
    [("--threads=3", "expected a number that a library is for: 1, 2"), ("--threads=x", "positive")],
)
def test_the_deployed_script_refuses_other_threads(deployed, flag, reason):
    done = _run(deployed.folder / "run.py", flag)
    assert done.returncode == 1 and reason in done.stderr


def test_benchmark_picks_the_library_for_the_threads(deployed):
    tool, models = _TOOLS / "benchmark.py", f"--models={deployed.folder}"
    done = _run(tool, models, "--threads=2", "--max_time_sec=0.1")
    assert done.returncode == 0, done.stderr
    assert "model_2_threads.so [tvm]" in done.stdout and "model.tflite [litert]" in done.stdout
    assert "model.so" not in done.stdout
    done = _run(tool, models, "--threads=3")
    assert done.returncode == 2 and "were made for 1 and 2; expected one" in done.stderr
    done = _run(tool, f"--models={_TOOLS}")
    assert done.returncode == 2 and "holds no metadata.json" in done.stderr


def _config(**changes):
    config = tiny_config.get_config()
    config.strategy.name = "uniform"
    config.strategy.max_iterations = 1
    config.tuning.trials_per_task = config.tuning.trials_per_round = 2
    config.tuning.final_trials_per_task = 2
    config.tuning.trials_per_accepted_task = 0
    config.tuning.lowerings = "direct"
    config.measure.further_threads = (2,)
    config.update(changes)
    return config.to_dict()


def _prune(path, workdir, resume=False):
    console = rich.console.Console(file=io.StringIO(), width=100)
    return cprune_tf.prune(
        str(path), config=_config(), workdir=workdir, resume=resume, console=console
    )


@pytest.fixture(scope="module")
def result(tiny_model_path, tmp_path_factory):
    return _prune(tiny_model_path, tmp_path_factory.mktemp("threads") / "run")


@pytest.mark.slow
def test_each_number_of_threads_has_its_library_and_its_rows(result, tmp_path):
    saved = result.save(tmp_path / "saved")
    assert {path.name for path in saved.glob("*.so")} == {"final.so", "final_2_threads.so"}
    assert (result.workdir / "original_2_threads.so").is_file()
    metadata = json.loads((saved / "deploy" / "metadata.json").read_text())
    assert metadata["libraries"] == [
        {"file": "model.so", "num_threads": 1},
        {"file": "model_2_threads.so", "num_threads": 2},
    ]
    one, two = ((saved / "deploy" / library["file"]) for library in metadata["libraries"])
    assert one.read_bytes() != two.read_bytes()
    report = result.report
    cores = len(os.sched_getaffinity(0))
    measured = {(row.runtime, row.num_threads) for row in report.latencies}
    of_litert = {("litert", count) for count in (1, 2, cores)}
    assert measured == {("tvm", 1), ("tvm for 2 threads", 2), *of_litert}
    assert all(row.original and row.pruned for row in report.latencies)
    assert not [problem for problem in report.cross_check.problems if "Keras" in problem]
    console = rich.console.Console(file=io.StringIO(), width=120, record=True)
    console.print(terminal.render(report))
    text = console.export_text()
    assert "latency, TVM for 2 threads, 2 threads" in text
    assert "TVM library, for 2 threads" in text


@pytest.mark.slow
def test_a_run_that_was_killed_before_its_export_tunes_nothing_twice(result, tiny_model_path):
    databases = [
        result.workdir / "tuning" / name / "database_tuning_record.json"
        for name in ("", "2_threads")
    ]
    journal = result.workdir / "journal.jsonl"
    before = [path.read_bytes() for path in databases]
    assert all(before)
    lines = journal.read_text().splitlines(keepends=True)
    (exported,) = (i for i, line in enumerate(lines) if json.loads(line)["event"] == "exported")
    journal.write_text("".join(lines[:exported]))
    libraries = list(result.workdir.glob("*_2_threads.so"))
    for path in libraries:
        path.unlink()
    assert _prune(tiny_model_path, result.workdir, resume=True).report.finished
    assert len(libraries) == 2 and all(path.is_file() for path in libraries)
    assert [path.read_bytes() for path in databases] == before


class OneThread(LocalDevice):
    """Has no code for several threads."""

    def _cpu_target(self, num_threads):
        if num_threads > 1:
            raise DeviceError(f"no code for {num_threads} threads")
        return super()._cpu_target(num_threads)


@pytest.mark.slow
def test_the_dry_run_tries_further_threads(tiny_model_path):
    config = _config(dry_run=True)
    console = rich.console.Console(file=io.StringIO(), width=200)
    with pytest.raises(DeviceError, match="no code for 2 threads"), OneThread() as device:
        cprune_tf.dry_run(str(tiny_model_path), device=device, config=config, console=console)
    assert "failed in the stage 'Tune the result'" in console.file.getvalue()
