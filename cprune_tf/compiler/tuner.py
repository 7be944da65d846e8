"""The tuner: MetaSchedule's search, without what makes the stock tuner slow.

A task's first round measures programs transferred from similar tasks (and the shape's own
neighbours) beside random ones: an evolution steered by an untrained cost model costs most of a
round's time and finds nothing. Later rounds are MetaSchedule's evolutionary search, with one cost
model for all tasks. Every task gets its first round before any gets a second; then rounds go where
latency x weight is largest, and tasks that hardly matter get none.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Sequence

import tvm
from tvm.s_tir import Schedule
from tvm.s_tir import meta_schedule as ms

from cprune_tf.compiler import tvm_internals
from cprune_tf.compiler.database import Program
from cprune_tf.compiler.measuring import Measured, ProgramMeasurer
from cprune_tf.compiler.tasks import Task
from cprune_tf.compiler.transfer import Transfer, distinct_programs
from cprune_tf.config import TuningConfig

_LOGGER = logging.getLogger(__name__)
# A task below this share of the total gets its first round only.
_NEGLIGIBLE_SHARE = 0.02
_SEARCH_THREADS = 2
_GENERATIONS = 3
_MIN_FIRST_ROUND = 4

Progress = Callable[[int, int, str], None]


class TuningError(RuntimeError):
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
    """

    def __init__(self, measurer: ProgramMeasurer, config: TuningConfig, *, seed: int) -> None:
        self._measurer = measurer
        self._database = measurer.database
        self._config = config
        self._seed = seed
        self._transfer = Transfer(measurer.target)
        self._cost_model = ms.cost_model.XGBModel(num_tuning_cores=_SEARCH_THREADS)
        self._num_trials = 0
        self._num_failed = 0

    def tune(
        self, tasks: Sequence[Task], trials_per_task: int, progress: Progress | None = None
    ) -> TuningSummary:
        """Brings tasks to a number of measured programs; what was measured before counts.

        Args:
            tasks: What to tune.
            trials_per_task: Measured programs that each task ends with, unless it is negligible.
            progress: Called with (trials done, trials planned, what is running).

        Returns:
            How much was measured.

        Raises:
            TuningError: If every program of a task failed.
        """
        before = (self._num_trials, self._num_failed)
        round_size = min(self._config.trials_per_round, trials_per_task)
        ordered = sorted(tasks, key=lambda task: -task.flops)
        missing = {}
        for task in ordered:
            trials = trials_per_task - len(self._database.programs(task.mod))
            # A few trials are not worth a search: duplicates leave rounds a little short.
            missing[task.key] = trials if trials > round_size // 2 else 0
        planned, done = sum(missing.values()), 0
        for task in ordered:
            if not self._database.programs(task.mod, 1):
                spent = self._first_round(task, ordered, _first_size(task, ordered, round_size))
                done += missing[task.key] - max(0, missing[task.key] - spent)
                missing[task.key] -= spent
                _report(progress, done, planned, self._describe(task))
        while (chosen := self._next(ordered, missing)) is not None:
            round_trials = min(round_size, missing[chosen.key])
            found = self._evolve(chosen, round_trials)
            left = missing[chosen.key] - round_trials
            # A search that finds nothing new has seen the whole space; a few trials that are left
            # are not worth another one.
            spent = missing[chosen.key] if not found or left <= round_size // 2 else round_trials
            done += spent
            missing[chosen.key] -= spent
            _report(progress, done, planned, self._describe(chosen))
        _report(progress, planned, planned, "done")
        return TuningSummary(self._num_trials - before[0], self._num_failed - before[1])

    def price(self, task: Task, sources: Iterable[Task]) -> float:
        """The latency of a task, from programs transferred to its shape; no search.

        Args:
            task: A workload, most often of a pruned shape.
            sources: Tasks whose programs may fit, most similar first.

        Returns:
            The best measured latency in milliseconds.

        Raises:
            TuningError: If nothing transferred and the fallback's trials all failed.
        """
        known = self._database.best_latency_ms(task.mod)
        if known is not None:
            return known
        limit = self._config.programs_per_task
        for source in sources:
            schedules = self._transferred(source, task, limit)
            if any(r.latency_ms is not None for r in self._measure(task, schedules)):
                break
        else:
            self._first_round(task, (), limit)
        best = self._database.best_latency_ms(task.mod)
        assert best is not None  # _first_round raises where everything failed
        return best

    def _first_round(self, task: Task, others: Sequence[Task], round_size: int) -> int:
        """Transferred programs for half the round, random ones for the rest."""
        schedules: list[Schedule] = []
        for other in sorted(others, key=lambda other: other.kind != task.kind):
            if other.key != task.key and len(schedules) < round_size // 2:
                room = round_size // 2 - len(schedules)
                schedules += self._transferred(other, task, min(room, 4))
        schedules += self._sample(task, round_size - len(schedules))
        results = self._measure(task, schedules)
        if not any(result.latency_ms is not None for result in results):
            errors = [result.error for result in results if result.error] or ["no schedule found"]
            raise TuningError(
                f"All {len(results)} programs of task {task.name} ({', '.join(task.layers)}) "
                f"failed. The first says: {errors[0]}"
            )
        return len(schedules)

    def _evolve(self, task: Task, num_trials: int) -> int:
        context = self._context(
            task,
            ms.search_strategy.EvolutionarySearch(
                population_size=self._config.population_size, genetic_num_iters=_GENERATIONS
            ),
            num_trials,
            self._cost_model,
            _SEARCH_THREADS,
        )
        candidates = context.generate_measure_candidates() or []
        known = {_identity(program.trace) for program in self._database.programs(task.mod)}
        fresh = [item.sch for item in candidates if _identity(item.sch.trace) not in known]
        self._measure(task, fresh)
        return len(fresh)

    def _sample(self, task: Task, count: int) -> list[Schedule]:
        """Random programs: a population of just the size wanted and no evolution."""
        if count <= 0:
            return []
        strategy = ms.search_strategy.EvolutionarySearch(
            population_size=count, init_min_unmeasured=1, genetic_num_iters=0
        )
        # One thread and a model of its own: which of several threads draws next is chance, and the
        # untrained XGBModel answers from numpy's global state.
        model = ms.cost_model.RandomModel(seed=self._task_seed(task))
        context = self._context(task, strategy, count, model, num_threads=1)
        return [candidate.sch for candidate in context.generate_measure_candidates() or []]

    def _task_seed(self, task: Task) -> int:
        return 1 + (self._seed * 7919 + task.key + len(self._database)) % (2**31 - 2)

    def _context(
        self,
        task: Task,
        strategy: ms.search_strategy.SearchStrategy,
        num_trials: int,
        cost_model: ms.cost_model.CostModel,
        num_threads: int,
    ) -> tvm_internals.LightTuneContext:
        context = tvm_internals.LightTuneContext(
            task.mod,
            self._measurer.target,
            strategy,
            num_threads=num_threads,
            seed=self._task_seed(task),
        )
        context.pre_tuning(
            num_trials,
            num_trials,
            context.generate_design_space(),
            self._database.native,
            cost_model,
        )
        return context

    def _transferred(self, source: Task, task: Task, limit: int) -> list[Schedule]:
        programs = self._distinct(source)
        moved = self._transfer.apply(programs, task.mod, limit)
        return [program.schedule for program in moved]

    def _distinct(self, task: Task) -> tuple[Program, ...]:
        return distinct_programs(self._database.programs(task.mod), self._config.programs_per_task)

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

    def _next(self, tasks: Sequence[Task], missing: dict[int, int]) -> Task | None:
        """The unfinished task with the largest share of the total, if any matters."""
        totals = {task.key: self._total_ms(task) for task in tasks}
        whole = sum(totals.values())
        open_tasks = [
            task
            for task in tasks
            if missing[task.key] > 0 and totals[task.key] >= _NEGLIGIBLE_SHARE * whole
        ]
        return max(open_tasks, key=lambda task: totals[task.key], default=None)

    def _total_ms(self, task: Task) -> float:
        return (self._database.best_latency_ms(task.mod) or 0.0) * task.weight

    def _describe(self, task: Task) -> str:
        best = self._database.best_latency_ms(task.mod)
        return f"{task.name}: {best * 1e3:.1f} us" if best is not None else task.name


def _first_size(task: Task, tasks: Sequence[Task], round_size: int) -> int:
    """Programs in a task's first round: few where its operations hardly count."""
    whole = sum(other.flops * other.weight for other in tasks)
    matters = task.flops * task.weight >= _NEGLIGIBLE_SHARE * whole
    return round_size if matters else max(_MIN_FIRST_ROUND, round_size // 4)


def _identity(trace: tvm.s_tir.schedule.Trace) -> str:
    """Equal for traces that make the same decisions over the same instructions."""
    decisions = [str(trace.decisions[inst]) for inst in trace.insts if inst in trace.decisions]
    return f"{len(trace.insts)}:{decisions}"


def _report(progress: Progress | None, done: int, planned: int, text: str) -> None:
    if progress is not None:
        progress(done, planned, text)
