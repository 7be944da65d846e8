"""The tuner: MetaSchedule's search, without what makes the stock tuner slow.

A task's first round measures seeds (register tiles that suit the core), programs transferred from
similar tasks or earlier runs, and random ones: an evolution steered by an untrained cost model
costs most of a round's time and finds nothing. Later rounds are MetaSchedule's evolutionary search,
with one cost model for all tasks. Every lowering of every task gets its first round before any gets
a second; then rounds go where latency x weight x expected gain is largest, to the fastest lowering;
tasks that hardly matter or gain nothing more get none.
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
from cprune_tf.compiler.database import Program
from cprune_tf.compiler.tasks import Task
from cprune_tf.compiler.transfer import Transfer, distinct_programs
from cprune_tf.compiler.tuning.default_schedule import default_schedule
from cprune_tf.compiler.tuning.measuring import Measured, Pending, ProgramMeasurer
from cprune_tf.compiler.tuning.search_space import evolution, random_strategy, tune_context
from cprune_tf.compiler.tuning.seeding import seed_schedules
from cprune_tf.compiler.tuning.warm_start import WarmStart
from cprune_tf.config import TuningConfig
from cprune_tf.errors import UserError

_LOGGER = logging.getLogger(__name__)
# A task below this share of the total gets its first round only.
_NEGLIGIBLE_SHARE = 0.02
_SEARCH_THREADS = 2
_GENERATIONS = 3
_MIN_FIRST_ROUND = 4
# A round keeps every build process busy for a while; a longer one learns too late from its trials.
_TRIALS_PER_WORKER = 16
_MAX_TRIALS_PER_ROUND = 128
# Of an earlier run's programs of a task, so many of the fastest teach the cost model.
_MAX_LEARNED = 128
# A round that makes a task this much faster is worth another one.
_WORTHWHILE_GAIN = 0.01
# What a task's next round is expected to gain before one has shown it.
_EXPECTED_GAIN = 0.1
# A lowering that was so much slower than another is not tried at similar shapes.
_HOPELESS = 1.5
# Of the programs that price a task, how many come from seeds rather than from transfer.
_PRICING_SEEDS = 2

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


@dataclasses.dataclass
class _Budget:
    """What is left for one task in one call of `Tuner.tune`.

    Attributes:
        missing: Trials.
        expected_gain: Of its next round: how much faster, as a fraction.
        stalls: Rounds in a row that gained nothing worthwhile.
    """

    missing: int
    expected_gain: float = _EXPECTED_GAIN
    stalls: int = 0

    def spend(self, trials: int, gain: float) -> None:
        """Notes a round."""
        self.missing -= trials
        self.stalls = 0 if gain >= _WORTHWHILE_GAIN else self.stalls + 1
        self.expected_gain = max(gain, self.expected_gain / 2)


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
        self._warm_start = warm_start or WarmStart(None)
        self._measurer = measurer
        self._database = measurer.database
        self._config = config
        self._seed = seed
        self._transfer = Transfer(measurer.target)
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
        round_size = min(self._trials_per_round(), trials_per_task)
        ordered = sorted(tasks, key=lambda task: -task.flops)
        budgets = {}
        for task in ordered:
            trials = trials_per_task - self._num_programs(task)
            # A few trials are not worth a search: duplicates leave rounds a little short.
            budgets[task.key] = _Budget(trials if trials > round_size // 2 else 0)
        planned = sum(budget.missing for budget in budgets.values())

        def report(task: Task) -> None:
            done = planned - sum(max(0, budget.missing) for budget in budgets.values())
            _report(progress, done, planned, self._describe(task))

        for task in ordered:
            size = _first_size(task, ordered, round_size)
            if spent := self._first_rounds(task, ordered, size):
                budgets[task.key].missing -= spent
                report(task)
        while (chosen := self._next(ordered, budgets)) is not None:
            if time.monotonic() > deadline:
                _LOGGER.info("The time for tuning is over; the best programs so far are kept.")
                break
            self._next_round(chosen, budgets[chosen.key], round_size)
            report(chosen)
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
        self.price_all([(task, sources)])
        best = task.best_latency_ms(self._database)
        assert best is not None  # price_all raises where everything failed
        return best

    def price_all(self, requests: Iterable[tuple[Task, Iterable[Task]]]) -> None:
        """Measures programs transferred to several tasks; all are built before one is timed.

        Args:
            requests: Tasks and their sources; see `price`. While they are iterated over, what was
                transferred before is being built.

        Raises:
            TuningError: If nothing transferred to a task and the fallback's trials all failed.
        """
        begun: list[tuple[Task, int, Pending]] = []
        for task, sources in requests:
            known = list(sources)
            for lowered, limit in self._pricing_shares(task, known):
                if not self._database.programs(lowered.mod, 1):
                    own = [_same_lowering(source, lowered) for source in known]
                    schedules = self._pricing_schedules(lowered, own, limit)
                    begun.append((lowered, limit, self._measurer.begin(lowered.mod, schedules)))
        # Prices teach the cost model nothing: training it would take longer than they do.
        measured = self._measurer.finish([pending for *_, pending in begun])
        for (lowered, limit, _), results in zip(begun, measured, strict=True):
            self._count(results)
            if not _any_succeeded(results):
                self._first_round(lowered, (), limit)

    def _pricing_shares(self, task: Task, sources: Sequence[Task]) -> list[tuple[Task, int]]:
        """How many programs price each lowering: most for the one that won at a source's shape.

        One that lost there by far is not tried: channel counts change little between lowerings.
        """
        limit = self._config.programs_per_task
        if not task.alternatives:
            return [(task, limit)]
        best = next((found for s in sources if (found := self._best_by_lowering(s))), {})
        won = min(best, key=lambda name: best[name], default="direct")
        others = max(2, limit // 4)
        shares = []
        for lowered in task.lowerings:
            if lowered.lowering == won:
                shares.append((lowered, max(2, limit - others // 2)))
            elif best.get(lowered.lowering, 0.0) <= _HOPELESS * best.get(won, 1.0):
                shares.append((lowered, others))
        return shares

    def _best_by_lowering(self, task: Task) -> dict[str, float]:
        """The latency in ms of each lowering that was measured."""
        return {
            lowered.lowering: programs[0].latency_ms
            for lowered in task.lowerings
            if (programs := self._database.programs(lowered.mod, 1))
        }

    def _pricing_schedules(
        self, task: Task, sources: Sequence[Task | None], limit: int
    ) -> list[Schedule]:
        """Transferred programs of the first source that has any, and a few seeds."""
        seeds = self._known_good(task, max(1, min(_PRICING_SEEDS, limit // 3)), self._seed)
        for source in sources:
            room = max(1, limit - len(seeds))
            if source is not None and (moved := self._transferred(source, task, room)):
                return [*moved, *seeds]
        return []

    def _trials_per_round(self) -> int:
        if self._config.trials_per_round:
            return self._config.trials_per_round
        return min(_TRIALS_PER_WORKER * self._measurer.num_build_workers, _MAX_TRIALS_PER_ROUND)

    def _first_rounds(self, task: Task, others: Sequence[Task], size: int) -> int:
        """The first round of each lowering that has no program yet; the trials it took."""
        spent = 0
        for lowered in task.lowerings:
            if not self._database.programs(lowered.mod, 1):
                alike = [found for o in others if (found := _same_lowering(o, lowered))]
                share = size if lowered is task else max(_MIN_FIRST_ROUND, size // 2)
                spent += self._first_round(lowered, alike, share)
        return spent

    def _first_round(self, task: Task, others: Sequence[Task], round_size: int) -> int:
        """Seeds for half of the round, transferred programs for a quarter, the rest random."""
        schedules = self._known_good(task, (round_size + 1) // 2, self._task_seed(task))
        room = round_size // 4 if schedules else round_size // 2
        moved: list[Schedule] = []
        for other in sorted(others, key=lambda other: other.kind != task.kind):
            if other.key != task.key and len(moved) < room:
                moved += self._transferred(other, task, min(room - len(moved), 4))
        if len(moved) < room:
            limit = room - len(moved)
            nearest = self._warm_start.nearest(task.mod, limit)
            moved += [p.schedule for p in self._transfer.apply(nearest, task.mod, limit)]
        schedules += moved
        schedules += self._sample(task, round_size - len(schedules))
        results = self._measure(task, schedules)
        if not _any_succeeded(results):
            errors = [result.error for result in results if result.error] or ["no schedule found"]
            raise TuningError(
                f"All {len(results)} programs of task {task.name} ({', '.join(task.layers)}) "
                f"failed. The first says: {errors[0]}"
            )
        return len(schedules)

    def _known_good(self, task: Task, count: int, seed: int) -> list[Schedule]:
        """Seeds; for a task of a kind that has none, and on GPUs, what it runs as untuned.

        So nothing that is chosen here is slower than without tuning. Seeds are faster than that by
        far: where there are some, it is not measured.
        """
        seeds = seed_schedules(task.mod, self._measurer.target, count, seed)
        if seeds:
            return seeds
        default = default_schedule(task.mod, self._measurer.target)
        return [] if default is None else [default]

    def _next_round(self, task: Task, budget: _Budget, round_size: int) -> None:
        """One round of evolution for a task's fastest lowering."""
        fastest = task.fastest(self._database)
        assert fastest is not None  # every task had its first round
        lowered, program = fastest
        trials = min(round_size, budget.missing)
        found = self._evolve(lowered, trials)
        best = task.best_latency_ms(self._database) or program.latency_ms
        budget.spend(trials, 1 - best / program.latency_ms)
        # A search that finds nothing new has seen the whole space; a few trials that are left
        # are not worth another one.
        done = not found or budget.missing <= round_size // 2
        if done or budget.stalls >= self._config.max_rounds_without_gain > 0:
            budget.missing = 0

    def _evolve(self, task: Task, num_trials: int) -> int:
        self._learn_known(task)
        context = self._context(
            task,
            evolution(self._config.population_size, _GENERATIONS, self._measurer.target),
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
        """Random programs."""
        if count <= 0:
            return []
        strategy = random_strategy(count, self._measurer.target)
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
        context = tune_context(
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
        self._count(results)
        self._learn(task, schedules, results)
        return results

    def _count(self, results: Sequence[Measured]) -> None:
        self._num_trials += len(results)
        self._num_failed += sum(result.latency_ms is None for result in results)

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

    def _next(self, tasks: Sequence[Task], budgets: dict[int, _Budget]) -> Task | None:
        """The unfinished task that most time can be expected to be gained from, if any matters."""
        totals = {task.key: self._total_ms(task) for task in tasks}
        whole = sum(totals.values())
        open_tasks = [
            task
            for task in tasks
            if budgets[task.key].missing > 0 and totals[task.key] >= _NEGLIGIBLE_SHARE * whole
        ]

        gains = {t.key: totals[t.key] * budgets[t.key].expected_gain for t in open_tasks}
        if sum(gains.values()) < self._config.stop_within * whole:
            _LOGGER.info(
                "Tuning ends: further rounds are expected to gain less than %g %%.",
                100 * self._config.stop_within,
            )
            return None
        return max(open_tasks, key=lambda task: gains[task.key], default=None)

    def _num_programs(self, task: Task) -> int:
        return sum(len(self._database.programs(lowered.mod)) for lowered in task.lowerings)

    def _total_ms(self, task: Task) -> float:
        return (task.best_latency_ms(self._database) or 0.0) * task.weight

    def _describe(self, task: Task) -> str:
        fastest = task.fastest(self._database)
        if fastest is None:
            return task.name
        return f"{fastest[0].name}: {fastest[1].latency_ms * 1e3:.1f} us"


def _same_lowering(source: Task, task: Task) -> Task | None:
    """The lowering of one task that is of the same kind as another's."""
    return next((found for found in source.lowerings if found.lowering == task.lowering), None)


def _any_succeeded(results: Sequence[Measured]) -> bool:
    return any(result.latency_ms is not None for result in results)


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
