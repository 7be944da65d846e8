r"""Compares predicted and measured whole-model latencies for random channel assignments.

    python benchmarks/prediction.py --model=resnet20.h5 --name=ResNet-20 --workdir=runs/resnet20

The model is tuned, its tasks are measured at spread channel assignments, and a few whole models
give the overhead. Then random assignments, drawn with another seed, are predicted. Only after that
are they priced by transfer, built, and timed as whole models, interleaved with the unpruned model.
The predictor sees none of the measurements of the test.

The same command continues a run that was stopped or that --budget_sec ended. Writes the model's
entry in results/prediction.json, and docs/images/prediction.png for all entries.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

import record
from absl import app, flags
from assignments import measured_assignments, random_assignments

from cprune_tf import models
from cprune_tf.config import MeasureConfig, TuningConfig
from cprune_tf.latency.lab import LatencyLab
from cprune_tf.latency.prediction import LatencyPredictor, spread_assignments
from cprune_tf.latency.workspace import OpenedModel, open_model
from cprune_tf.report import latency_figures

_MODEL = flags.DEFINE_string("model", None, "A model's name or path.", required=True)
_NAME = flags.DEFINE_string("name", None, "The model's name in the result.", required=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "The folder of all measurements.", required=True)
_TRIALS = flags.DEFINE_integer("trials", 32, "Trials of each task of the unpruned model.")
_PROGRAMS = flags.DEFINE_integer("programs", 8, "Programs transferred to each pruned task.")
_SPREAD = flags.DEFINE_integer("spread", 16, "Assignments measured for the predictor.")
_WHOLES = flags.DEFINE_integer(
    "wholes", 4, "Of them, assignments measured as whole models for the overhead."
)
_TESTS = flags.DEFINE_integer("tests", 30, "Random assignments predicted and measured.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the search and the spread assignments.")
_TEST_SEED = flags.DEFINE_integer("test_seed", 1000, "Seed of the tested assignments.")
_BUDGET_SEC = flags.DEFINE_float(
    "budget_sec", math.inf, "Stop after this time; run again to continue."
)
_MEASURE = MeasureConfig(max_time_sec=1.0)
_IMAGE = pathlib.Path(__file__).resolve().parents[1] / "docs" / "images" / "prediction.png"


class Budget:
    """Ends the process between two steps when the time is over."""

    def __init__(self, seconds: float) -> None:
        self._end_sec = time.monotonic() + seconds

    def check(self, what: str) -> None:
        """Prints the finished step, and exits with code 3 if the time is over."""
        print(f"{time.strftime('%H:%M:%S')} {what}", flush=True)
        if time.monotonic() > self._end_sec:
            print("The time budget is used up; the same command continues from here.", flush=True)
            sys.exit(3)


def learn(opened: OpenedModel, lab: LatencyLab, budget: Budget) -> LatencyPredictor:
    """Makes the measurements of the predictor and returns it."""
    spread = spread_assignments(opened.channels, _SPREAD.value, seed=_SEED.value)
    for number, keep in enumerate(({}, *spread)):
        budget.check(f"spread {number}/{len(spread)}: {lab.measure(keep)} tasks measured")
    # The unpruned model, and assignments evenly spread over the range of latencies.
    ranked = sorted(spread, key=lab.tasks_ms)
    number = min(_WHOLES.value - 1, len(ranked))
    chosen = [ranked[round(i * (len(ranked) - 1) / max(number - 1, 1))] for i in range(number)]
    lab.calibrate([{}, *chosen], _MEASURE, opened.workdir)
    return LatencyPredictor.from_lab(lab)


def test(
    opened: OpenedModel, lab: LatencyLab, predictor: LatencyPredictor, budget: Budget
) -> list[dict[str, Any]]:
    """Predicts all random assignments, then measures those without a measurement."""
    assignments = random_assignments(opened.channels, _TESTS.value, _TEST_SEED.value)
    predictions = [predictor.predict_ms(keep) for keep in assignments]
    unpruned_ms = predictor.predict_ms({}).latency_ms
    rows = []
    measurements = measured_assignments(opened, lab, assignments, _MEASURE)
    for measurement, predicted in zip(measurements, predictions, strict=True):
        row = dataclasses.asdict(measurement)
        number = row.pop("number")
        row |= {
            "predicted_ms": predicted.latency_ms,
            "uncertainty_ms": predicted.uncertainty_ms,
            "error": predicted.latency_ms / row["measured_ms"] - 1,
            # The error of the latency relative to the unpruned model, which was timed
            # interleaved: other load on the machine at that moment cancels out.
            "relative_error": predicted.latency_ms
            / unpruned_ms
            / (row["measured_ms"] / row["unpruned_ms"])
            - 1,
            "measured_tasks": sum(task.measured for task in predicted.per_task),
            "num_tasks": len(predicted.per_task),
        }
        rows.append(row)
        budget.check(
            f"test {number}: {row['predicted_ms']:.3f} ms predicted, "
            f"{row['measured_ms']:.3f} ms measured, {100 * row['error']:+.1f} %"
        )
    return rows


def summary(lab: LatencyLab, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns the entry of the result file for one model."""
    errors = [abs(row["error"]) for row in rows]
    inside = [
        abs(row["predicted_ms"] - row["measured_ms"]) <= row["uncertainty_ms"] for row in rows
    ]
    return {
        "trials_per_task": _TRIALS.value,
        "programs_per_task": _PROGRAMS.value,
        "spread_assignments": _SPREAD.value,
        "seed": _SEED.value,
        "test_seed": _TEST_SEED.value,
        "num_points": len(lab.store),
        "whole_models": [
            {"tasks_ms": whole.tasks_ms, "whole_ms": whole.whole_ms} for whole in lab.store.wholes
        ],
        "median_error": statistics.median(errors),
        "median_relative_error": statistics.median(abs(row["relative_error"]) for row in rows),
        "mean_error": statistics.fmean(errors),
        "max_error": max(errors),
        "inside_one_sigma": sum(inside) / len(inside),
        "tests": list(rows),
    }


def main(argv: Sequence[str]) -> None:
    """Makes and tests the predictor, and writes the result and the figure."""
    del argv
    model, workdir = models.load_model(_MODEL.value), pathlib.Path(_WORKDIR.value)
    config = TuningConfig(
        trials_per_task=_TRIALS.value,
        trials_per_round=min(_TRIALS.value, 32),
        programs_per_task=_PROGRAMS.value,
    )
    budget = Budget(_BUDGET_SEC.value)
    with open_model(model, "local", workdir, config, seed=_SEED.value) as opened:
        opened.tune(_TRIALS.value)
        budget.check("tuned")
        with opened.lab() as lab:
            predictor = learn(opened, lab, budget)
            result = summary(lab, test(opened, lab, predictor, budget))
    entries = record.entries("prediction")
    entries[_NAME.value] = result
    path = record.write("prediction", {"num_threads": 1, "models": entries})
    latency_figures.write_prediction_figure(
        _IMAGE,
        [
            (
                name,
                [
                    (test["measured_ms"], test["predicted_ms"], test["uncertainty_ms"])
                    for test in entry["tests"]
                ],
            )
            for name, entry in entries.items()
        ],
    )
    print(f"median error {100 * result['median_error']:.1f} %: {path}")


if __name__ == "__main__":
    app.run(main)
