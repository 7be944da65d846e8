"""A real workbench and run directory over a runtime made of formulas: nothing is tuned."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import pathlib
from collections.abc import Iterator

import keras
import numpy as np
import rich.console

from cprune_tf.accuracy import Evaluation
from cprune_tf.compiler.structure import ProgramStructure
from cprune_tf.config import TuningConfig, from_mapping
from cprune_tf.runs import Progress, RunDirectory, events
from cprune_tf.runtimes import RuntimeOptions
from cprune_tf.strategies.workbench import Hooks, Workbench, run_strategy
from tests.runtimes.analytic import AnalyticRuntime


class TiledRuntime(AnalyticRuntime):
    """Shows programs that tile their filters by 4, where latency goes in steps of 8.

    Attributes:
        num_timed: Calls of `time`, each of several models.
    """

    num_timed = 0

    def task_costs(self, model):
        costs = super().task_costs(model)
        return tuple(dataclasses.replace(cost, structure=_structure(cost.task)) for cost in costs)

    def time(self, paths, model, measure):
        self.num_timed += 1
        return super().time(paths, model, measure)


def _structure(task):
    filters = task.argument_shapes[-1][1][-1]
    return ProgramStructure((filters // 4, 4) if filters % 4 == 0 else (filters,), (), filters)


def small_model() -> keras.Model:
    """Two convolutions and a classifier."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3), name="image")
    x = keras.layers.Conv2D(16, 3, padding="same", activation="relu", name="first")(inputs)
    x = keras.layers.Conv2D(32, 3, padding="same", activation="relu", name="second")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, keras.layers.Dense(4, name="classifier")(x), name="small")


def hooks(train=lambda model: None, evaluate=lambda model: 0.9) -> Hooks:
    """Training that does nothing and an accuracy that stays, unless given."""
    images = np.random.default_rng(0).random((8, 8, 8, 3), dtype=np.float32)
    return Hooks(train, lambda model: None, evaluate, lambda: (images, np.arange(8) % 4))


@contextlib.contextmanager
def bench(
    workdir: pathlib.Path, strategy: dict, used: Hooks | None = None, runtime=TiledRuntime
) -> Iterator[Workbench]:
    """Opens a workbench, on a new run or on the one that is there."""
    named = {"name": "cprune", **strategy}
    config = from_mapping({"strategy": named, "tuning": {"trials_per_accepted_task": 0}})
    options = RuntimeOptions("float32", workdir, TuningConfig())
    console = rich.console.Console(file=io.StringIO(), width=120)
    with (
        RunDirectory.open(workdir, config, resume=True) as run,
        Progress(console, run.log_path) as progress,
        runtime(None, options) as opened,
    ):
        yield Workbench(config, run, opened, used or hooks(), progress)


def prune(bench, strategy, required=0.1, build=None):
    """Runs a strategy from the original, as a new or a resumed run does."""
    baseline = bench.run.journal.last(events.Baseline)
    original = (build or small_model)()
    if baseline is None:
        evaluated = bench.run.journal.last(events.Evaluated)
        first = bench.start(original, Evaluation(0.9 if evaluated is None else evaluated.accuracy))
        record = vars(bench.describe(first))
        bench.run.journal.append(events.Baseline(**record, required_accuracy=required))
    else:
        bench.runtime.tune(bench.runtime.prepare(original), 1)
        first = bench.restore(baseline, original)
    current, accepted = first, bench.run.journal.last(events.Accepted)
    if accepted is not None:
        model = keras.models.load_model(bench.run.path(accepted.model))
        bench.runtime.tune(bench.runtime.prepare(model), 1)
        current = bench.restore(accepted, model)
    return run_strategy(strategy(bench, first, required), bench, current)
