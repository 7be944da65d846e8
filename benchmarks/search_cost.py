r"""Compares CPrune's searches, and the predictive strategy: result, search time, measurements.

    python benchmarks/search_cost.py --config=configs/fashion_resnet8.py --workdir=runs/search_cost

For each seed, the original is tuned once. From these programs start three runs: `cprune` with
search=transfer, `cprune` with search=retune (every candidate is tuned, as in the paper) and
`predictive`. Each run is an ordinary run directory, with a record of what it asked of the device
beside the journal. At the end the results of all runs, tuned with the same number of trials, are
timed in turn with the original.

Search time is the time between the tuned original and the end of pruning, without the trainings and
evaluations of candidates. Measurements are programs and whole models that were timed in this time.

The same command goes on after it was stopped. Writes results/search_cost.json; with --quick,
everything runs with tiny settings, and what comes out is no result.
"""

from __future__ import annotations

import dataclasses
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import effort
import outcomes
import record
import settings
from absl import flags
from together import Timed, run_files, time_together

from cprune_tf.cli import command_line, run_flags
from cprune_tf.config import PruneConfig
from cprune_tf.devices import open_device
from cprune_tf.latency.workspace import open_as_configured

flags.adopt_module_key_flags(run_flags)
_SEEDS = flags.DEFINE_list("seeds", ["0"], "The seeds; each has three runs.")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "How often all results are timed in turn.")
_ASSIGNMENTS = flags.DEFINE_integer(
    "assignments", 30, "Random assignments that the predictive run's surface is tested with."
)
_TEST_SEED = flags.DEFINE_integer("test_seed", 1000, "Seed of these assignments.")
_QUICK = flags.DEFINE_bool("quick", False, "Try the script with tiny settings; no result.")

TRANSFER, RETUNE, PREDICTIVE = "cprune_transfer", "cprune_retune", "predictive"
_FIELDS: dict[str, dict[str, Any]] = {
    TRANSFER: {"strategy.name": "cprune", "strategy.cprune.search": "transfer"},
    RETUNE: {"strategy.name": "cprune", "strategy.cprune.search": "retune"},
    PREDICTIVE: {"strategy.name": "predictive"},
}


def run_all(config: PruneConfig, seed: int, folder: pathlib.Path) -> dict[str, PruneConfig]:
    """Carries out the runs of one seed; finished ones are only read.

    Args:
        config: The config that all runs share, but for the strategy.
        seed: The seed of all of them.
        folder: The folder of the run directories.

    Returns:
        The config of each run, by its name and that of its directory.
    """
    configs = {
        name: settings.changed(config, {"seed": seed, **fields}) for name, fields in _FIELDS.items()
    }
    source = folder / "original" / "tuning"
    if any(not (folder / name / "tuning").exists() for name in configs):
        _tune_original(configs[TRANSFER], source.parent)
    for name, one in configs.items():
        root = folder / name
        effort.copy_tuning(source, root)
        if not outcomes.is_finished(root):
            print(f"seed {seed}: {name}", flush=True)
            effort.prune(one, root)
    return configs


def _tune_original(config: PruneConfig, folder: pathlib.Path) -> None:
    from cprune_tf import models

    original = models.load_model(config.model)
    with open_as_configured(original, config.device, folder, config) as opened:
        opened.tune(config.tuning.trials_per_task)


def timed(config: PruneConfig, folder: pathlib.Path, names: Sequence[str]) -> dict[str, Timed]:
    """Times the results of one seed in turn with the original."""
    files = run_files(folder / names[0], {"original": "original.so"})
    for name in names:
        files += run_files(folder / name, {name: "final.so"})
    with open_device(config.device, config.measure.cores) as device:
        return time_together(device, files, config.measure, _ROUNDS.value)


def row(seed: int, name: str, root: pathlib.Path, latency: Timed) -> dict[str, Any]:
    """Returns what one run reached and cost, as JSON types."""
    outcome, records = outcomes.read_outcome(root), outcomes.journal(root)
    spent = effort.search_effort(records, effort.read_work(root))
    return {
        "seed": seed,
        "run": name,
        "latency_ms": latency.latency_ms,
        "latency_over_original": latency.ratio,
        "latency_over_original_range": latency.ratio_range,
        **{
            field: getattr(outcome, field)
            for field in ("num_candidates", "num_accepted", "epochs", "hours", "stop_reason")
        },
        "original": dataclasses.asdict(outcome.original),
        "result": dataclasses.asdict(outcome.result),
        "num_deciding": outcome.num_deciding,
        "num_untouched": outcome.num_untouched,
        "effort": {**dataclasses.asdict(spent), "num_measurements": spent.num_measurements},
    }


