"""What a run requires before any work: a prunable model, and a score that it must keep."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from cprune_tf import graph, litert
from cprune_tf.accuracy import capitalized
from cprune_tf.config import ConfigError
from cprune_tf.data import ImageData, SampleData
from cprune_tf.pipeline.context import TFLITE, RunContext
from cprune_tf.runs import events
from cprune_tf.runtimes import Runtime, find_runtime
from cprune_tf.strategies.registry import registered_strategies
from cprune_tf.training.plausibility import constant_note, guessing_note


def checked_original(context: RunContext, runtime: type[Runtime]) -> Any:
    """Returns a flat copy of the original, after all checks that take little time.

    Args:
        context: The run.
        runtime: The class of the runtime that will measure.

    Raises:
        ConfigError: If the strategy can prune nothing of the model, or more threads are wanted than
            there are cores.
        UserError: If the runtime or a file that is compared cannot hold the model.
    """
    config = context.config
    _check_threads(context)
    model = graph.functional_twin(context.given.model)
    channels = graph.analyze(model, config.protect)
    strategy = registered_strategies()[config.strategy.name].strategy
    strategy.check_model(config, model, channels)
    if context.journal.last(events.Baseline) is None:
        graph.check_storable(model)
    options = context.runtime_options
    runtime.check(model, options)
    if "int8" in config.compared_precisions and config.precision != "int8":
        int8 = dataclasses.replace(options, precision="int8")
        find_runtime("litert", "int8").check(model, int8)
    sparsifier = context.given.sparsifier
    if sparsifier is not None and context.journal.last(events.CandidateJudged) is None:
        sparsifier.check(model, context.given.images)
    if runtime.suffix != TFLITE and not context.run.path("original.tflite").exists():
        context.run.write_bytes("original.tflite", litert.convert(model))
    return model


def _check_threads(context: RunContext) -> None:
    """Raises ConfigError if the device cannot run on one of the numbers of threads."""
    measure, cores = context.config.measure, context.device.num_cores()
    if max(measure.thread_counts) > cores:
        further = measure.num_threads <= cores
        field = "further_threads" if further else "num_threads"
        value = ", ".join(map(str, measure.further_threads)) if further else measure.num_threads
        chosen = " in config.measure.cores" if measure.cores else ""
        raise ConfigError(
            f"config.measure.{field} is {value}; expected at most {cores}, the number of "
            f"the device's cores{chosen}."
        )
    if measure.further_threads and context.device.accelerator() is not None:
        raise ConfigError(
            f"config.measure.further_threads is {measure.further_threads}, and the device is a "
            "GPU, whose libraries do not depend on the CPU's threads; expected none."
        )


def required_accuracy(context: RunContext, original: Any) -> tuple[float, float]:
    """Returns the scores that the original has and that the result must have.

    Args:
        context: The run.
        original: The model of `checked_original`.

    Raises:
        ConfigError: If more is required than the original has, or if it only guesses.
    """
    evaluated = context.journal.last(events.Evaluated)
    if evaluated is None:
        evaluated = context.journal.append(context.given.hooks.evaluate_original(original))
    accuracy, metric = evaluated.accuracy, context.given.hooks.metric
    strategy = context.config.strategy
    if strategy.required_accuracy:
        required = metric.score(strategy.required_accuracy)
    else:
        required = accuracy - metric.drop(strategy.max_accuracy_drop, accuracy)
        required = max(0.0, required) if metric.is_accuracy else required
    context.progress.note(
        f"{capitalized(metric.word)} of the original: {metric.text(accuracy)} ({metric.name}); "
        f"required: {metric.limit}{metric.text(required)}"
    )
    guessing = "" if context.given.own_score else _guessing(context, accuracy)
    if guessing:
        if required > 0:
            raise ConfigError(
                f"{guessing} If accuracy does not matter, set strategy.max_accuracy_drop to "
                f"{math.ceil(accuracy * 100) / 100:.2f} or more."
            )
        context.progress.note(guessing)
    if constant := _constant(context, original):
        context.progress.note(constant)
    if required > accuracy:
        raise ConfigError(
            f"config.strategy.required_accuracy is {metric.text(required)}, but the original "
            f"model has {metric.text(accuracy)} ({metric.name}) on the data that decide; "
            "expected what the original reaches. Change it, or check that the data are "
            "preprocessed in the same way as in the model's training."
        )
    return accuracy, required


def _guessing(context: RunContext, accuracy: float) -> str:
    data, metric = context.given.data, context.given.hooks.metric
    if not isinstance(data, ImageData) or not metric.is_rank:
        return ""
    return guessing_note(accuracy, data, metric.name)


def _constant(context: RunContext, original: Any) -> str:
    data = context.given.data
    if not isinstance(data, SampleData) or context.given.own_score:
        return ""
    return constant_note(original, data)
