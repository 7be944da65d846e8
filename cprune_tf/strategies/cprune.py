"""The CPrune loop (Kim et al., ECCV 2022, Algorithm 1).

Rank the tasks of the current model by latency x weight. Take the highest; remove as many filters
from all its subgraphs as its fastest program's structure says. Gate 1: the candidate's latency is
at most beta x the current; otherwise its step grows on its next visit. Gate 2: after short-term
training its accuracy is at least alpha x the current; otherwise it is never pruned again. A
candidate that passes both becomes the current model, and the ranking starts anew.

Where this differs from the authors' code: a candidate is first priced by transferring the current
model's programs to its shapes (seconds, no search), and only if that passes is it built and timed
whole, interleaved with the current model and the original; only what passes both gates is tuned.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

from cprune_tf import graph
from cprune_tf.compiler.tasks import LoweredModel
from cprune_tf.devices import Latency
from cprune_tf.strategies import candidates as proposals
from cprune_tf.strategies.candidates import Candidate, Target
from cprune_tf.strategies.state import (
    ACCEPTED,
    REFUSED_ACCURACY,
    REFUSED_LATENCY,
    LoopState,
    next_step,
)
from cprune_tf.strategies.workbench import CurrentModel, Workbench, stage_progress

# A price is a sum of measurements made at other times than the current model's: what it puts just
# above the gate is measured whole, beside the current model.
_PRICE_MARGIN = 1.03


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What became of a candidate.

    Attributes:
        decision: ACCEPTED, REFUSED_LATENCY or REFUSED_ACCURACY.
        reason: In words, with the numbers.
        price_ms: Predicted whole-model latency.
        measured: Whole-model latency; None where the price already refused it.
        current_ms: The current model's latency it was compared with.
        accuracy: After short-term training; None where it was not trained.
        accepted: The new current model, where accepted.
    """

    decision: str
    reason: str
    price_ms: float
    measured: Latency | None
    current_ms: float
    accuracy: float | None
    accepted: CurrentModel | None


