"""The loop that runs a strategy: propose, judge, accept, and journal each decision."""

from __future__ import annotations

import dataclasses
import time

from cprune_tf.accuracy import Metric
from cprune_tf.runs import events
from cprune_tf.strategies.base import Candidate, Stop, Strategy, Verdict
from cprune_tf.strategies.workbench.bench import Workbench
from cprune_tf.strategies.workbench.current_model import CurrentModel


def run_strategy(strategy: Strategy, bench: Workbench, current: CurrentModel) -> CurrentModel:
    """Prunes until the strategy stops or `config.strategy.max_iterations` candidates were tried.

    Args:
        strategy: The strategy, new; it first learns all decisions that the journal holds.
        bench: The workbench that the strategy was made with.
        current: The original, or the last accepted model of a resumed run.

    Returns:
        The last accepted model.
    """
    journal = bench.run.journal
    for record in journal.records:
        if isinstance(record.event, (events.CountRuledOut, events.CandidateJudged)):
            strategy.learn(record.event)
    limit = bench.config.strategy.max_iterations
    num_candidates = len(journal.events(events.CandidateJudged))
    with bench.progress.stage("Prune", total=limit) as stage:
        while True:
            stage.update(num_candidates, _summary(current, bench.hooks.metric))
            proposal: Candidate | Stop = (
                strategy.propose(current)
                if num_candidates < limit
                else Stop(f"{limit} candidates were tried")
            )
            if isinstance(proposal, Stop):
                break
            current = _decide(strategy, bench, current, proposal, num_candidates)
            num_candidates += 1
        stage.update(text=proposal.reason)
    journal.append(events.Stopped(proposal.reason, current.iteration))
    bench.progress.note(f"Stopped: {proposal.reason}.")
    return current


def _summary(current: CurrentModel, metric: Metric) -> str:
    return (
        f"iteration {current.iteration}: {1 / current.latency_ratio:.3g}x as fast as the original "
        f"({current.latency.median_ms:.4g} ms), {metric.word} {metric.text(current.accuracy)}"
    )


def _decide(
    strategy: Strategy, bench: Workbench, current: CurrentModel, candidate: Candidate, index: int
) -> CurrentModel:
    """Judges a candidate, journals the decision and returns the model to continue with."""
    start_sec = time.monotonic()
    verdict = strategy.judge(current, candidate, index)
    accepted = strategy.accept(current, candidate, verdict) if verdict.accepted else None
    record = None if accepted is None else bench.describe(accepted)
    journal = bench.run.journal
    event = journal.append(
        dataclasses.replace(
            _judged(current, candidate, verdict, index),
            elapsed_sec=time.monotonic() - start_sec,
            accepted=record,
        )
    )
    if record is not None:
        journal.append(events.Accepted(**vars(record)))
    strategy.learn(event)
    removed = ", ".join(f"{name} -{count}" for name, count in event.removed.items()) or event.key
    decision = verdict.decision.replace("_", " ")
    if verdict.decision == events.REFUSED_ACCURACY:
        decision = f"refused {bench.hooks.metric.word}"
    bench.progress.note(f"candidate {index + 1}: {removed}: {decision}: {verdict.reason}")
    return accepted or current


def _judged(
    current: CurrentModel, candidate: Candidate, verdict: Verdict, index: int
) -> events.CandidateJudged:
    """Returns the event of a decision, without its duration and without the accepted model."""
    measurement, price = verdict.measurement, candidate.price
    evaluation = verdict.evaluation
    removal = candidate.draft.removal
    return events.CandidateJudged(
        index=index,
        iteration=current.iteration,
        key=candidate.key,
        task=candidate.task,
        layers=candidate.layers,
        removed={name: len(units) for name, units in removal.items()},
        step=candidate.step,
        price_ms=None if price is None else price.latency_ms,
        current_latency_ms=(
            current.latency.median_ms if measurement is None else measurement.current_ms
        ),
        measured=None if measurement is None else measurement.latency,
        accuracy=None if evaluation is None else evaluation.accuracy,
        current_accuracy=current.accuracy,
        decision=verdict.decision,
        reason=verdict.reason,
        elapsed_sec=0.0,
        accepted=None,
        paired=None if evaluation is None else evaluation.paired,
    )
