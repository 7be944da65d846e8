"""The tuner: MetaSchedule's search, without what makes the stock tuner slow.

A task's first round measures programs that are known or likely to be good (`first_programs`).
Later rounds are MetaSchedule's evolutionary search, with one cost model for all tasks. Every
lowering of every task gets its first round before any gets a second; then rounds go where most is
expected to be gained (`budgeting`), to the task's fastest lowering.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Iterable, Sequence

import tvm
from tvm.s_tir import Schedule
from tvm.s_tir import meta_schedule as ms

from cprune_tf.compiler import tvm_internals
from cprune_tf.compiler.tasks import Task
from cprune_tf.compiler.tuning.budgeting import (
    Budget,
    alternative_round_size,
    budgets_of,
    first_round_size,
    next_task,
    trials_per_round,
)
from cprune_tf.compiler.tuning.first_programs import FirstPrograms
from cprune_tf.compiler.tuning.measuring import Measured, ProgramMeasurer, any_succeeded
from cprune_tf.compiler.tuning.pricing import TaskPricer
from cprune_tf.compiler.tuning.search_space import evolution, search_context
from cprune_tf.compiler.tuning.warm_start import WarmStart
from cprune_tf.config import TuningConfig
from cprune_tf.errors import UserError

_LOGGER = logging.getLogger(__name__)
_SEARCH_THREADS = 2
_GENERATIONS = 3
# Of an earlier run's programs of a task, so many of the fastest teach the cost model.
_MAX_LEARNED = 128

Progress = Callable[[int, int, str], None]


class TuningError(UserError, RuntimeError):
    """Every program of a task failed; carries the first build or run message."""


@dataclasses.dataclass(frozen=True)
class TuningSummary:
    """What one call of the tuner did.

    Attributes:
        num_trials: Programs newly measured or failed.
        num_failed: Of these, how many failed.
    """

    num_trials: int
    num_failed: int


class Tuner:
    """Searches for fast programs and keeps all of them.

    Args:
        measurer: Builds and times programs; owns the database.
        config: Budgets.
        seed: Of the search.
        warm_start: Programs of earlier runs.
    """

    def __init__(
        self,
        measurer: ProgramMeasurer,
        config: TuningConfig,
        *,
        seed: int,
        warm_start: WarmStart | None = None,
    ) -> None:
        self._measurer = measurer
        self._database = measurer.database
        self._config = config
        self._first_programs = FirstPrograms(
            measurer, warm_start or WarmStart(None), config.programs_per_task, seed
        )
        self._pricer = TaskPricer(
            measurer,
            self._first_programs,
            programs_per_task=config.programs_per_task,
            seed=seed,
            fall_back=lambda task, size: self._first_round(task, (), size),
        )
        self._cost_model = ms.cost_model.XGBModel(num_tuning_cores=_SEARCH_THREADS)
        self._learned: set[int] = set()
        self._num_trials = 0
        self._num_failed = 0

    def tune(
        self, tasks: Sequence[Task], trials_per_task: int, progress: Progress | None = None
    ) -> TuningSummary:
        """Brings tasks to a number of measured programs; what was measured before counts.

        Args:
            tasks: What to tune.
            trials_per_task: Measured programs that each task ends with, unless it is negligible,
                stops gaining, or the configured time is over.
            progress: Called with (trials done, trials planned, what is running).

        Returns:
            How much was measured.

        Raises:
            TuningError: If every program of a task failed.
        """
        before = (self._num_trials, self._num_failed)
        deadline = time.monotonic() + (self._config.max_tuning_sec or float("inf"))
        round_size = min(
            trials_per_round(self._config.trials_per_round, self._measurer.num_build_workers),
            trials_per_task,
        )
        ordered = sorted(tasks, key=lambda task: -task.flops)
        budgets = budgets_of(ordered, self._database, trials_per_task, round_size)
        planned = sum(budget.missing for budget in budgets.values())

        def report(task: Task) -> None:
            done = planned - sum(max(0, budget.missing) for budget in budgets.values())
            _report(progress, done, planned, self._describe(task))

        for task in ordered:
            size = first_round_size(task, ordered, round_size)
            if spent := self._first_rounds(task, ordered, size):
                budgets[task.key].missing -= spent
                report(task)
        stop_within = self._config.stop_within
        while chosen := next_task(ordered, budgets, self._database, stop_within):
            if time.monotonic() > deadline:
                _LOGGER.info("The time for tuning is over; the best programs so far are kept.")
                break
            self._next_round(chosen, budgets[chosen.key], round_size)
            report(chosen)
        _report(progress, planned, planned, "done")
        return TuningSummary(self._num_trials - before[0], self._num_failed - before[1])

    def price_all(self, requests: Iterable[tuple[Task, Iterable[Task]]]) -> None:
        """Measures programs transferred to several tasks; see TaskPricer.price_all.

        Args:
            requests: Tasks and the tasks whose programs may fit.

        Raises:
            TuningError: If nothing transferred to a task and the fallback's trials all failed.
        """
        self._pricer.price_all(requests)

    def is_priced(self, task: Task, sources: Sequence[Task]) -> bool:
        """Whether `price_all` would measure nothing of a task.

        Args:
            task: A task, most often of a pruned shape.
            sources: The tasks whose programs may fit.
        """
        return not self._pricer.missing(task, sources)

    def _first_rounds(self, task: Task, others: Sequence[Task], size: int) -> int:
        """The first round of each lowering that has no program yet; the trials it took."""
        spent = 0
        for lowered in task.lowerings:
            if not self._database.programs(lowered.mod, 1):
                alike = [one for o in others if (one := o.in_lowering(lowered.lowering))]
                share = size if lowered is task else alternative_round_size(size)
                spent += self._first_round(lowered, alike, share)
        return spent

    def _first_round(self, task: Task, others: Sequence[Task], round_size: int) -> int:
        """A workload's first programs measured; how many they were."""
        schedules = self._first_programs.schedules(task, others, round_size)
        results = self._measure(task, schedules)
        if not any_succeeded(results):
            errors = [result.error for result in results if result.error] or ["no schedule found"]
            raise TuningError(
                f"All {len(results)} programs of task {task.name} ({', '.join(task.layers)}) "
                f"failed. The first says: {errors[0]}"
            )
        return len(schedules)

    def _next_round(self, task: Task, budget: Budget, round_size: int) -> None:
        """One round of evolution for a task's fastest lowering."""
        fastest = task.fastest(self._database)
        assert fastest is not None  # every task had its first round
        lowered, program = fastest
        trials = min(round_size, budget.missing)
        num_measured = self._evolve(lowered, trials)
        best = task.best_latency_ms(self._database) or program.latency_ms
        budget.spend(trials, 1 - best / program.latency_ms)
        # A search that finds nothing new has seen the whole space; a few trials that are left
        # are not worth another one.
        done = not num_measured or budget.missing <= round_size // 2
        if done or budget.stalls >= self._config.max_rounds_without_gain > 0:
            budget.missing = 0

    def _evolve(self, task: Task, num_trials: int) -> int:
        """Measures what a search finds that was not measured before; how many these were."""
        self._learn_known(task)
        target = self._measurer.target
        context = search_context(
            task.mod,
            target,
            evolution(self._config.population_size, _GENERATIONS, target),
            num_trials=num_trials,
            database=self._database,
            cost_model=self._cost_model,
            num_threads=_SEARCH_THREADS,
            seed=self._first_programs.task_seed(task),
        )
        candidates = context.generate_measure_candidates() or []
        known = {_identity(program.trace) for program in self._database.programs(task.mod)}
        fresh = [item.sch for item in candidates if _identity(item.sch.trace) not in known]
        self._measure(task, fresh)
        return len(fresh)

    def _measure(self, task: Task, schedules: Sequence[Schedule]) -> list[Measured]:
        if not schedules:
            return []
        results = self._measurer.measure(task.mod, schedules)
        self._num_trials += len(results)
        self._num_failed += sum(result.latency_ms is None for result in results)
        self._learn(task, schedules, results)
        return results

    def _learn(
        self, task: Task, schedules: Sequence[Schedule], results: Sequence[Measured]
    ) -> None:
        """Teaches the cost model, failures included."""
        context = tvm_internals.LightTuneContext(
            task.mod, self._measurer.target, None, num_threads=_SEARCH_THREADS, seed=1
        )
        candidates = [
            ms.MeasureCandidate(
                schedule, ms.arg_info.ArgInfo.from_entry_func(schedule.mod, remove_preproc=True)
            )
            for schedule in schedules
        ]
        outcomes = [
            ms.runner.RunnerResult(None, result.error)
            if result.latency_ms is None
            else ms.runner.RunnerResult([result.latency_ms / 1e3], None)
            for result in results
        ]
        self._cost_model.update(context, candidates, outcomes)
        self._learned.add(task.key)

    def _learn_known(self, task: Task) -> None:
        """Teaches the cost model what it never heard of: measured in an earlier run or as a price.

        An untrained one would steer the search nowhere.
        """
        if task.key in self._learned:
            return
        known = self._database.programs(task.mod, _MAX_LEARNED)
        results = [Measured(program.latency_ms, None) for program in known]
        self._learn(task, [program.schedule(task.mod) for program in known], results)

    def _describe(self, task: Task) -> str:
        fastest = task.fastest(self._database)
        if fastest is None:
            return task.name
        return f"{fastest[0].name}: {fastest[1].latency_ms * 1e3:.1f} us"


def _identity(trace: tvm.s_tir.schedule.Trace) -> str:
    """Equal for traces that make the same decisions over the same instructions."""
    decisions = [str(trace.decisions[inst]) for inst in trace.insts if inst in trace.decisions]
    return f"{len(trace.insts)}:{decisions}"


def _report(progress: Progress | None, done: int, planned: int, text: str) -> None:
    if progress is not None:
        progress(done, planned, text)