class CPrune:
    """Runs the loop on a workbench.

    Args:
        bench: Compiler, device, training and record.
        original: The model to start from (iteration 0), tuned and measured.
        required_accuracy: Below this the loop stops.
    """

    def __init__(self, bench: Workbench, original: CurrentModel, required_accuracy: float) -> None:
        self._bench = bench
        self._config = bench.config.strategy
        self._original = original
        self._required_accuracy = required_accuracy
        self._original_units = {g.name: g.num_channels for g in original.channels.groups}
        self._state = LoopState.from_events(bench.run.journal.events("candidate"))

    def run(self, current: CurrentModel) -> CurrentModel:
        """Prunes until a stop condition holds.

        Args:
            current: The original, or the last accepted model of a resumed run.

        Returns:
            The last accepted model.
        """
        journal = self._bench.run.journal
        with self._bench.progress.stage("Prune", total=self._config.max_iterations) as stage:
            while True:
                stage.update(
                    self._state.num_candidates,
                    f"iteration {current.iteration}: {current.latency.median_ms:.4g} ms, "
                    f"accuracy {current.accuracy:.2%}",
                )
                reason = self._stop_reason(current)
                candidate = None if reason else self._propose(current)
                if candidate is None:
                    reason = reason or "no task is left that could be pruned further"
                    break
                current = self._visit(current, candidate)
            stage.update(text=reason)
        journal.append("stopped", reason=reason, iteration=current.iteration)
        self._bench.progress.note(f"Stopped: {reason}.")
        return current

    def _stop_reason(self, current: CurrentModel) -> str | None:
        lowest = self._config.alpha * current.accuracy
        if lowest < self._required_accuracy:
            return (
                f"another candidate may fall to {lowest:.2%} (alpha x {current.accuracy:.2%}), "
                f"below the required accuracy {self._required_accuracy:.2%}"
            )
        if current.latency_ratio <= self._config.min_latency_ratio:
            return f"the latency is {current.latency_ratio:.1%} of the first"
        if self._state.num_candidates >= self._config.max_iterations:
            return f"{self._config.max_iterations} candidates were tried"
        return None

    def _propose(self, current: CurrentModel) -> Candidate | None:
        """The next task to visit: fewest visits since the last acceptance, then costliest."""
        ranked: dict[str, tuple[int, Target, int]] = {}
        for row in self._bench.session.task_table(current.lowered):
            target = proposals.find_target(row.task, current.channels)
            if target.reason is not None or target.groups in self._state.banned:
                continue
            if target.key in ranked:  # a costlier task stands for the same groups already
                continue
            allowance = proposals.removable(
                target.groups,
                current.channels,
                self._original_units,
                self._config.max_pruned_fraction,
            )
            too_slow = self._state.too_slow.get(target.key, 0)
            step = next_step(row.structure, too_slow, allowance, self._bench.session.lanes)
            if step is not None:
                ranked[target.key] = (self._state.visits.get(target.key, 0), target, step)
        if not ranked:
            return None
        _, target, step = min(ranked.values(), key=lambda item: item[0])
        removal = proposals.choose_units(
            current.model,
            current.channels,
            target.groups,
            step,
            method=self._config.importance,
            seed=self._bench.config.seed + self._state.num_candidates,
            sample=self._bench.hooks.sample,
        )
        return Candidate(target, step, removal)

    def _visit(self, current: CurrentModel, candidate: Candidate) -> CurrentModel:
        """Tries a candidate, records the decision and returns the model to go on with."""
        start = time.monotonic()
        index = self._state.num_candidates
        verdict = self._judge(current, candidate, index)
        accepted = None if verdict.accepted is None else self._describe(verdict.accepted)
        target = candidate.target
        journal = self._bench.run.journal
        journal.append(
            "candidate",
            index=index,
            iteration=current.iteration,
            key=target.key,
            task=target.task.name,
            layers=list(target.task.layers),
            removed={name: len(units) for name, units in candidate.removal.items()},
            step=candidate.step,
            price_ms=verdict.price_ms,
            current_latency_ms=verdict.current_ms,
            measured=None if verdict.measured is None else verdict.measured.to_json(),
            accuracy=verdict.accuracy,
            current_accuracy=current.accuracy,
            decision=verdict.decision,
            reason=verdict.reason,
            elapsed_sec=time.monotonic() - start,
            # One line carries the decision and the model it leads to: no kill can part them.
            accepted=accepted,
        )
        if accepted is not None:
            journal.append("accepted", **accepted)
        self._state.record(target.key, target.groups, candidate.step, verdict.decision)
        removed = ", ".join(f"{name} -{len(units)}" for name, units in candidate.removal.items())
        self._bench.progress.note(
            f"candidate {index + 1}: {removed}: {verdict.decision.replace('_', ' ')}: "
            f"{verdict.reason}"
        )
        return verdict.accepted or current

    def _describe(self, accepted: CurrentModel) -> dict[str, Any]:
        """The fields of an `accepted` event."""
        return self._bench.describe(accepted) | {"history": _history_name(accepted.iteration)}

    def _judge(self, current: CurrentModel, candidate: Candidate, index: int) -> Verdict:
        """Both gates, cheapest question first."""
        bench, config = self._bench, self._config
        # As in the paper, a removed filter is gone. Folding its constants into later biases helps
        # as often as it hurts before training, and nothing after it.
        model = graph.rebuild(
            current.model, candidate.removal, fold_constants=False, graph=current.channels
        )
        lowered = bench.session.lower(model)
        current_ms = current.latency.median_ms
        # By ratio, not by difference: tasks and whole model were measured at different times, and
        # on a machine whose speed drifts the runtime's overhead could come out negative.
        tasks_ms = current.lowered.latency_ms(bench.session.database)
        price_ms = current_ms * bench.session.price(lowered, current.lowered) / tasks_ms
        if price_ms > _PRICE_MARGIN * config.beta * current_ms:
            reason = f"priced at {price_ms:.4g} ms, {price_ms / current_ms:.1%} of the current"
            return Verdict(REFUSED_LATENCY, reason, price_ms, None, current_ms, None, None)

        measured, now_ms, ratio = self._measure(current, lowered, model, candidate, index)
        if measured.median_ms > config.beta * now_ms:
            share = measured.median_ms / now_ms
            reason = f"measured {measured.median_ms:.4g} ms, {share:.1%} of the current"
            return Verdict(REFUSED_LATENCY, reason, price_ms, measured, now_ms, None, None)

        bench.hooks.short_term_train(model)
        accuracy = bench.hooks.evaluate(model)
        if accuracy < config.alpha * current.accuracy:
            reason = f"accuracy {accuracy:.2%} < {config.alpha:g} x {current.accuracy:.2%}"
            return Verdict(REFUSED_ACCURACY, reason, price_ms, measured, now_ms, accuracy, None)
        accepted = self._accept(current, candidate, model, accuracy, measured, ratio)
        reason = (
            f"{accepted.latency.median_ms:.4g} ms, {measured.median_ms / now_ms:.1%} of the "
            f"current, accuracy {accuracy:.2%}"
        )
        return Verdict(ACCEPTED, reason, price_ms, measured, now_ms, accuracy, accepted)

    def _measure(
        self,
        current: CurrentModel,
        lowered: LoweredModel,
        model: Any,
        candidate: Candidate,
        index: int,
    ) -> tuple[Latency, float, float]:
        """The candidate's latency, the current model's beside it, and candidate / original."""
        removed = {name: list(units) for name, units in candidate.removal.items()}
        known = self._bench.run.journal.last("candidate_measured")
        if known is not None and known["index"] == index and known["removed"] == removed:
            return Latency.from_json(known["measured"]), known["current_ms"], known["ratio"]
        path = self._bench.run.path("models/candidate.so")
        self._bench.session.build(lowered, path)
        first, now, measured = self._bench.time(
            model, self._original.library, current.library, path
        )
        ratio = measured.median_ms / first.median_ms
        self._bench.run.journal.append(
            "candidate_measured",
            index=index,
            removed=removed,
            measured=measured.to_json(),
            current_ms=now.median_ms,
            ratio=ratio,
        )
        return measured, now.median_ms, ratio

    def _accept(
        self,
        current: CurrentModel,
        candidate: Candidate,
        model: Any,
        accuracy: float,
        measured: Latency,
        ratio: float,
    ) -> CurrentModel:
        """Tunes the accepted model, measures it whole and saves it."""
        bench = self._bench
        iteration = current.iteration + 1
        # Lowered again: training changed the weights.
        lowered = bench.session.lower(model)
        trials = bench.config.tuning.trials_per_accepted_task
        if trials:
            with bench.progress.stage(f"Tune iteration {iteration}") as stage:
                bench.session.tune(lowered, trials, stage_progress(stage))
        library = bench.library_path(iteration)
        bench.session.build(lowered, library)
        if trials:
            first, measured = bench.time(model, self._original.library, library)
            ratio = measured.median_ms / first.median_ms
        accepted = CurrentModel(
            iteration,
            model,
            lowered,
            bench.analyze(model),
            library,
            accuracy,
            measured,
            ratio,
            current.history.add(candidate.removal, fold_constants=False),
        )
        bench.run.save_model(model, f"models/iter_{iteration:04d}.keras")
        bench.run.write_bytes(_history_name(iteration), accepted.history.to_json().encode())
        return accepted


def restore(bench: Workbench, event: Mapping[str, Any], model: Any) -> CurrentModel:
    """An accepted model as the journal and the run directory keep it.

    Args:
        bench: Of the resumed run.
        event: Its `baseline` or `accepted` event.
        model: The Keras model of that iteration, loaded.

    Returns:
        The model, its library built again if it is missing.
    """
    iteration = int(event["iteration"])
    lowered = bench.session.lower(model)
    library = bench.library_path(iteration)
    if not library.exists():
        bench.session.build(lowered, library)
    history = graph.PruningHistory()
    if iteration:
        text = bench.run.path(event["history"]).read_text(encoding="utf-8")
        history = graph.PruningHistory.from_json(text)
    return CurrentModel(
        iteration,
        model,
        lowered,
        bench.analyze(model),
        library,
        float(event["accuracy"]),
        Latency.from_json(event["latency"]),
        float(event["latency_ratio"]),
        history,
    )


def _history_name(iteration: int) -> str:
    return f"models/iter_{iteration:04d}.history.json"
