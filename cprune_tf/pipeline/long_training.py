"""Long-term training of the fastest accepted model; an earlier one is delivered if it fails."""

from __future__ import annotations

from typing import Any

import numpy as np

from cprune_tf import graph
from cprune_tf.accuracy import AccuracyGate, Evaluation
from cprune_tf.pipeline.context import RunContext
from cprune_tf.runs import events
from cprune_tf.strategies.workbench import CurrentModel, Workbench
from cprune_tf.strategies.workbench.sparse_training import train_accepted


def train_for_long(
    context: RunContext, bench: Workbench, pruned: CurrentModel, required: float
) -> Any:
    """Trains the fastest model for long; goes back to an earlier one while that is too bad.

    A strategy may accept a model that misses the requirement by a little, since this training
    follows. The original is never trained.

    Args:
        context: The run.
        bench: The workbench that pruned.
        pruned: The fastest accepted model.
        required: The score that the result must have.

    Returns:
        The Keras model to deliver, saved as `final.keras`.
    """
    confidence = context.config.strategy.gate_confidence
    gate = AccuracyGate(required, required, confidence, bench.hooks.metric)
    known = context.journal.last(events.LongTermTrained)
    iteration = pruned.iteration
    if known is not None:
        if known.iteration <= 0 or not gate.shortfall(known.evaluation):
            return context.load(context.run.path(known.model))
        iteration = known.iteration - 1
    model, evaluation = _trained_point(context, bench, pruned, iteration)
    while iteration > 0 and (shortfall := gate.shortfall(evaluation)):
        iteration -= 1
        context.progress.note(
            f"After long-term training, iteration {iteration + 1} misses the requirement: "
            f"{shortfall}. Iteration {iteration} is delivered instead."
        )
        model, evaluation = _trained_point(context, bench, pruned, iteration)
    return model


def _trained_point(
    context: RunContext, bench: Workbench, pruned: CurrentModel, iteration: int
) -> tuple[Any, Evaluation]:
    """Trains one accepted model; its weights change only if they are no worse then."""
    journal = context.journal
    records = (*journal.events(events.Baseline), *journal.events(events.Accepted))
    record = next(one for one in reversed(records) if one.iteration == iteration)
    model = pruned.model
    if iteration != pruned.iteration:
        model = context.load(context.run.path(record.model))
    evaluation, kept = record.evaluation, "as it was"
    if iteration:
        before = [np.array(weight) for weight in model.get_weights()]
        with context.progress.stage("Long-term training"):
            train_accepted(bench, model, iteration)
            graph.flush_subnormals(model)
            trained = bench.evaluate(model)
        if trained.accuracy >= evaluation.accuracy:
            evaluation, kept = trained, "trained"
        else:
            model.set_weights(before)
            metric = bench.hooks.metric
            context.progress.note(
                f"Long-term training ended at {metric.text(trained.accuracy)}, which is worse "
                f"than {metric.text(evaluation.accuracy)}: the weights before it are kept."
            )
    context.run.save_model(model, "final.keras")
    epochs = context.config.training.long_term.epochs if iteration else 0
    journal.append(
        events.LongTermTrained(
            evaluation.accuracy, epochs, kept, "final.keras", iteration, evaluation.paired
        )
    )
    return model, evaluation


def keep_as_sparsified(context: RunContext, pruned: CurrentModel) -> Any:
    """Delivers a sparsified model untouched: long-term training would undo its zeros."""
    journal = context.journal
    known = journal.last(events.LongTermTrained)
    if known is not None:
        return context.load(context.run.path(known.model))
    with context.progress.stage("Long-term training") as stage:
        stage.update(text="left out: the sparsifier has trained the model")
        context.run.save_model(pruned.model, "final.keras")
        evaluation = pruned.evaluation
        journal.append(
            events.LongTermTrained(
                evaluation.accuracy,
                0,
                "as it was",
                "final.keras",
                pruned.iteration,
                evaluation.paired,
            )
        )
    return pruned.model
