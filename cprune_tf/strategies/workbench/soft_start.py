"""The soft start of a candidate: its units are pressed towards zero before they are removed."""

from __future__ import annotations

import typing

import numpy as np

from cprune_tf import graph
from cprune_tf.config import SoftStartConfig
from cprune_tf.runs import events
from cprune_tf.strategies.base import Candidate, num_units

if typing.TYPE_CHECKING:
    from cprune_tf.importance.registry import Array
    from cprune_tf.strategies.workbench.bench import Workbench
from cprune_tf.strategies.workbench.current_model import CurrentModel

_WEIGHTS_NAME = "models/soft_start.keras"


def start_softly(
    bench: Workbench,
    current: CurrentModel,
    candidate: Candidate,
    index: int,
    config: SoftStartConfig,
) -> events.SoftStarted:
    """Gives a candidate the weights that the current model has after a soft start.

    The current model is trained with a growing penalty on the units that the candidate lacks
    (`cprune_tf.training.unit_penalty`), the units are removed from it, and it gets its own weights
    back. If the run was killed after the soft start, the weights that it left are used.

    Args:
        bench: The workbench.
        current: The model that the candidate was made from; it keeps its own weights.
        candidate: The candidate, not trained.
        index: The candidate's number in this run, from 0.
        config: How long and how strong; at least one epoch.

    Returns:
        The event, journalled.
    """
    if (known := _started_before(bench, index)) is not None:
        stored = graph.load_stored(bench.run.path(known.weights), current.model)
        candidate.draft.model.set_weights(stored.get_weights())
        return known
    removal = candidate.draft.removal
    scores = bench.score_units(current, tuple(removal), index)
    before = current.model.get_weights()
    try:
        with bench.progress.stage(f"Soft start of candidate {index + 1}"):
            norm_ratio = _trained(bench, current, candidate, scores, config)
            smaller = graph.rebuild(
                current.model, removal, fold_constants=False, graph=current.channels
            )
    finally:
        current.model.set_weights(before)
    candidate.draft.model.set_weights(smaller.get_weights())
    # On disk before the journal says so.
    bench.run.save_model(candidate.draft.model, _WEIGHTS_NAME)
    event = events.SoftStarted(index, config.epochs, num_units(removal), norm_ratio, _WEIGHTS_NAME)
    bench.progress.note(f"Candidate {index + 1} {event}.")
    return bench.run.journal.append(event)


def _trained(
    bench: Workbench,
    current: CurrentModel,
    candidate: Candidate,
    scores: dict[str, Array],
    config: SoftStartConfig,
) -> float:
    """Trains the current model in place; returns how far the norms of the units fell."""
    from cprune_tf.training.unit_penalty import unit_norms, unit_penalty

    assert bench.hooks.soft_start is not None  # The strategy checked it.
    removal, channels = candidate.draft.removal, current.channels
    penalty = unit_penalty(channels, removal, scores, config.penalty, config.num_stages)
    before = unit_norms(channels, removal)
    bench.hooks.soft_start(current.model, penalty, config.epochs)
    after = unit_norms(channels, removal)
    alive = before > 0
    return float(np.median(after[alive] / before[alive])) if alive.any() else 1.0


def _started_before(bench: Workbench, index: int) -> events.SoftStarted | None:
    """The soft start of a candidate that was not judged before the run was killed."""
    event = bench.run.journal.last(events.SoftStarted)
    return event if event is not None and event.index == index else None
