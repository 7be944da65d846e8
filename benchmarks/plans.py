r"""Compares planned and measured latencies of channel counts chosen under a latency budget.

    python benchmarks/plans.py --model=resnet20.h5 --name=ResNet-20 --workdir=runs/resnet20

The model is tuned and the staircases of its groups are measured. For each budget, the counts of
most importance (L1) that fit are planned as the strategy `latency_budget` does; then the model is
built with these counts and timed as a whole, interleaved with the unpruned model. A run directory
may be given as --workdir: what it has measured is not measured again.

Writes the model's entry in results/plans.json.
"""

from __future__ import annotations

import pathlib
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
import record
from absl import app, flags

from cprune_tf import importance, models
from cprune_tf.config import MeasureConfig, TuningConfig
from cprune_tf.latency.lab import LatencyLab
from cprune_tf.latency.sampling import SamplingConfig, sample_staircase
from cprune_tf.latency.workspace import OpenedModel, open_model
from cprune_tf.strategies.planning.allocation import GroupOptions
from cprune_tf.strategies.planning.options import staircase_options
from cprune_tf.strategies.planning.planner import Planner

_MODEL = flags.DEFINE_string("model", None, "A model's name or path.", required=True)
_NAME = flags.DEFINE_string("name", None, "The model's name in the result.", required=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "The folder of all measurements.", required=True)
_TRIALS = flags.DEFINE_integer("trials", 64, "Trials of each task of the unpruned model.")
_RATIOS = flags.DEFINE_list(
    "ratios", ["0.9", "0.8", "0.7", "0.6", "0.5", "0.45", "0.4", "0.35"], "Budgets / the latency."
)
_MAX_OPTIONS = flags.DEFINE_integer("max_options", 8, "Counts that each group may take.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the search and of the surface.")
_MEASURE = MeasureConfig(max_time_sec=1.0)


def options(lab: LatencyLab) -> list[GroupOptions]:
    """Measures the staircases and values counts by the L1 importance that they keep."""
    groups = lab.channels.prunable
    scores = importance.score_groups(lab.model, groups, "l1")
    most = _MAX_OPTIONS.value
    sampling = SamplingConfig(max_points=most, first_points=min(7, most))
    found = []
    for group in groups:
        counts = staircase_options(sample_staircase(lab, group, sampling), most)
        sums = np.cumsum(np.sort(scores[group.name])[::-1])
        found.append(GroupOptions(group.name, counts, tuple(float(sums[n - 1]) for n in counts)))
        print(f"{group.name}: {counts}", flush=True)
    return found


def measure(opened: OpenedModel, lab: LatencyLab) -> list[dict[str, Any]]:
    """Plans, builds and times the model for each budget."""
    runtime, groups, planner = opened.runtime, options(lab), Planner(lab)
    base = opened.workdir / f"plan_base{runtime.suffix}"
    planned = opened.workdir / f"plan{runtime.suffix}"
    runtime.build(opened.prepared, base)
    whole_ms = lab.tasks_ms({})
    rows = []
    for ratio in map(float, _RATIOS.value):
        plan = planner.plan(groups, ratio * whole_ms)
        lab.build(plan.counts, planned)
        pruned, unpruned = runtime.time([planned, base], opened.model, _MEASURE)
        row = {
            "budget_ratio": ratio,
            "planned_ratio": plan.tasks_ms / whole_ms,
            "measured_ratio": pruned.median_ms / unpruned.median_ms,
            "counts": dict(plan.counts),
            "gap": plan.gap,
            "solver_sec": plan.solver_sec,
            "num_solutions": plan.num_solutions,
            "num_measured": plan.num_measured,
        }
        row["error"] = row["planned_ratio"] / row["measured_ratio"] - 1
        print({name: value for name, value in row.items() if name != "counts"}, flush=True)
        rows.append(row)
    return rows


def main(argv: Sequence[str]) -> None:
    """Measures one model and writes its entry."""
    del argv
    workdir = pathlib.Path(_WORKDIR.value)
    config = TuningConfig(trials_per_task=_TRIALS.value)
    model = models.load_model(_MODEL.value)
    with open_model(model, "local", workdir, config, seed=_SEED.value) as opened:
        opened.tune(_TRIALS.value)
        with opened.lab() as lab:
            lab.measure({})
            num_groups, num_sites = len(lab.channels.prunable), len(lab.sites)
            rows = measure(opened, lab)
    errors = [abs(row["error"]) for row in rows]
    entries = record.entries("plans")
    entries[_NAME.value] = {
        "trials_per_task": _TRIALS.value,
        "num_groups": num_groups,
        "num_sites": num_sites,
        "median_error": statistics.median(errors),
        "max_error": max(errors),
        "max_solver_sec": max(row["solver_sec"] for row in rows),
        "plans": rows,
    }
    print(record.write("plans", {"num_threads": 1, "models": entries}))


if __name__ == "__main__":
    app.run(main)
