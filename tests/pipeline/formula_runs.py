"""Finished runs over a runtime made of formulas, and a device that times what it built."""

from __future__ import annotations

import dataclasses
import json
import pathlib

from cprune_tf.accuracy import Evaluation
from cprune_tf.devices import Latency
from cprune_tf.runs import Progress, RunDirectory, events
from cprune_tf.runs.results import ExportedFile
from cprune_tf.runtimes import RuntimeOptions
from cprune_tf.strategies.registry import registered_strategies
from cprune_tf.strategies.workbench import Workbench
from tests.report import sample_run
from tests.strategies import benches

REQUIRED = 0.8


class Killed(BaseException):
    """Stands for a signal: nothing catches it."""


@dataclasses.dataclass
class Pruning:
    """Stands for `api.prune`, with the accuracies that each strategy's candidates have.

    Attributes:
        accuracies: By strategy; 0.88 for those that are not there.
        errors: What a strategy's run raises after its original was measured.
        early_error: What every run raises before that.
        pruned: The strategies whose runs went on, in order.
    """

    accuracies: dict = dataclasses.field(default_factory=dict)
    errors: dict = dataclasses.field(default_factory=dict)
    early_error: BaseException | None = None
    pruned: list = dataclasses.field(default_factory=list)

    def __call__(self, model, *, device, config, workdir, resume, sparsifier, console):
        name = config.strategy.name
        self.pruned.append(name)
        options = RuntimeOptions("float32", workdir, config.tuning)
        used = benches.hooks(evaluate=lambda model: self.accuracies.get(name, 0.88))
        with (
            RunDirectory.open(workdir, config, resume=resume) as run,
            Progress(console, run.log_path) as progress,
            benches.TiledRuntime(None, options) as runtime,
        ):
            start = events.RunStarted("0.1.0", "abc", model, sample_run.device(), run.resumed)
            run.journal.append(start)
            if self.early_error is not None:
                raise self.early_error
            bench = Workbench(config, run, runtime, used, progress)
            kind = registered_strategies()[name].strategy
            if name in self.errors:
                first = bench.start(benches.small_model(), Evaluation(0.9))
                record = vars(bench.describe(first))
                run.journal.append(events.Baseline(**record, required_accuracy=REQUIRED))
                raise self.errors[name]
            result = benches.prune(bench, kind, REQUIRED)
            _finish(bench, result)


def _finish(bench, result):
    run, runtime = bench.run, bench.runtime
    run.journal.append(events.StageEnded("Prune", 60.0))
    run.save_model(result.model, "final.keras")
    run.journal.append(
        events.LongTermTrained(result.accuracy, 1, "trained", "final.keras", result.iteration)
    )
    original = runtime.prepare(benches.small_model())
    runtime.tune(original, 1)
    runtime.build(original, run.path("original.so"))
    runtime.build(result.prepared, run.path("final.so"))
    run.write_json("deploy/metadata.json", {"inputs": [{"dtype": "float32", "shape": [1, 8]}]})
    run.write_bytes("report.html", b"")
    run.journal.append(events.StageEnded("Tune the result", 5.0))
    run.journal.append(events.Exported((ExportedFile("library", "final.so", 10),)))
    run.journal.append(events.CrossChecked.of(sample_run.cross_check()))
    run.journal.append(events.Finished(70.0, 1))


@dataclasses.dataclass
class FormulaDevice:
    """Times the files of the runtime made of formulas.

    Attributes:
        timed: The names of the models of each call.
        emulated: Whether the device says that it is.
    """

    timed: list = dataclasses.field(default_factory=list)
    emulated: bool = False

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass

    def info(self):
        return sample_run.device(self.emulated)

    def time_models(self, models, num_threads, measure):
        self.timed.append([model.name for model in models])
        assert all(model.inputs == (("float32", (1, 8)),) for model in models)
        medians = [json.loads(pathlib.Path(model.path).read_text())["ms"] for model in models]
        return tuple(
            Latency(ms, 0.99 * ms, 1.01 * ms, 0.98 * ms, 40, num_threads) for ms in medians
        )