def bars(
    rows: Sequence[Mapping[str, Any]], predictions: Mapping[str, Mapping[str, Any]]
) -> list[record.Bar]:
    """Compares medians over the seeds with what was aimed at.

    Args:
        rows: A row for each seed and run.
        predictions: Summaries of the errors of prediction, by what was predicted.
    """
    by_run = {name: [one for one in rows if one["run"] == name] for name in _FIELDS}
    transfer, retune, predictive = (by_run[name] for name in (TRANSFER, RETUNE, PREDICTIVE))

    def ratio(ours: list[Any], theirs: list[Any], *path: str) -> float | None:
        ratios = [
            _at(a, path) / _at(b, path) for a, b in zip(ours, theirs, strict=True) if _at(b, path)
        ]
        return statistics.median(ratios) if ratios else None

    def fewer_points(part: str) -> float | None:
        pairs = [
            (_at(a, ("result", part)), _at(b, ("result", part)))
            for a, b in zip(transfer, retune, strict=True)
        ]
        losses = [100 * (b - a) for a, b in pairs if a is not None and b is not None]
        return statistics.median(losses) if losses else None

    return [
        record.Bar("latency, transfer / retune", ratio(transfer, retune, "latency_ms"), 1.03),
        record.Bar("points below retune, deciding images", fewer_points("deciding"), 0.3),
        record.Bar("points below retune, untouched images", fewer_points("untouched"), 0.3),
        record.Bar(
            "search time, transfer / retune",
            ratio(transfer, retune, "effort", "search_sec"),
            1 / 20,
        ),
        *(
            record.Bar(f"median error of prediction, {what}", one["median_error"], 0.1)
            for what, one in predictions.items()
        ),
        record.Bar(
            "measurements, predictive / transfer",
            ratio(predictive, transfer, "effort", "num_measurements"),
            1 / 5,
        ),
    ]


def _at(values: Any, path: Sequence[str]) -> Any:
    for name in path:
        values = values[name]
    return values


def _shown(one: Mapping[str, Any]) -> dict[str, Any]:
    spent = one["effort"]
    untouched = one["result"]["untouched"]
    return {
        "run": one["run"],
        "seed": one["seed"],
        "ms": one["latency_ms"],
        "/ original": one["latency_over_original"],
        "deciding %": 100 * one["result"]["deciding"],
        "untouched %": None if untouched is None else 100 * untouched,
        "candidates": one["num_candidates"],
        "accepted": one["num_accepted"],
        "search s": spent["search_sec"],
        "training s": spent["training_sec"],
        "programs": spent["num_programs"],
        "models": spent["num_models"],
        "sessions": spent["num_sessions"],
    }


def main(argv: Sequence[str]) -> None:
    """Runs all searches, compares them and writes the result."""
    del argv
    config = run_flags.read()
    if _QUICK.value:
        config = settings.changed(config, settings.QUICK)
    effort.check_config(config)
    run_flags.import_tensorflow()
    import predicted_ratios

    workdir = pathlib.Path(run_flags.WORKDIR.value)
    seeds = [int(seed) for seed in _SEEDS.value]
    rows, candidates, random = [], [], []
    for seed in seeds:
        folder = workdir / f"seed_{seed}"
        configs = run_all(config, seed, folder)
        found = predicted_ratios.check_predictions(
            configs[PREDICTIVE],
            folder / PREDICTIVE,
            folder / "predictions",
            2 if _QUICK.value else _ASSIGNMENTS.value,
            _TEST_SEED.value,
        )
        candidates += found[0]
        random += found[1]
        latencies = timed(config, folder, list(configs))
        rows += [row(seed, name, folder / name, latencies[name]) for name in configs]
    predictions = {
        "its candidates": predicted_ratios.summary(candidates),
        "random assignments": predicted_ratios.summary(random),
    }
    found_bars = bars(rows, predictions)
    record.print_table("Searches", [_shown(one) for one in rows])
    record.print_bars(found_bars)
    content = {
        "num_threads": config.measure.num_threads,
        "seeds": seeds,
        "test_seed": _TEST_SEED.value,
        "config": settings.for_result(config),
        "bars": [bar.to_json() for bar in found_bars],
        "rows": rows,
        "predictions": predictions,
    }
    print(record.write_or_try("search_cost", content, workdir if _QUICK.value else None))


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    command_line.run_main(main)
