"""A pruning run from the check of its input to the cross-check; each stage can be resumed.

Every stage reads the journal first. What an earlier session decided, trained or measured is read
back and not repeated.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from typing import Any

from cprune_tf.accuracy import Evaluation
from cprune_tf.pipeline.context import RunContext
from cprune_tf.pipeline.delivery import cross_check, export
from cprune_tf.pipeline.long_training import keep_as_sparsified, train_for_long
from cprune_tf.pipeline.requirements import checked_original, required_accuracy
from cprune_tf.runs import RunDirectory, events
from cprune_tf.runs.environment import package_version
from cprune_tf.runtimes import find_runtime, open_runtime
from cprune_tf.strategies.base import Strategy
from cprune_tf.strategies.registry import registered_strategies
from cprune_tf.strategies.workbench import CurrentModel, Workbench, run_strategy
from cprune_tf.strategies.workbench.reweighting import Reweighting

# Tries all stages of a run before it begins; see pipeline.dry_run.
DryRun = Callable[[RunContext], None]
STAGES = (
    "Check the input",
    "Tune the original model",
    "Prune",
    "Long-term training",
    "Tune the result",
    "Export",
    "Cross-check",
)


class Pipeline:
    """Runs all stages in one run directory.

    Args:
        context: The run.
        dry_run: What tries all stages after the input was checked; None: nothing does.
    """

    def __init__(self, context: RunContext, dry_run: DryRun | None = None) -> None:
        self._context = context
        self._dry_run = dry_run
        self._start = time.monotonic()

    def execute(self) -> Any:
        """Runs every stage; a stage that an earlier session finished is not repeated.

        Returns:
            The pruned Keras model.

        Raises:
            ConfigError: If no channel group can be pruned, if the required accuracy or the number
                of threads is too high, or if the strategy needs what the hooks do not give.
        """
        context = self._context
        journal, config, hooks = context.journal, context.config, context.given.hooks
        if journal.last(events.Finished) is None:
            journal.append(
                events.RunStarted(
                    version=package_version(),
                    config_hash=context.run.config_hash,
                    model=config.model,
                    device=context.device.info(),
                    resumed=context.run.resumed,
                )
            )
        original, accuracy, required = self.check_input()
        if self._dry_run is not None and journal.last(events.Baseline) is None:
            self._dry_run(context)
        with open_runtime(config.runtime, context.device, context.runtime_options) as opened:
            bench = Workbench(config, context.run, opened, hooks, context.progress)
            first = self._baseline(bench, original, accuracy, required)
            pruned = self.pruned(bench, first, required)
            if context.given.sparsifier is None:
                final = train_for_long(context, bench, pruned, required)
            else:
                final = keep_as_sparsified(context, pruned)
            deployments = export(context, bench, first, final)
        cross_check(context, deployments)
        if journal.last(events.Finished) is None:
            journal.append(
                events.Finished(
                    elapsed_sec=time.monotonic() - self._start,
                    peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
                )
            )
        return final

    def check_input(self) -> tuple[Any, float, float]:
        """Runs the first stage.

        Returns:
            A flat copy of the original, the score that it has, and the score that the result must
            have.

        Raises:
            ConfigError: See `execute`.
            UserError: If the runtime or a file that is compared cannot hold the model.
        """
        context, config = self._context, self._context.config
        registration = registered_strategies()[config.strategy.name]
        with context.progress.stage("Check the input"):
            registration.strategy.check(config, context.given.hooks)
            self._describe_data()
            runtime = find_runtime(config.runtime, config.precision)
            original = checked_original(context, runtime)
            return original, *required_accuracy(context, original)

    def _describe_data(self) -> None:
        """Journals once how many images train the models, decide, and are quoted in the report."""
        data, journal = self._context.given.data, self._context.journal
        if journal.last(events.DataDescribed) is None:
            num_validation = data.num_validation
            journal.append(
                events.DataDescribed(
                    data.name,
                    data.num_train,
                    num_validation,
                    data.num_test,
                    data.validation_source if num_validation else "",
                    self._context.given.judging_reason,
                )
            )

    def _baseline(
        self, bench: Workbench, original: Any, accuracy: float, required: float
    ) -> CurrentModel:
        baseline = self._context.journal.last(events.Baseline)
        if baseline is not None:
            return bench.restore(baseline, original)
        first = bench.start(original, self._evaluated_as_deployed(bench, original, accuracy))
        metric = self._context.given.hooks.metric
        self._context.journal.append(
            events.Baseline(
                **vars(bench.describe(first)),
                required_accuracy=required,
                metric=metric.name,
                is_minimized=metric.is_minimized,
            )
        )
        self._context.progress.note(f"The original, tuned: {first.latency}")
        return first

    def _evaluated_as_deployed(
        self, bench: Workbench, original: Any, accuracy: float
    ) -> Evaluation:
        """Evaluates the original as it would be deployed; only int8 makes a difference."""
        if not bench.hooks.judges_files:
            return Evaluation(accuracy)
        evaluation = bench.evaluate(original)
        self._context.progress.note(
            f"The original as int8 in LiteRT: {evaluation.text(bench.hooks.metric)}"
        )
        return evaluation

    def pruned(self, bench: Workbench, first: CurrentModel, required: float) -> CurrentModel:
        """Prunes until the strategy stops; goes on from the last accepted model of the run.

        Args:
            bench: The workbench.
            first: The original, tuned and measured.
            required: The score that the result must have.

        Returns:
            The last accepted model.
        """
        journal = self._context.journal
        accepted = journal.last(events.Accepted)
        judged = journal.last(events.CandidateJudged)
        if judged is not None and judged.accepted is not None:
            record = judged.accepted
            if accepted is None or accepted.iteration < record.iteration:
                # The run was killed between the two lines; the decision holds, so the second line
                # is written now.
                accepted = journal.append(events.Accepted(**vars(record)))
        current = first
        if accepted is not None:
            current = bench.restore(
                accepted, self._context.load(self._context.run.path(accepted.model))
            )
        if journal.last(events.Stopped) is not None:
            return current
        return run_strategy(self.strategy(bench, first, required), bench, current)

    def strategy(self, bench: Workbench, first: CurrentModel, required: float) -> Strategy:
        """Makes the strategy of the run, or what changes weights in its place."""
        sparsifier = self._context.given.sparsifier
        if sparsifier is not None:
            return Reweighting(bench, first, required, sparsifier, self._context.given.images)
        registration = registered_strategies()[self._context.config.strategy.name]
        return registration.strategy(bench, first, required)


def remaining_stages(run: RunDirectory) -> tuple[str, ...]:
    """Returns the stages that a run has not finished; the first stage is always repeated."""
    ended = {event.name for event in run.journal.events(events.StageEnded)} - {STAGES[0]}
    return tuple(name for name in STAGES if name not in ended)
