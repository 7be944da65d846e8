r"""Compares strategies over several seeds, and model orders before and after tuning.

    python benchmarks/strategies.py --config=configs/fashion_resnet8.py --target_speedup=2 \
        --seeds=0,1,2 --workdir=runs/strategies

For each seed, every strategy prunes with the same model, data, device and requirement, as
`tools/compare.py` does; its page is WORKDIR/seed_N/comparison.html. The results are tuned with the
same number of trials and timed in turn. Strategies that train one candidate only get as many epochs
of long-term training as the reference strategy had in all its trainings (--equal_training).

The results are also built without tuning and timed in turn with the tuned ones: is what looks best
by its multiply-accumulates, by its untuned latency or by its latency in LiteRT the best after
tuning? (CPrune, ECCV 2022, motivates its search with models for which it is not.)

The same command goes on after it was stopped. Writes results/strategies.json; with --quick,
everything runs with tiny settings, and what comes out is no result.
"""

from __future__ import annotations

import dataclasses
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import outcomes
import rankings
import record
import settings
from absl import flags
from together import run_files, time_together

from cprune_tf.cli import command_line, run_flags
from cprune_tf.config import ConfigError, PruneConfig
from cprune_tf.devices import ModelFile, open_device
from cprune_tf.report.compared import types
from cprune_tf.strategies.registry import registered_strategies

flags.adopt_module_key_flags(run_flags)
_STRATEGIES = flags.DEFINE_list(
    "strategies",
    [
        "latency_budget",
        "cprune",
        "netadapt",
        "performance_aware",
        "uniform",
        "global_ranking:random",
        "global_ranking:l1",
        "global_ranking:taylor",
    ],
    "The strategies, each as NAME or NAME:IMPORTANCE.",
)
_REFERENCE = flags.DEFINE_string(
    "reference", "latency_budget", "Whom the others are compared with."
)
_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "The seeds.")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "How often all models of a seed are timed in turn.")
_EQUAL_TRAINING = flags.DEFINE_bool(
    "equal_training", True, "Strategies of one candidate train as long as the reference in all."
)
_QUICK = flags.DEFINE_bool("quick", False, "Try the script with tiny settings; no result.")

_BEFORE = {"macs": "MACs", "untuned_ms": "latency without tuning", "litert_ms": "latency in LiteRT"}


def run_configs(config: PruneConfig, seed: int, folder: pathlib.Path) -> dict[str, PruneConfig]:
    """Returns the config of each strategy's run, by the name of its directory."""
    configs = {}
    for text in _STRATEGIES.value:
        strategy, _, importance = text.partition(":")
        fields: dict[str, Any] = {"seed": seed, "strategy.name": strategy}
        if importance:
            fields["strategy.importance"] = importance
        if not config.tuning.database:
            fields["tuning.database"] = str((folder / "database").resolve())
        configs["_".join(filter(None, (strategy, importance)))] = settings.changed(config, fields)
    if _REFERENCE.value not in configs:
        raise ConfigError(
            f"--reference is {_REFERENCE.value!r}; expected one of {', '.join(configs)}."
        )
    return configs


def compared(configs: Mapping[str, PruneConfig], folder: pathlib.Path) -> types.Comparison:
    """Carries out the runs of one seed; finished ones are only read."""
    from cprune_tf import compare
    from cprune_tf.strategies.planning.one_shot import OneShot

    registered = registered_strategies()

    def trains_once(config: PruneConfig) -> bool:
        return issubclass(registered[config.strategy.name].strategy, OneShot)

    folder = folder.resolve()
    iterative = {name: one for name, one in configs.items() if not trains_once(one)}
    comparison = None
    if iterative:
        comparison = compare.compare_strategies(compare.Plan(folder, iterative)).comparison
    if len(iterative) < len(configs):
        everything = dict(configs)
        root = folder / _REFERENCE.value
        if _EQUAL_TRAINING.value and _REFERENCE.value in iterative and outcomes.is_finished(root):
            epochs = outcomes.planned_epochs(root, [r.event for r in outcomes.journal(root)])
            everything = {
                name: one if name in iterative else _longer(one, epochs)
                for name, one in configs.items()
            }
        comparison = compare.compare_strategies(compare.Plan(folder, everything)).comparison
    assert comparison is not None  # There is a reference, so there is a strategy.
    return comparison


