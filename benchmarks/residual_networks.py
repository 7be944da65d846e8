r"""Prunes a residual network to a target with several seeds, in stretches of hours.

    PYTHONPATH=FOLDER python benchmarks/residual_networks.py --model=resnet20.keras \
        --name=ResNet-20 --data=module:function --target_speedup=2 --max_accuracy_drop=0.003 \
        --seeds=0,1,2 --hours=4 --workdir=runs/resnet20_2x

Each seed is a run of `tools/prune.py` in WORKDIR/seed_N. When the hours are over, the run is
interrupted; the same command goes on from there, as it does after a kill. What follows `--` goes to
`tools/prune.py`, e.g. `-- --config.strategy.latency_budget.num_rounds=4`. A flag that is repeated
there counts for the run only: with `-- --target_speedup=2.1`, the run aims higher than the bar.

If the original knows its training images by heart, half of the test images decide what is accepted
(`config.data.validation_source`). So accuracies are given on the images that decided, on the test
images that did not, and on all test images. They are those of the last epoch, unless long-term
training made the model worse ("kept" says so).

Writes the entry of the model and its target in results/residual_networks.json once a seed is
finished; with --quick, everything runs with tiny settings, and what comes out is no result.
"""

from __future__ import annotations

import dataclasses
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import outcomes
import record
import settings
from absl import app, flags

ROOT = pathlib.Path(__file__).resolve().parents[1]
_CONFIG = flags.DEFINE_string(
    "config", str(ROOT / "configs" / "cifar10_resnet.py"), "The experiment."
)
_MODEL = flags.DEFINE_string("model", None, "The trained Keras model.", required=True)
_NAME = flags.DEFINE_string("name", None, "The model's name in the result.", required=True)
_DATA = flags.DEFINE_string("data", None, "Instead of the config's data, as in config.data.name.")
_TARGET = flags.DEFINE_float("target_speedup", 2.0, "How many times as fast the result shall be.")
_DROP = flags.DEFINE_float(
    "max_accuracy_drop", 0.003, "What the result may lose, as a fraction: 0.003 is 0.3 points."
)
_SEEDS = flags.DEFINE_list("seeds", ["0"], "The seeds; each has a run.")
_EPOCHS = flags.DEFINE_integer("epochs", None, "Epochs of long-term training; as in the config.")
_HOURS = flags.DEFINE_float("hours", float("inf"), "Stop after this time; call again to go on.")
_WORKDIR = flags.DEFINE_string("workdir", None, "The folder of the runs.", required=True)
_QUICK = flags.DEFINE_bool("quick", False, "Try the script with tiny settings; no result.")

# How long an interrupted run may take to close its files and processes.
_ENDING_SEC = 120.0


def command(seed: int, root: pathlib.Path, others: Sequence[str]) -> list[str]:
    """Returns the command that begins or continues the run of a seed."""
    fields: dict[str, Any] = {"model": _MODEL.value, "seed": seed}
    if _DATA.value is not None:
        fields["data.name"] = _DATA.value
    if _EPOCHS.value is not None:
        fields["training.long_term.epochs"] = _EPOCHS.value
    drop = _DROP.value
    if _QUICK.value:
        fields |= settings.QUICK
        drop = fields.pop("strategy.max_accuracy_drop")
    return [
        sys.executable,
        str(ROOT / "tools" / "prune.py"),
        f"--config={_CONFIG.value}",
        f"--workdir={root}",
        "--resume",
        f"--target_speedup={_TARGET.value}",
        f"--max_accuracy_drop={drop}",
        *(f"--config.{name}={value}" for name, value in fields.items()),
        *others,
    ]


def run_until(words: Sequence[str], deadline: float) -> bool:
    """Runs a command, and interrupts it when the time is over.

    Args:
        words: The command.
        deadline: Monotonic time in seconds.

    Returns:
        Whether the command came to its end.
    """
    # A shell without job control starts background processes that ignore interrupts, and so would
    # the child.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    child = subprocess.Popen(words)
    try:
        remaining = deadline - time.monotonic()
        returncode = child.wait(None if remaining == float("inf") else max(0.0, remaining))
    except subprocess.TimeoutExpired:
        return False
    finally:
        _end(child)
    if returncode != 0:
        sys.exit(f"the run ended with exit code {returncode}; the same command goes on from there.")
    return True


