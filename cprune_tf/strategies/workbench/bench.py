"""The workbench: what a strategy works with, and all that it does to models."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

from cprune_tf import graph
from cprune_tf.config import PruneConfig
from cprune_tf.devices import Latency
from cprune_tf.importance.registry import Array
from cprune_tf.runs import Progress, RunDirectory, events
from cprune_tf.runs.results import ModelRecord, TaskRecord
from cprune_tf.runtimes import Runtime, RuntimeModel, TaskCost
from cprune_tf.strategies.base import (
    Candidate,
    Draft,
    Measurement,
    Price,
    Verdict,
    least_units,
    ranked,
)
from cprune_tf.strategies.registry import registered_strategies
from cprune_tf.strategies.workbench import targets
from cprune_tf.strategies.workbench.targets import Target


@dataclasses.dataclass(frozen=True)
class Hooks:
    """How models are trained and judged: by the caller's own functions or the defaults.

    Attributes:
        short_term_train: Trains a candidate in place.
        long_term_train: Trains the result in place.
        evaluate: Gives a model's accuracy, 0..1.
        sample: Gives batches of labelled training images, for importance and sensitivity.
    """

    short_term_train: Callable[[Any], None]
    long_term_train: Callable[[Any], None]
    evaluate: Callable[[Any], float]
    sample: Callable[[], Any]


@dataclasses.dataclass(frozen=True, eq=False)
class CurrentModel:
    """An accepted model with everything that is known of it.

    Attributes:
        iteration: 0 for the original.
        model: The Keras model.
        prepared: The same as the runtime sees it; all its tasks are measured.
        channels: Its channel groups.
        library: The file that the runtime built of it.
        accuracy: As `Hooks.evaluate` gave it, 0..1.
        latency: Of the whole model, on the device.
        latency_ratio: latency / the original's, measured side by side.
        history: The removals that led here from the original.
    """

    iteration: int
    model: Any
    prepared: RuntimeModel
    channels: graph.ChannelGraph
    library: pathlib.Path
    accuracy: float
    latency: Latency
    latency_ratio: float
    history: graph.PruningHistory


@dataclasses.dataclass(frozen=True, eq=False)
class Workbench:
    """What a strategy works with.

    Attributes:
        config: Of the run.
        run: The run directory with its journal.
        runtime: What latencies are measured with, on the device.
        hooks: Training and evaluation.
        progress: What is shown.
    """

    config: PruneConfig
    run: RunDirectory
    runtime: Runtime
    hooks: Hooks
    progress: Progress

    # What is known of a model.

    def analyze(self, model: Any) -> graph.ChannelGraph:
        """The channel groups of a model, the user's protections applied."""
        return graph.analyze(model, self.config.protect)

    def task_costs(self, current: CurrentModel) -> tuple[TaskCost, ...]:
        """What each task of a model costs, costliest first."""
        return self.runtime.task_costs(current.prepared)

    def target(self, task: Any, current: CurrentModel) -> Target:
        """Which channel groups a task's filters belong to, and whether they may go."""
        return targets.find_target(task, current.channels)

    def removable(
        self, groups: tuple[str, ...], current: CurrentModel, original: CurrentModel
    ) -> int:
        """How many units may still go from each of some groups.

        Args:
            groups: Their names.
            current: The model that they are counted in.
            original: The first model: the limit is a fraction of its units.

        Returns:
            The smallest allowance of the groups, at least 0.
        """
        units = {group.name: group.num_channels for group in original.channels.groups}
        limit = self.config.strategy.max_pruned_fraction
        return targets.removable(groups, current.channels, units, limit)

    # Drafts: smaller models that nobody has decided on yet.

    def least_important(
        self, current: CurrentModel, groups: tuple[str, ...], count: int, index: int
    ) -> dict[str, tuple[int, ...]]:
        """The least important units of some groups, by the configured criterion.

        Args:
            current: The model.
            groups: Names of the groups.
            count: Units to remove from each.
            index: The candidate's number: it decides what a random criterion draws.

        Returns:
            Sorted unit indices by group name.
        """
        return least_units(self.rank_units(current, groups, index), count)

    def rank_units(
        self, current: CurrentModel, groups: tuple[str, ...], index: int
    ) -> dict[str, tuple[int, ...]]:
        """Ranks the units of some groups once, for a strategy that asks for several counts.

        Args:
            current: The model.
            groups: Names of the groups.
            index: The candidate's number: it decides what a random criterion draws.

        Returns:
            All unit indices by group name, the least important first.
        """
        return ranked(self.score_units(current, groups, index))

    def score_units(
        self, current: CurrentModel, groups: tuple[str, ...], index: int
    ) -> dict[str, Array]:
        """Scores the units of some groups, by the configured criterion or the strategy's own.

        Args:
            current: The model.
            groups: Names of the groups.
            index: The candidate's number: it decides what a random criterion draws.

        Returns:
            float64 [num_channels] by group name; higher is more important.
        """
        strategy = self.config.strategy
        own = registered_strategies()[strategy.name].strategy.default_importance
        return targets.score_units(
            current.model,
            current.channels,
            groups,
            method=strategy.importance or own,
            seed=self.config.seed + index,
            sample=self.hooks.sample,
        )

    def labelled(self, current: CurrentModel) -> tuple[Any, Any]:
        """Gives what the loss can be computed with.

        Args:
            current: The model.

        Returns:
            The Keras model, or a copy with a loss where it has none; and batches of (images,
            labels).
        """
        data = self.hooks.sample()
        return targets.with_loss(current.model, data), data

    def draft(self, current: CurrentModel, removal: dict[str, tuple[int, ...]]) -> Draft:
        """Rebuilds a model without some units.

        Args:
            current: The model.
            removal: Unit indices by group name.
        """
        # As in CPrune, a removed filter is gone. Folding its constants into later biases helps as
        # often as it hurts before training, and nothing after it.
        model = graph.rebuild(current.model, removal, fold_constants=False, graph=current.channels)
        return Draft(removal, model, self.runtime.prepare(model))

    def price(self, current: CurrentModel, draft: Draft) -> Price:
        """What a draft is expected to cost: seconds of work instead of a tuning's minutes."""
        # By ratio, not by difference: tasks and whole model were measured at different times, and
        # on a machine whose speed drifts the runtime's overhead could come out negative.
        tasks_ms = self.runtime.tasks_ms(current.prepared)
        ratio = self.runtime.price(draft.prepared, current.prepared) / tasks_ms
        return Price(ratio, current.latency.median_ms * ratio)

    # Candidates: measured, trained, accepted.

    def measure(self, current: CurrentModel, candidate: Candidate, index: int) -> Measurement:
        """Times a candidate in turn with the current model and the original.

        What was measured before a kill is read back.

        Args:
            current: The model that the candidate was made from.
            candidate: Priced.
            index: The candidate's number in this run.
        """
        draft, journal = candidate.draft, self.run.journal
        known = self._measured_before(index, draft)
        if known is None:
            path = self.run.path(f"models/candidate{self.runtime.suffix}")
            self.runtime.build(draft.prepared, path)
            original, now, measured = self.time(
                draft.model, self.library_path(0), current.library, path
            )
            known = journal.append(
                events.CandidateMeasured(
                    index,
                    draft.removal,
                    measured,
                    now.median_ms,
                    measured.median_ms / original.median_ms,
                )
            )
        return Measurement(known.measured, known.current_ms, known.ratio)

    def _measured_before(self, index: int, draft: Draft) -> events.CandidateMeasured | None:
        """What was measured of a candidate before a kill, or by the strategy while it proposed."""
        wanted = (index, dict(draft.removal))
        for event in reversed(self.run.journal.events(events.CandidateMeasured)):
            if (event.index, dict(event.removed)) == wanted:
                return event
        return None

    def train(self, candidate: Candidate, index: int) -> float:
        """Trains a candidate in place for a short time.

        Returns:
            Its accuracy, 0..1.
        """
        with self.progress.stage(f"Train candidate {index + 1}"):
            self.hooks.short_term_train(candidate.draft.model)
            return self.hooks.evaluate(candidate.draft.model)

    def accept(self, current: CurrentModel, candidate: Candidate, verdict: Verdict) -> CurrentModel:
        """Tunes an accepted model, measures it whole and saves it.

        Args:
            current: The model that the candidate was made from.
            candidate: Trained.
            verdict: With a measurement and an accuracy.
        """
        if verdict.measurement is None or verdict.accuracy is None:
            raise ValueError(f"{candidate.key} was accepted without being measured and trained.")
        iteration = current.iteration + 1
        model = candidate.draft.model
        # Prepared again: training changed the weights.
        prepared = self.runtime.prepare(model)
        trials = self.config.tuning.trials_per_accepted_task
        if trials:
            with self.progress.stage(f"Tune iteration {iteration}") as stage:
                self.runtime.tune(prepared, trials, stage.progress)
        library = self.library_path(iteration)
        self.runtime.build(prepared, library)
        latency, ratio = verdict.measurement.latency, verdict.measurement.original_ratio
        if trials:
            original, latency = self.time(model, self.library_path(0), library)
            ratio = latency.median_ms / original.median_ms
        history = current.history.add(candidate.draft.removal, fold_constants=False)
        self.run.save_model(model, _model_name(iteration))
        self.run.write_bytes(_history_name(iteration), history.to_json().encode())
        return CurrentModel(
            iteration,
            model,
            prepared,
            self.analyze(model),
            library,
            verdict.accuracy,
            latency,
            ratio,
            history,
        )

    # The original, and what a resumed run goes on with.

    def start(self, original: Any, accuracy: float) -> CurrentModel:
        """Tunes, measures and saves the original.

        Args:
            original: The Keras model.
            accuracy: Its accuracy, 0..1.

        Returns:
            Iteration 0.
        """
        prepared = self.runtime.prepare(original)
        library = self.library_path(0)
        with self.progress.stage("Tune the original model") as stage:
            self.runtime.tune(prepared, self.config.tuning.trials_per_task, stage.progress)
            self.runtime.build(prepared, library)
            (latency,) = self.time(original, library)
        self.run.save_model(original, _model_name(0))
        channels, history = self.analyze(original), graph.PruningHistory()
        return CurrentModel(
            0, original, prepared, channels, library, accuracy, latency, 1.0, history
        )

    def restore(self, record: ModelRecord, model: Any) -> CurrentModel:
        """An accepted model as the journal and the run directory keep it.

        Args:
            record: The model's entry in the journal.
            model: The Keras model of that iteration, loaded.

        Returns:
            The model; its library is built again where it is missing.
        """
        prepared = self.runtime.prepare(model)
        library = self.library_path(record.iteration)
        if not library.exists():
            self.runtime.build(prepared, library)
        history = graph.PruningHistory()
        if record.history:
            text = self.run.path(record.history).read_text(encoding="utf-8")
            history = graph.PruningHistory.from_json(text)
        return CurrentModel(
            record.iteration,
            model,
            prepared,
            self.analyze(model),
            library,
            record.accuracy,
            record.latency,
            record.latency_ratio,
            history,
        )

    def library_path(self, iteration: int) -> pathlib.Path:
        """Where the file lies that the runtime built of an accepted model."""
        return self.run.path(f"models/iter_{iteration:04d}{self.runtime.suffix}")

    def time(self, model: Any, *paths: pathlib.Path) -> tuple[Latency, ...]:
        """Times built models interleaved; all have the inputs of `model`."""
        return self.runtime.time(paths, model, self.config.measure)

    # The record.

    def describe(self, current: CurrentModel) -> ModelRecord:
        """An accepted model as the journal keeps it."""
        statistics = graph.statistics(current.model)
        return ModelRecord(
            iteration=current.iteration,
            accuracy=current.accuracy,
            latency=current.latency,
            latency_ratio=current.latency_ratio,
            params=statistics.params,
            macs=statistics.macs,
            channels=channels_by_layer(current.channels),
            tasks=tuple(self._task_record(cost, current) for cost in self.task_costs(current)),
            model=_model_name(current.iteration),
            history=_history_name(current.iteration) if current.iteration else "",
        )

    def _task_record(self, cost: TaskCost, current: CurrentModel) -> TaskRecord:
        task, structure = cost.task, cost.structure
        target = self.target(task, current)
        prunable = target.reason is None
        return TaskRecord(
            name=task.name,
            anchor=task.kind.split("_")[0],
            weight=task.weight,
            layers=task.layers,
            groups=target.groups,
            macs=task.flops / 2,
            latency_ms=cost.latency_ms,
            total_ms=cost.total_ms,
            share=cost.share,
            gflops=cost.gflops,
            structure_step=structure.step if structure is not None and prunable else None,
            program="" if structure is None else str(structure),
            protected=target.reason,
        )


def channels_by_layer(channels: graph.ChannelGraph) -> dict[str, int]:
    """The number of output channels of every layer that makes channels."""
    return {name: group.num_channels for group in channels.groups for name in group.producers}


def _model_name(iteration: int) -> str:
    return f"models/iter_{iteration:04d}.keras"


def _history_name(iteration: int) -> str:
    return f"models/iter_{iteration:04d}.history.json"
