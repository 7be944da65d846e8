"""The dry run: every stage once, with as little work as possible, before hours are spent.

What a conversion, the device, training, the export or the cross-check refuses is refused within the
first minute. The run itself learns nothing from it: the dry run works in a temporary folder.
"""

from __future__ import annotations

import dataclasses
import tempfile
from typing import Any

import keras
import numpy as np
import rich.console

from cprune_tf import graph
from cprune_tf.config import PruneConfig, TuningConfig
from cprune_tf.cross_check import problems_of_outputs
from cprune_tf.data import Data
from cprune_tf.pipeline.context import PipelineInput, RunContext
from cprune_tf.pipeline.stages import STAGES, Pipeline
from cprune_tf.runs import Progress, RunDirectory, events
from cprune_tf.strategies.base import Candidate, Measurement, Stop, Strategy, Verdict
from cprune_tf.strategies.workbench import CurrentModel, Hooks, Workbench

_NUM_IMAGES = 4
_NUM_TRIALS = 1
_FRACTION = 0.25  # of the units of each group


def dry_run(context: RunContext) -> None:
    """Takes the model through all stages, with one trial for each task and one training step.

    The caller's own functions are left out, since nothing can shorten them.

    Args:
        context: The run, whose input was checked. Nothing is written to its directory.

    Raises:
        UserError: Whatever a stage of the run would raise.
    """
    config = _smallest(context.config)
    with (
        context.progress.stage("Dry run", total=len(STAGES)) as stage,
        tempfile.TemporaryDirectory(prefix="cprune_dry_run_") as folder,
        RunDirectory.create(folder, config) as run,
    ):
        converted = context.run.path("original.tflite")
        if converted.exists():  # a conversion takes seconds
            run.write_bytes(converted.name, converted.read_bytes())
        ended: list[str] = []

        def advance(name: str, elapsed_sec: float) -> None:
            ended.append(name)
            stage.update(len(ended), f"{name}: done after {elapsed_sec:.0f} s")

        progress = Progress(rich.console.Console(quiet=True), on_stage_end=advance)
        given = _smaller(context.given, config)
        inner = RunContext(config, run, context.device, progress, given)
        try:
            _DryPipeline(inner).execute()
        except Exception:
            failed = next((name for name in STAGES if name not in ended), STAGES[-1])
            context.progress.note(
                f"The dry run failed in the stage {failed!r}. Nothing was tuned or trained yet."
            )
            raise
        for problem in _problems(run):
            context.progress.note(f"Problem in the dry run: {problem}")


def _problems(run: RunDirectory) -> list[str]:
    """Wrong outputs of float32 files; so few images and samples tell nothing else."""
    checked = run.journal.last(events.CrossChecked)
    assert checked is not None
    exact = [
        result
        for result in checked.results
        if result.runtime == "litert" or result.runtime.startswith("tvm")
    ]
    return [problem for result in exact for problem in problems_of_outputs(result, "float32")]


def _smallest(config: PruneConfig) -> PruneConfig:
    """The config of a run of the same stages that takes as little time as possible."""
    return dataclasses.replace(
        config,
        dry_run=False,
        strategy=dataclasses.replace(
            config.strategy, required_accuracy=0.0, max_accuracy_drop=1.0, gate_confidence=0.0
        ),
        tuning=TuningConfig(
            trials_per_task=_NUM_TRIALS,
            trials_per_accepted_task=0,
            final_trials_per_task=_NUM_TRIALS,
            trials_per_round=_NUM_TRIALS,
            warm_start="",
            lowerings="direct",
            programs_per_task=1,
            build_timeout_sec=config.tuning.build_timeout_sec,
            run_timeout_sec=config.tuning.run_timeout_sec,
            num_build_workers=config.tuning.num_build_workers,
        ),
        measure=dataclasses.replace(
            config.measure, warmup_ms=0.0, min_samples=2, max_time_sec=0.05, stable_fraction=1.0
        ),
        quantization=dataclasses.replace(config.quantization, num_images=_NUM_IMAGES),
    )


def _smaller(given: PipelineInput, config: PruneConfig) -> PipelineInput:
    """The same model with few images, and with functions that take no time."""
    data, hooks, int8 = _few(given.data), given.hooks, given.int8
    if int8 is not None:
        int8 = dataclasses.replace(int8, config=config, data=data)
    return dataclasses.replace(
        given,
        hooks=Hooks(
            short_term_train=_leave,
            long_term_train=hooks.train_one_step or _leave,
            evaluate=lambda model: 1.0,
            sample=hooks.sample,
            # Not called; the strategy checks that they are there.
            soft_start=hooks.soft_start,
            metric=hooks.metric,
            patterns=hooks.patterns,
        ),
        data=data,
        own_score=True,
        sparsifier=None,
        int8=int8,
        score_outputs=None,
    )


def _leave(model: Any) -> None:
    """Trains nothing."""


def _few(data: Data) -> Data:
    def first(arrays: Any) -> Any:
        return keras.tree.map_structure(lambda array: array[:_NUM_IMAGES], arrays)

    return dataclasses.replace(
        data,
        test_images=first(data.test_images),
        test_labels=first(data.test_labels),
        validation_images=None,
        validation_labels=None,
    )


class _DryPipeline(Pipeline):
    """The stages with a strategy that needs no decision."""

    def strategy(self, bench: Workbench, first: CurrentModel, required: float) -> Strategy:
        return _SomeOfEach(bench, first)


class _SomeOfEach(Strategy):
    """Removes some units of every group once, whatever that costs or gains."""

    def __init__(self, bench: Workbench, original: CurrentModel) -> None:
        self.bench = bench
        self.original = original

    def propose(self, current: CurrentModel) -> Candidate | Stop:
        """See Strategy: the units that come first, once."""
        if current.iteration:
            return Stop("every stage was tried")
        channels = current.channels
        scores = {group.name: np.arange(float(group.num_channels)) for group in channels.prunable}
        chosen = graph.plan_removal(channels, scores, graph.SparsityBudget(_FRACTION))
        draft = self.bench.draft(current, {name: tuple(units) for name, units in chosen.items()})
        return Candidate("some of each", draft, 0, price=self.bench.price(current, draft))

    def judge(self, current: CurrentModel, candidate: Candidate, index: int) -> Verdict:
        """See Strategy: accepted. The cross-check times the same model, so it is not built here."""
        assert candidate.price is not None
        latency = dataclasses.replace(current.latency, median_ms=candidate.price.latency_ms)
        measurement = Measurement(latency, current.latency.median_ms, candidate.price.ratio)
        evaluation = self.bench.train(candidate, index)
        return Verdict(events.ACCEPTED, "dry run", measurement, evaluation)

    def accept(self, current: CurrentModel, candidate: Candidate, verdict: Verdict) -> CurrentModel:
        """See Strategy: as it is, since the same model is built and saved at the end anyway."""
        assert verdict.measurement is not None and verdict.evaluation is not None
        model = candidate.draft.model
        return dataclasses.replace(
            current,
            iteration=current.iteration + 1,
            model=model,
            prepared=candidate.draft.prepared,
            channels=self.bench.analyze(model),
            evaluation=verdict.evaluation,
            latency=verdict.measurement.latency,
            latency_ratio=verdict.measurement.original_ratio,
        )
