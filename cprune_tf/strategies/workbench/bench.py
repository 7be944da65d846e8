"""The workbench: everything that a strategy does to models goes through it."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

from cprune_tf import graph
from cprune_tf.accuracy import AccuracyGate, Evaluation
from cprune_tf.config import PruneConfig, SoftStartConfig
from cprune_tf.devices import Latency
from cprune_tf.importance.registry import Array
from cprune_tf.latency.lab import LatencyLab
from cprune_tf.latency.points import PointStore
from cprune_tf.runs import Progress, RunDirectory, events
from cprune_tf.runs.results import ModelRecord, TaskRecord
from cprune_tf.runtimes import Runtime, TaskCost
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
from cprune_tf.strategies.workbench.current_model import CurrentModel
from cprune_tf.strategies.workbench.hooks import Hooks
from cprune_tf.strategies.workbench.soft_start import start_softly
from cprune_tf.strategies.workbench.sparse_training import train_briefly, train_patterns
from cprune_tf.strategies.workbench.targets import Target
from cprune_tf.training.pattern_training import TowardsPatterns


@dataclasses.dataclass(frozen=True, eq=False)
class Workbench:
    """Rebuilds, prices, measures, trains and accepts models for a strategy.

    Attributes:
        config: The config of the run.
        run: The run directory with its journal.
        runtime: The runtime on the device, which measures latencies.
        hooks: The functions that train and evaluate models.
        progress: The display of the run's progress.
    """

    config: PruneConfig
    run: RunDirectory
    runtime: Runtime
    hooks: Hooks
    progress: Progress

    # Queries about a model.

    def analyze(self, model: Any) -> graph.ChannelGraph:
        """Returns the channel groups of a model; those that the user protects are protected."""
        return graph.analyze(model, self.config.protect)

    def task_costs(self, current: CurrentModel) -> tuple[TaskCost, ...]:
        """Returns the latency of each task of a model, the costliest first."""
        return self.runtime.task_costs(current.prepared)

    def target(self, task: Any, current: CurrentModel) -> Target:
        """Finds a task's channel groups and whether they may be pruned."""
        return targets.find_target(task, current.channels)

    def removable(
        self, groups: tuple[str, ...], current: CurrentModel, original: CurrentModel
    ) -> int:
        """Returns how many units may still be removed from each of some groups.

        Args:
            groups: Names of the groups.
            current: The model to prune.
            original: The original model; `config.strategy.max_pruned_fraction` limits the removal
                to a fraction of its units.

        Returns:
            The number that all of the groups allow, at least 0.
        """
        units = {group.name: group.num_channels for group in original.channels.groups}
        limit = self.config.strategy.max_pruned_fraction
        return targets.removable(groups, current.channels, units, limit)

    # Drafts: smaller models that are not decided on yet.

    def least_important(
        self, current: CurrentModel, groups: tuple[str, ...], count: int, index: int
    ) -> dict[str, tuple[int, ...]]:
        """Returns the least important units of some groups, by the configured criterion.

        Args:
            current: The model to prune.
            groups: Names of the groups.
            count: Number of units to return for each group.
            index: The candidate's number, from 0; part of the seed of a random criterion.

        Returns:
            Sorted unit indices by group name.
        """
        return least_units(self.rank_units(current, groups, index), count)

    def rank_units(
        self, current: CurrentModel, groups: tuple[str, ...], index: int
    ) -> dict[str, tuple[int, ...]]:
        """Ranks the units of some groups by importance, for a strategy that tries several counts.

        Args:
            current: The model to prune.
            groups: Names of the groups.
            index: The candidate's number, from 0; part of the seed of a random criterion.

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
            current: The model to prune.
            removal: Indices of the units to remove, by group name.

        Returns:
            The smaller model.
        """
        # As in CPrune, nothing of a removed filter is kept. Folding its constant output into later
        # biases helps as often as it hurts before training, and changes nothing after training.
        model = graph.rebuild(current.model, removal, fold_constants=False, graph=current.channels)
        return Draft(removal, model, self.runtime.prepare(model))

    def price(self, current: CurrentModel, draft: Draft) -> Price:
        """Predicts the latency of a draft, in seconds instead of minutes of tuning."""
        return self._scaled(current, self.runtime.price(draft.prepared, current.prepared))

    def _scaled(self, current: CurrentModel, tasks_ms: float) -> Price:
        # The whole-model latency is scaled by the ratio of the tasks' latencies. The difference of
        # the two (the runtime's overhead) is not used: they were measured at different times, and
        # it could be negative on a machine whose speed drifts.
        ratio = tasks_ms / self.runtime.tasks_ms(current.prepared)
        return Price(ratio, current.latency.median_ms * ratio)

    # Candidates: measuring, training and accepting them.

    @contextlib.contextmanager
    def lab(self, original: CurrentModel) -> Iterator[LatencyLab]:
        """Opens the lab that measures the original's tasks at other channel counts.

        Args:
            original: The first model, tuned.

        Yields:
            The lab, in which the original's own tasks are measured. It keeps its points in the run
            directory, so nothing is measured twice.
        """
        with PointStore(self.run.points_path, self.runtime.fingerprint) as store:
            lab = LatencyLab(
                original.model, original.prepared, original.channels, self.runtime, store
            )
            lab.measure({})
            yield lab

    def tune_candidate(self, current: CurrentModel, candidate: Candidate, index: int) -> Price:
        """Tunes a candidate like the original, for a strategy that does not rely on transfer.

        A resumed run tunes nothing twice: the runtime keeps every measured program in its database,
        and these count among a task's trials. If the candidate's latency is in the journal, the
        candidate was tuned before, and nothing is searched.

        Args:
            current: The model that the candidate was made from.
            candidate: The candidate; need not be priced.
            index: The candidate's number in this run, from 0.

        Returns:
            The latency of the tuned tasks, as a price.

        Raises:
            TuningError: If every program of a task failed.
        """
        prepared = candidate.draft.prepared
        if self._measured_before(index, candidate.draft) is None:
            with self.progress.stage(f"Tune candidate {index + 1}") as stage:
                self.runtime.tune(prepared, self.config.tuning.trials_per_task, stage.progress)
        return self._scaled(current, self.runtime.tasks_ms(prepared))

    def measure(self, current: CurrentModel, candidate: Candidate, index: int) -> Measurement:
        """Times a candidate in turn with the current model and the original.

        If the run was killed after the candidate was measured, the journal's measurement is used.

        Args:
            current: The model that the candidate was made from.
            candidate: The candidate; all its tasks must be priced or tuned.
            index: The candidate's number in this run, from 0.

        Returns:
            The candidate's whole-model latency.
        """
        draft, journal = candidate.draft, self.run.journal
        event = self._measured_before(index, draft)
        if event is None:
            path = self.run.path(f"models/candidate{self.runtime.suffix}")
            self.runtime.build(draft.prepared, path)
            original, current_now, measured = self.time(
                draft.model, self.library_path(0), current.library, path
            )
            event = journal.append(
                events.CandidateMeasured(
                    index,
                    draft.removal,
                    measured,
                    current_now.median_ms,
                    measured.median_ms / original.median_ms,
                )
            )
        return Measurement(event.measured, event.current_ms, event.ratio)

    def _measured_before(self, index: int, draft: Draft) -> events.CandidateMeasured | None:
        """What was measured of a candidate before a kill, or by the strategy while it proposed."""
        wanted = (index, dict(draft.removal))
        for event in reversed(self.run.journal.events(events.CandidateMeasured)):
            if (event.index, dict(event.removed)) == wanted:
                return event
        return None

    def soft_start(
        self, current: CurrentModel, candidate: Candidate, index: int, config: SoftStartConfig
    ) -> events.SoftStarted:
        """Gives a candidate the weights that the current model has after a soft start.

        See `workbench.soft_start.start_softly`.
        """
        return start_softly(self, current, candidate, index, config)

    def train_patterns(
        self, current: CurrentModel, candidate: Candidate, index: int, towards: TowardsPatterns
    ) -> events.PatternsTrained:
        """Trains a candidate towards patterns; see `sparse_training.train_patterns`."""
        return train_patterns(self, current, candidate, index, towards)

    def train(
        self, candidate: Candidate, index: int, gate: AccuracyGate | None = None
    ) -> Evaluation:
        """Trains a candidate in place for a short time and evaluates it.

        Args:
            candidate: The candidate.
            index: The candidate's number in this run, from 0.
            gate: What its accuracy must be: the evaluation ends early once it is known to be too
                low (`config.strategy.gate_error_rate`). None: it is always evaluated whole.

        Returns:
            The candidate's accuracy after the training.
        """
        with self.progress.stage(f"Train candidate {index + 1}"):
            train_briefly(self, candidate.draft.model, index)
            graph.flush_subnormals(candidate.draft.model)
            if gate is None:
                return self.evaluate(candidate.draft.model)
            # Each candidate gets an order of its own, so that the error rate holds for each: which
            # candidates there are depends on earlier decisions, and so on earlier orders.
            return self.hooks.evaluate_against(
                self.run.journal.last(events.Evaluated),
                candidate.draft.model,
                least=gate.least,
                error_rate=self.config.strategy.gate_error_rate,
                seed=(self.config.seed, index),
            )

    def train_all(
        self, candidates: Iterable[Candidate], index: int
    ) -> Iterator[tuple[Candidate, Evaluation]]:
        """Trains candidates in place, side by side where `config.ray_address` says so.

        Args:
            candidates: All of them are trained and evaluated whole.
            index: The number of the decision that they are for, from 0.

        Yields:
            Each candidate and its accuracy when it is trained; side by side, in any order.
        """
        train_all = self.hooks.short_term_train_all
        if train_all is None:
            for candidate in candidates:
                yield candidate, self.train(candidate, index)
            return
        waiting = list(candidates)
        for position in train_all([candidate.draft.model for candidate in waiting]):
            model = waiting[position].draft.model
            graph.flush_subnormals(model)
            yield waiting[position], self.evaluate(model)

    def evaluate(self, model: Any) -> Evaluation:
        """Evaluates a model on all images that decide."""
        original = self.run.journal.last(events.Evaluated)
        return self.hooks.evaluate_against(original, model)

    def accept(self, current: CurrentModel, candidate: Candidate, verdict: Verdict) -> CurrentModel:
        """Tunes an accepted candidate, measures it as a whole model and saves it.

        Args:
            current: The model that the candidate was made from.
            candidate: The accepted candidate, trained.
            verdict: The strategy's decision; must have a measurement and an accuracy.

        Returns:
            The candidate as the new current model.

        Raises:
            ValueError: If the candidate was not measured, or not evaluated on all images.
        """
        measurement, evaluation = verdict.measurement, verdict.evaluation
        if measurement is None or evaluation is None or not evaluation.is_whole:
            raise ValueError(
                f"The candidate {candidate.key} was accepted, but it was not both measured and "
                "evaluated on all images; expected a verdict with a measurement and an evaluation."
            )
        iteration = current.iteration + 1
        model = candidate.draft.model
        # Training changed the weights, so the model is prepared again.
        prepared = self.runtime.prepare(model)
        trials = self.config.tuning.trials_per_accepted_task
        if trials:
            with self.progress.stage(f"Tune iteration {iteration}") as stage:
                self.runtime.tune(prepared, trials, stage.progress)
        library = self.library_path(iteration)
        self.runtime.build(prepared, library)
        latency, ratio = measurement.latency, measurement.original_ratio
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
            evaluation,
            latency,
            ratio,
            history,
        )

    # The first model of a run, and the models that a resumed run continues with.

    def start(self, original: Any, evaluation: Evaluation) -> CurrentModel:
        """Tunes, measures and saves the original model.

        Args:
            original: The original Keras model.
            evaluation: The original's accuracy, as it would be deployed.

        Returns:
            The original as the current model, iteration 0.
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
            0, original, prepared, channels, library, evaluation, latency, 1.0, history
        )

    def restore(self, record: ModelRecord, model: Any) -> CurrentModel:
        """Restores the original or an accepted model of a resumed run.

        Args:
            record: The model's entry in the journal.
            model: The loaded Keras model of that iteration.

        Returns:
            The model as it was when it became the current model. Its library is built again if the
            file is missing.
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
            record.evaluation,
            record.latency,
            record.latency_ratio,
            history,
        )

    def library_path(self, iteration: int) -> pathlib.Path:
        """Returns the path of the file that the runtime builds from an accepted model."""
        return self.run.path(f"models/iter_{iteration:04d}{self.runtime.suffix}")

    def time(self, model: Any, *paths: pathlib.Path) -> tuple[Latency, ...]:
        """Times built models interleaved; all must have the same inputs as `model`."""
        return self.runtime.time(paths, model, self.config.measure)

    # The entry of a model in the journal.

    def describe(self, current: CurrentModel) -> ModelRecord:
        """Describes an accepted model for the journal."""
        statistics = graph.statistics(current.model)
        return ModelRecord(
            iteration=current.iteration,
            accuracy=current.accuracy,
            paired=current.evaluation.paired,
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
    """Returns the number of output channels of every layer that makes channels."""
    return {name: group.num_channels for group in channels.groups for name in group.producers}


def _model_name(iteration: int) -> str:
    return f"models/iter_{iteration:04d}.keras"


def _history_name(iteration: int) -> str:
    return f"models/iter_{iteration:04d}.history.json"