def _end(child: subprocess.Popen[bytes]) -> None:
    """Interrupts a child process that still runs, and kills it if that does not help."""
    if child.poll() is not None:
        return
    child.send_signal(signal.SIGINT)
    try:
        child.wait(_ENDING_SEC)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def run_all(seeds: Sequence[int], workdir: pathlib.Path, others: Sequence[str]) -> None:
    """Runs the seeds one after the other until all are finished or the time is over."""
    deadline = time.monotonic() + 3600 * _HOURS.value
    for seed in seeds:
        root = workdir / f"seed_{seed}"
        if outcomes.is_finished(root):
            continue
        if time.monotonic() > deadline or not run_until(command(seed, root, others), deadline):
            print(f"The time is over in seed {seed}; the same command goes on.", flush=True)
            return


def summary(found: Mapping[int, outcomes.Outcome]) -> dict[str, Any]:
    """Returns mean and spread over the seeds: speed-ups, points of accuracy, epochs, hours.

    Args:
        found: What the finished runs reached, by seed.

    Returns:
        For each figure "mean", "standard_deviation", "min" and "max"; points are those of the
        result above the original, so that a loss is negative.
    """
    figures: dict[str, list[float]] = {
        name: [getattr(one, name) for one in found.values()]
        for name in ("speedup", "speedup_over_litert", "epochs", "hours")
    }
    for part in ("deciding", "untouched", "all_test"):
        pairs = [(getattr(one.original, part), getattr(one.result, part)) for one in found.values()]
        figures[f"points_{part}"] = [
            100 * (after - before) for before, after in pairs if before is not None is not after
        ]
    return {name: outcomes.spread(values) for name, values in figures.items() if values}


def bars(figures: Mapping[str, Mapping[str, float]]) -> list[record.Bar]:
    """Compares the means over the seeds with the target."""
    return [
        record.Bar("speed-up", figures["speedup"]["mean"], _TARGET.value, at_least=True),
        record.Bar(
            "points on all test images",
            figures["points_all_test"]["mean"],
            -100 * _DROP.value,
            at_least=True,
        ),
    ]


def _shown(seed: int, one: outcomes.Outcome) -> dict[str, Any]:
    def change(part: str) -> str:
        before, after = getattr(one.original, part), getattr(one.result, part)
        return "-" if before is None else f"{100 * before:.2f} -> {100 * after:.2f}"

    return {
        "seed": seed,
        "speed-up": one.speedup,
        "/ LiteRT": one.speedup_over_litert,
        f"deciding % ({one.num_deciding})": change("deciding"),
        f"untouched % ({one.num_untouched})": change("untouched"),
        "all test %": change("all_test"),
        "accepted": f"{one.num_accepted} of {one.num_candidates}",
        "epochs": one.epochs,
        "hours": one.hours,
        "sessions": one.num_sessions,
        "kept": one.kept,
    }


def main(argv: Sequence[str]) -> None:
    """Runs the seeds as far as the time allows, and writes what is finished."""
    others = argv[1:]
    seeds = [int(seed) for seed in _SEEDS.value]
    workdir = pathlib.Path(_WORKDIR.value).resolve()
    run_all(seeds, workdir, others)
    roots = {seed: workdir / f"seed_{seed}" for seed in seeds}
    found = {
        seed: outcomes.read_outcome(root)
        for seed, root in roots.items()
        if outcomes.is_finished(root)
    }
    if not found:
        print("No seed is finished yet.")
        return
    figures = summary(found)
    found_bars = bars(figures)
    title = f"{_NAME.value}, {_TARGET.value:g}x at {100 * _DROP.value:g} points"
    record.print_table(title, [_shown(seed, one) for seed, one in found.items()])
    record.print_bars(found_bars)
    tried_in = workdir if _QUICK.value else None
    entries = record.entries("residual_networks", tried_in or record.RESULTS)
    entries[title] = {
        "model": pathlib.Path(_MODEL.value).name,
        "config": pathlib.Path(_CONFIG.value).name,
        "target_speedup": _TARGET.value,
        "max_accuracy_drop": _DROP.value,
        "long_term_epochs": _EPOCHS.value,
        "further_flags": others,
        "seeds": list(found),
        "unfinished_seeds": [seed for seed in seeds if seed not in found],
        "bars": [bar.to_json() for bar in found_bars],
        "summary": figures,
        "runs": {seed: dataclasses.asdict(one) for seed, one in found.items()},
    }
    content = {"num_threads": 1, "models": entries}
    print(record.write_or_try("residual_networks", content, tried_in))


if __name__ == "__main__":
    app.run(main)