def _longer(config: PruneConfig, epochs: int) -> PruneConfig:
    """Returns the config with so many epochs in all, for a run that trains one candidate."""
    training = config.training
    long = max(training.long_term.epochs, epochs - training.short_term.epochs)
    return settings.changed(config, {"training.long_term.epochs": long})


def row(seed: int, one: types.Row, folder: pathlib.Path) -> dict[str, Any]:
    """Returns what one strategy reached and cost, as JSON types."""
    records = outcomes.journal(folder / one.folder)
    cost = one.cost
    return {
        "seed": seed,
        "strategy": one.strategy,
        "state": one.state,
        "remark": one.remark,
        "latency_ms": one.latency.median_ms if one.latency else None,
        "speedup": one.speedup.median if one.speedup else None,
        "deciding_accuracy": one.deciding_accuracy,
        "test_accuracy": one.test_accuracy,
        "params": one.params,
        "search_sec": cost.search_sec if cost else None,
        "num_candidates": cost.num_candidates if cost else None,
        "num_trained": cost.num_trained if cost else None,
        "num_sessions": cost.num_sessions if cost else None,
        "epochs": (
            outcomes.planned_epochs(folder / one.folder, [r.event for r in records])
            if records
            else None
        ),
    }


def before_and_after(
    config: PruneConfig, names: Sequence[str], folder: pathlib.Path
) -> list[dict[str, Any]]:
    """Times the results of one seed, tuned and untuned, in turn.

    Args:
        config: The config of any of the runs.
        names: The runs that have a pruned model.
        folder: The folder of the run directories.

    Returns:
        For each run its MACs and latencies.
    """
    import keras
    from untuned import build_untuned

    from cprune_tf import graph

    models = {name: keras.models.load_model(folder / name / "final.keras") for name in names}
    with open_device(config.device, config.measure.cores) as device:
        libraries = build_untuned(device, config, models, folder / "untuned")
        files: list[ModelFile] = []
        for name in names:
            root = folder / name
            (tuned,) = run_files(root, {f"tuned {name}": "final.so"})
            untuned = dataclasses.replace(
                tuned, name=f"untuned {name}", path=str(libraries[name].resolve())
            )
            files += [
                tuned,
                untuned,
                *run_files(root, {f"litert {name}": "final.tflite"}, "litert"),
            ]
        timed = time_together(device, files, config.measure, _ROUNDS.value)
    return [
        {
            "name": name,
            "macs": graph.statistics(models[name]).macs,
            **{
                f"{kind}_ms": timed[f"{kind} {name}"].latency_ms
                for kind in ("untuned", "litert", "tuned")
            },
        }
        for name in names
    ]


