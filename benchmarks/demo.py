r"""Measures the demo: time by stage, peak memory of all its processes, and its result.

    python benchmarks/demo.py --workdir=runs/demo_benchmark

Writes results/demo.json.
"""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import time
from collections.abc import Sequence

import psutil
import record
from absl import app, flags

from cprune_tf.runs import read_records
from cprune_tf.runs.events import (
    RUN_EVENTS,
    Accepted,
    CandidateJudged,
    CrossChecked,
    StageEnded,
)
from cprune_tf.storage import codec

ROOT = pathlib.Path(__file__).resolve().parents[1]
_CONFIG = flags.DEFINE_string("config", "configs/fashion_resnet8.py", "The experiment.")
_WORKDIR = flags.DEFINE_string("workdir", None, "A new run directory.", required=True)
_SAMPLE_SEC = 1.0  # reading proportional memory takes time


def memory_bytes(process: psutil.Process) -> int:
    """Returns the proportional memory of a process and its children; shared pages count once."""
    total = 0
    for member in [process, *process.children(recursive=True)]:
        try:
            total += member.memory_full_info().pss
        except psutil.Error:  # the process has ended
            continue
    return total


def main(argv: Sequence[str]) -> None:
    """Runs the demo and writes the measurements."""
    del argv
    command = ["tools/prune.py", f"--config={_CONFIG.value}", f"--workdir={_WORKDIR.value}"]
    start = time.monotonic()
    child = subprocess.Popen([sys.executable, *command], cwd=ROOT)
    peak = 0
    while child.poll() is None:
        try:
            peak = max(peak, memory_bytes(psutil.Process(child.pid)))
        except psutil.Error:
            break
        time.sleep(_SAMPLE_SEC)
    elapsed_sec = time.monotonic() - start
    if child.wait() != 0:
        sys.exit(f"the demo ended with exit code {child.returncode}")
    workdir = ROOT / _WORKDIR.value
    events = [r.event for r in read_records(workdir / "journal.jsonl", RUN_EVENTS)]
    checked = next(event for event in events if isinstance(event, CrossChecked))
    report = json.loads((workdir / "report.json").read_text())
    path = record.write(
        "demo",
        {
            # A fixed run directory, because results name no folders of this machine.
            "command": f"python tools/prune.py --config={_CONFIG.value} --workdir=runs/demo",
            "elapsed_sec": elapsed_sec,
            "peak_memory_bytes": peak,
            "stages_sec": {e.name: e.elapsed_sec for e in events if isinstance(e, StageEnded)},
            "num_candidates": sum(isinstance(event, CandidateJudged) for event in events),
            "num_accepted": sum(isinstance(event, Accepted) for event in events),
            # The last one is on the images that decided which candidates were accepted.
            "accuracies": report["accuracies"],
            "cross_check": codec.to_fields(checked),
            "notes": report.get("notes", []),
        },
    )
    print(f"{elapsed_sec:.0f} s, peak {peak / 2**30:.2f} GiB; {path}")


if __name__ == "__main__":
    app.run(main)
