"""The tuner: MetaSchedule's search, without the parts that make TVM's own tuner slow.

- A task's first round measures programs that are known or likely to be good (`first_programs`).
- Later rounds are MetaSchedule's evolutionary search, with one cost model for all tasks.
- Every lowering of every task gets its first round before any task gets a second round.
- After that, each round goes to the task with the largest expected gain (`budgeting`), in the
  task's fastest lowering.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

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
from cprune_tf.compiler.tuning.measuring import (
    MeasureResult,
    Pending,
    ProgramMeasurer,
    any_succeeded,
)
from cprune_tf.compiler.tuning.pricing import TaskPricer
from cprune_tf.compiler.tuning.search_space import evolution, search_context
from cprune_tf.compiler.tuning.warm_start import WarmStart
from cprune_tf.config import TuningConfig
from cprune_tf.errors import UserError

_LOGGER = logging.getLogger(__name__)
_SEARCH_THREADS = 2
_GENERATIONS = 3
# How many of a task's fastest programs in the database train the cost model at first.
_MAX_LEARNED = 128

Progress = Callable[[int, int, str], None]


class TuningError(UserError, RuntimeError):
    """Every program of a task failed; the message says why the first one did."""


@dataclasses.dataclass(frozen=True)
class TuningSummary:
    """The work that one call of the tuner did.

    Attributes:
        num_trials: The number of programs that were built and timed, or failed.
        num_failed: The number of these programs that failed.
    """

    num_trials: int
    num_failed: int


@dataclasses.dataclass(frozen=True, eq=False)
class _Measured:
    """Programs that were measured together, for the cost model."""

    task: Task
    schedules: tuple[Schedule, ...]
    results: tuple[MeasureResult, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class _Round:
    """Programs that are being built, of one task in one lowering."""

    task: Task
    schedules: tuple[Schedule, ...]
    pending: Pending


class Tuner:
    """Searches for fast programs and stores all measured programs.

    Args:
        measurer: The measurer, which builds and times programs and has the database.
        config: The tuning configuration.
        seed: The random seed of the search.
        warm_start: Programs of earlier runs; None: no such programs.
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
            fall_back=self._first_round,
        )
        self._cost_model = ms.cost_model.XGBModel(num_tuning_cores=_SEARCH_THREADS)
        self._learned_tasks: set[int] = set()
        self._to_learn: list[_Measured] = []
        self._num_trials = 0
        self._num_failed = 0

    def tune(
        self, tasks: Sequence[Task], trials_per_task: int, progress: Progress | None = None
    ) -> TuningSummary:
        """Measures programs until every task has `trials_per_task` of them.

        Programs that were measured before count. A task ends with fewer programs if it is
        negligible, if it stops gaining, or if the configured time is over.

        Args:
            tasks: The tasks to tune.
            trials_per_task: The number of measured programs that each task ends with.
            progress: Called with (trials done, trials planned, description of the last task).

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

        for task, num_trials in self._first_rounds(ordered, round_size):
            budgets[task.key].missing -= num_trials
            report(task)
        stop_within = self._config.stop_within
        while task_to_tune := next_task(ordered, budgets, self._database, stop_within):
            if time.monotonic() > deadline:
                _LOGGER.info("The time for tuning is over; the best programs so far are kept.")
                break
            self._next_round(task_to_tune, budgets[task_to_tune.key], round_size)
            report(task_to_tune)
        _report(progress, planned, planned, "done")
        return TuningSummary(self._num_trials - before[0], self._num_failed - before[1])

    def price_all(self, requests: Iterable[tuple[Task, Iterable[Task]]]) -> None:
        """Transfers programs to several tasks and measures them; see TaskPricer.price_all.

        Args:
            requests: Pairs of a task and the tasks whose programs may fit, most similar first.

        Raises:
            TuningError: If no program could be transferred to a task and all programs of the
                fallback failed too.
        """
        self._pricer.price_all(requests)

    def is_priced(self, task: Task, sources: Sequence[Task]) -> bool:
        """Whether `price_all` would measure nothing for a task.

        Args:
            task: A task, most often of a pruned shape.
            sources: The tasks whose programs may fit, most similar first.
        """
        return not self._pricer.missing(task, sources)

    def _first_rounds(self, tasks: Sequence[Task], round_size: int) -> Iterator[tuple[Task, int]]:
        """Runs the first round of each lowering without programs.

        Yields:
            A task and the number of trials that it got, for each round.
        """
        begun: list[tuple[Task, _Round]] = []
        for task in tasks:
            size = first_round_size(task, tasks, round_size)
            for lowered in task.lowerings:
                is_begun = any(one.task.mod is lowered.mod for _, one in begun)
                if is_begun or self._database.programs(lowered.mod, 1):
                    continue
                similar_tasks = [
                    lowered_other
                    for other in tasks
                    if (lowered_other := other.in_lowering(lowered.lowering))
                ]
                own_size = size if lowered is task else alternative_round_size(size)
                begun.append((task, self._begin_round(lowered, similar_tasks, own_size)))
                # Rounds shorter than that would leave build processes idle.
                if sum(len(one.schedules) for _, one in begun) >= self._measurer.num_build_workers:
                    yield from self._finish_rounds(begun)
                    begun = []
        yield from self._finish_rounds(begun)

    def _first_round(self, task: Task, round_size: int) -> None:
        """Measures a workload's first programs, without similar tasks."""
        list(self._finish_rounds([(task, self._begin_round(task, (), round_size))]))

    def _begin_round(self, task: Task, others: Sequence[Task], round_size: int) -> _Round:
        """Starts to build a workload's first programs."""
        schedules = self._first_programs.schedules(task, others, round_size)
        return _Round(task, tuple(schedules), self._measurer.begin(task.mod, schedules))

    def _finish_rounds(self, begun: Sequence[tuple[Task, _Round]]) -> Iterator[tuple[Task, int]]:
        """Times the programs of first rounds; see `_first_rounds`."""
        all_results = self._measurer.finish([one.pending for _, one in begun])
        for (task, one), results in zip(begun, all_results, strict=True):
            self._keep(one.task, one.schedules, results)
            if not any_succeeded(results):
                errors = [result.error for result in results if result.error] or [
                    "no schedule was found"
                ]
                raise TuningError(
                    f"All {len(results)} programs of task {one.task.name} "
                    f"({', '.join(one.task.layers)}) failed. The first says: {errors[0]}"
                )
            yield task, len(one.schedules)

    def _next_round(self, task: Task, budget: Budget, round_size: int) -> None:
        """Runs one round of evolution for a task's fastest lowering."""
        fastest = task.fastest(self._database)
        assert fastest is not None  # because every task had its first round
        lowered, program = fastest
        trials = min(round_size, budget.missing)
        num_measured = self._evolve(lowered, trials)
        best = task.best_latency_ms(self._database) or program.latency_ms
        budget.spend(trials, 1 - best / program.latency_ms)
        # A search that finds nothing new has seen the whole space, and a few remaining trials are
        # not worth another search.
        is_done = not num_measured or budget.missing <= round_size // 2
        if is_done or budget.stalls >= self._config.max_rounds_without_gain > 0:
            budget.missing = 0

    def _evolve(self, task: Task, num_trials: int) -> int:
        """Searches for programs and measures the new ones; returns how many were new."""
        self._learn(task)
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
        measured = {_identity(program.trace) for program in self._database.programs(task.mod)}
        new_schedules = [
            candidate.sch
            for candidate in candidates
            if _identity(candidate.sch.trace) not in measured
        ]
        if new_schedules:
            self._keep(task, new_schedules, self._measurer.measure(task.mod, new_schedules))
        return len(new_schedules)

    def _keep(
        self, task: Task, schedules: Sequence[Schedule], results: Sequence[MeasureResult]
    ) -> None:
        """Counts results and keeps them for the cost model."""
        self._num_trials += len(results)
        self._num_failed += sum(result.latency_ms is None for result in results)
        if results:
            self._to_learn.append(_Measured(task, tuple(schedules), tuple(results)))

    def _learn(self, task: Task) -> None:
        """Trains the cost model with all results so far, including failures, before a search.

        A run that never searches never pays for it. If nothing of the task is known yet, its
        programs in the database are learnt too, since a model without training cannot steer the
        search; they come from an earlier run or from pricing.
        """
        for measured in self._to_learn:
            self._learn_results(measured)
        self._to_learn.clear()
        if task.key in self._learned_tasks:
            return
        programs = self._database.programs(task.mod, _MAX_LEARNED)
        results = tuple(MeasureResult(program.latency_ms, None) for program in programs)
        schedules = tuple(program.schedule(task.mod) for program in programs)
        self._learn_results(_Measured(task, schedules, results))

    def _learn_results(self, measured: _Measured) -> None:
        context = tvm_internals.LightTuneContext(
            measured.task.mod,
            self._measurer.target,
            None,
            num_threads=_SEARCH_THREADS,
            seed=1,
        )
        candidates = [
            ms.MeasureCandidate(
                schedule, ms.arg_info.ArgInfo.from_entry_func(schedule.mod, remove_preproc=True)
            )
            for schedule in measured.schedules
        ]
        outcomes = [
            ms.runner.RunnerResult(None, result.error)
            if result.latency_ms is None
            else ms.runner.RunnerResult([result.latency_ms / 1e3], None)
            for result in measured.results
        ]
        self._cost_model.update(context, candidates, outcomes)
        self._learned_tasks.add(measured.task.key)

    def _describe(self, task: Task) -> str:
        fastest = task.fastest(self._database)
        if fastest is None:
            return task.name
        return f"{fastest[0].name}: {fastest[1].latency_ms * 1e3:.1f} us"


def _identity(trace: tvm.s_tir.schedule.Trace) -> str:
    """A text that is equal for traces with the same decisions over the same instructions."""
    decisions = [str(trace.decisions[inst]) for inst in trace.insts if inst in trace.decisions]
    return f"{len(trace.insts)}:{decisions}"


def _report(progress: Progress | None, done: int, planned: int, text: str) -> None:
    if progress is not None:
        progress(done, planned, text)