def bars(
    rows: Sequence[Mapping[str, Any]],
    rerankings: Sequence[rankings.Reranking],
    has_target: bool,
) -> list[record.Bar]:
    """Compares the reference with every other strategy, and the orders of models.

    Without a latency target the tuned latencies decide, among results of the required accuracy.
    With one all results are about as fast, and the accuracy on test images decides.
    """
    found = []
    reference = {one["seed"]: one for one in rows if one["strategy"] == _REFERENCE.value}
    for name in dict.fromkeys(one["strategy"] for one in rows):
        if name == _REFERENCE.value:
            continue
        pairs = [
            (reference[one["seed"]], one)
            for one in rows
            if one["strategy"] == name
            and one["state"] == types.MET
            and reference[one["seed"]]["state"] == types.MET
        ]
        if not pairs and any(one["state"] == types.MET for one in reference.values()):
            continue  # The other one met the requirement nowhere; the summary shows that.
        if has_target:
            gains = [100 * (a["test_accuracy"] - b["test_accuracy"]) for a, b in pairs]
            value = statistics.median(gains) if gains else None
            what = f"points of {_REFERENCE.value} above {name} at the target"
            found.append(record.Bar(what, value, 0.0, at_least=True))
        else:
            ratios = [a["latency_ms"] / b["latency_ms"] for a, b in pairs]
            value = statistics.median(ratios) if ratios else None
            what = f"latency, {_REFERENCE.value} / {name}"
            found.append(record.Bar(what, value, 1.0))
    for before, what in _BEFORE.items():
        reversed_ = sum(one.is_reversed for one in rerankings if one.before == before)
        bar = record.Bar(f"seeds whose best by {what} is not best after tuning", reversed_, 1, True)
        found.append(bar)
    return found


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns mean and spread over the seeds, by strategy, of the results that there are."""
    found: dict[str, Any] = {}
    for name in dict.fromkeys(one["strategy"] for one in rows):
        mine = [one for one in rows if one["strategy"] == name]
        done = [one for one in mine if one["latency_ms"] is not None]
        fields = ("latency_ms", "speedup", "deciding_accuracy", "test_accuracy", "epochs")
        found[name] = {
            "states": [one["state"] for one in mine],
            **{
                field: outcomes.spread([one[field] for one in done if one[field] is not None])
                for field in fields
                if any(one[field] is not None for one in done)
            },
        }
    return found


def main(argv: Sequence[str]) -> None:
    """Runs all strategies with all seeds, compares them and writes the result."""
    del argv
    config = run_flags.read()
    if _QUICK.value:
        config = settings.changed(config, settings.QUICK)
    workdir = pathlib.Path(run_flags.WORKDIR.value)
    seeds = [int(seed) for seed in _SEEDS.value]
    plans = {seed: run_configs(config, seed, workdir / f"seed_{seed}") for seed in seeds}
    run_flags.import_tensorflow()
    rows: list[dict[str, Any]] = []
    orders: dict[int, list[dict[str, Any]]] = {}
    rerankings: list[rankings.Reranking] = []
    original: dict[int, Any] = {}
    for seed, configs in plans.items():
        folder = workdir / f"seed_{seed}"
        comparison = compared(configs, folder)
        rows += [row(seed, one, folder) for one in comparison.rows]
        original[seed] = {
            "deciding_accuracy": comparison.original.deciding_accuracy,
            "test_accuracy": comparison.original.test_accuracy,
        }
        names = [one.strategy for one in comparison.rows if one.has_result]
        if names:
            orders[seed] = before_and_after(config, names, folder)
            rerankings += [rankings.rerank(orders[seed], before, "tuned_ms") for before in _BEFORE]
            record.print_table(f"Seed {seed}, before and after tuning", orders[seed])
    has_target = bool(config.strategy.target_speedup or config.strategy.target_latency_ms)
    found_bars = bars(rows, rerankings, has_target)
    shown = ("strategy", "seed", "state", "latency_ms", "speedup", "deciding_accuracy",
             "test_accuracy", "num_trained", "epochs", "search_sec")  # fmt: skip
    record.print_table("Strategies", [{name: one[name] for name in shown} for one in rows])
    record.print_bars(found_bars)
    content = {
        "num_threads": config.measure.num_threads,
        "seeds": seeds,
        "reference": _REFERENCE.value,
        "equal_training": _EQUAL_TRAINING.value,
        "config": settings.for_result(config),
        "bars": [bar.to_json() for bar in found_bars],
        "summary": summary(rows),
        "originals": original,
        "rows": rows,
        "before_and_after_tuning": orders,
        "rerankings": [dataclasses.asdict(one) for one in rerankings],
    }
    print(record.write_or_try("strategies", content, workdir if _QUICK.value else None))


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    command_line.run_main(main)
