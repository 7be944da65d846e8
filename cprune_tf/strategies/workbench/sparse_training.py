"""Trainings of pattern-sparse candidates: towards patterns, and then with their zeros kept."""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cprune_tf import graph, sparse
from cprune_tf.runs import events
from cprune_tf.runs.results import DrawnPattern, PatternEpoch, PatternLayer
from cprune_tf.strategies.base import Candidate
from cprune_tf.training.pattern_training import CONNECTIVITY, PATTERNS, TowardsPatterns

if typing.TYPE_CHECKING:
    from cprune_tf.strategies.workbench.bench import Workbench
    from cprune_tf.strategies.workbench.current_model import CurrentModel
    from cprune_tf.strategies.workbench.hooks import PatternTraining

_WEIGHTS_NAME = "models/patterns.keras"
_KEPT_NAME = "models/patterns.npz"


def train_patterns(
    bench: Workbench,
    current: CurrentModel,
    candidate: Candidate,
    index: int,
    towards: TowardsPatterns,
) -> events.PatternsTrained:
    """Trains a candidate towards patterns, and projects it on them.

    If the run was killed afterwards, the weights that this left are used. If it was killed within,
    the training goes on from its last epoch.

    Args:
        bench: The workbench.
        current: The model that the candidate has the filters of.
        candidate: The candidate, not trained; changed in place.
        index: The candidate's number in this run, from 0.
        towards: How it is trained, and to what.

    Returns:
        The event, journalled.
    """
    model = candidate.draft.model
    known = bench.run.journal.last(events.PatternsTrained)
    if known is not None and known.index == index:
        stored = graph.load_stored(bench.run.path(known.weights), current.model)
        model.set_weights(stored.get_weights())
        return known
    assert bench.hooks.patterns is not None  # The strategy checked it.
    with bench.progress.stage(f"Train candidate {index + 1} towards patterns"):
        projected = bench.hooks.patterns.train_patterns(model, towards)
    # On disk before the journal says so.
    bench.run.save_model(model, _WEIGHTS_NAME)
    sparse.save_kept(bench.run.path(_KEPT_NAME), projected.kept)
    event = events.PatternsTrained(
        index,
        towards.method,
        towards.epochs,
        tuple(PatternEpoch(one[PATTERNS], one.get(CONNECTIVITY)) for one in projected.epochs),
        drawn_patterns(projected.kept),
        tuple(
            _layer(name, one, np.asarray(model.get_layer(name).kernel))
            for name, one in projected.kept.items()
        ),
        _KEPT_NAME,
        _WEIGHTS_NAME,
    )
    bench.progress.note(f"Candidate {index + 1}: {event}.")
    return bench.run.journal.append(event)


def train_briefly(bench: Workbench, model: Any, index: int) -> None:
    """Trains a candidate's model in place for a short time; the zeros of patterns stay.

    Args:
        bench: The workbench.
        model: The candidate's model, projected if it has patterns.
        index: The candidate's number in this run, from 0.
    """
    patterns, kept = _kept_of(bench, index)
    if patterns is None:
        bench.hooks.short_term_train(model)
    else:
        patterns.short_term_train(model, kept)


def train_accepted(bench: Workbench, model: Any, iteration: int) -> None:
    """Trains an accepted model in place for long; the zeros of patterns stay.

    Args:
        bench: The workbench.
        model: The model.
        iteration: Its iteration, at least 1.
    """
    indices = [
        event.index
        for event in bench.run.journal.events(events.CandidateJudged)
        if event.accepted is not None and event.accepted.iteration == iteration
    ]
    patterns, kept = _kept_of(bench, indices[-1]) if indices else (None, {})
    if patterns is None:
        bench.hooks.long_term_train(model)
    else:
        patterns.long_term_train(model, kept)


def _kept_of(
    bench: Workbench, index: int
) -> tuple[PatternTraining | None, dict[str, sparse.SparseKernel]]:
    """What trains a candidate with patterns, and what stays of it; None if it has no patterns."""
    for event in bench.run.journal.events(events.PatternsTrained):
        if event.index == index:
            assert bench.hooks.patterns is not None  # The strategy checked it.
            return bench.hooks.patterns, sparse.load_kept(bench.run.path(event.kept))
    return None, {}


def drawn_patterns(kept: Mapping[str, sparse.SparseKernel]) -> tuple[DrawnPattern, ...]:
    """Lists the patterns of all kernel sizes, and how often they are used.

    Args:
        kept: What stays of each layer; all layers of a kernel size have the same pattern set.
    """
    by_size: dict[tuple[int, int], list[sparse.SparseKernel]] = {}
    for one in kept.values():
        by_size.setdefault(one.patterns.kernel_size, []).append(one)
    drawn: list[DrawnPattern] = []
    for (height, width), layers in sorted(by_size.items()):
        patterns, used = layers[0].patterns, _used(layers)
        drawn += [
            DrawnPattern(
                height,
                width,
                tuple(int(entry) for entry in np.flatnonzero(mask)),
                share,
                float(count / max(used.sum(), 1)),
            )
            for mask, share, count in zip(patterns.masks, patterns.shares, used, strict=True)
        ]
    return tuple(drawn)


def _used(layers: Sequence[sparse.SparseKernel]) -> np.ndarray:
    """The number of kernels that keep to each pattern, [num_patterns]."""
    counts = np.zeros(len(layers[0].patterns), np.int64)
    for one in layers:
        by_filter = one.by_filter()
        counts += np.bincount(by_filter[by_filter != sparse.REMOVED], minlength=len(counts))
    return counts


def _layer(name: str, kept: sparse.SparseKernel, kernel: np.ndarray) -> PatternLayer:
    compact = sparse.to_fkw(kernel)
    by_filter = kept.by_filter()
    chosen = by_filter[by_filter != sparse.REMOVED]
    num_inputs, num_outputs = by_filter.shape
    return PatternLayer(
        name,
        *kept.patterns.kernel_size,
        num_inputs,
        num_outputs,
        kept.block_size,
        by_filter.size,
        chosen.size,
        len(np.unique(chosen)),
        chosen.size * kept.patterns.num_entries,
        kernel.nbytes if compact is None else compact.total_bytes,
    )
