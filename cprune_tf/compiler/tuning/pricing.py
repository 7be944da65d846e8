"""Prices of tasks at other shapes: programs transferred to them and measured, no search."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from tvm.s_tir import Schedule

from cprune_tf.compiler import tvm_internals
from cprune_tf.compiler.lowerings import DIRECT
from cprune_tf.compiler.tasks import Task
from cprune_tf.compiler.tuning.first_programs import FirstPrograms
from cprune_tf.compiler.tuning.measuring import Pending, ProgramMeasurer, any_succeeded

# A lowering that was so much slower than another is not tried at similar shapes.
_HOPELESS = 1.5
# Of the programs that price a task, how many come from seeds rather than from transfer.
_PRICING_SEEDS = 2


class TaskPricer:
    """Measures a few promising programs of tasks.

    Args:
        measurer: Builds and times programs; owns the database.
        first_programs: Where programs come from.
        programs_per_task: So many price one task.
        seed: Of what is drawn.
        fall_back: Called with a workload that nothing worked for and a number of programs: has to
            measure some, or raise.
    """

    def __init__(
        self,
        measurer: ProgramMeasurer,
        first_programs: FirstPrograms,
        *,
        programs_per_task: int,
        seed: int,
        fall_back: Callable[[Task, int], object],
    ) -> None:
        self._measurer = measurer
        self._database = measurer.database
        self._first_programs = first_programs
        self._programs_per_task = programs_per_task
        self._seed = seed
        self._fall_back = fall_back

    def price_all(self, requests: Iterable[tuple[Task, Iterable[Task]]]) -> None:
        """Measures programs transferred to several tasks; all are built before one is timed.

        Args:
            requests: Tasks, most often of pruned shapes, and the tasks whose programs may fit, most
                similar first. While they are iterated over, what was transferred before is being
                built.

        Raises:
            TuningError: If nothing transferred to a task and the fallback's trials all failed.
        """
        begun: list[tuple[Task, int, Pending]] = []
        # Tasks may share workloads: see tasks.Task.key.
        workloads: set[int] = set()
        for task, sources in requests:
            known = list(sources)
            for lowered, limit in self.missing(task, known):
                workload = tvm_internals.structural_hash(lowered.mod)
                if workload in workloads:
                    continue
                workloads.add(workload)
                own = [source.in_lowering(lowered.lowering) for source in known]
                schedules = self._schedules(lowered, [s for s in own if s is not None], limit)
                begun.append((lowered, limit, self._measurer.begin(lowered.mod, schedules)))
        measured = self._measurer.finish([pending for *_, pending in begun])
        for (lowered, limit, _), results in zip(begun, measured, strict=True):
            if not any_succeeded(results):
                self._fall_back(lowered, limit)

    def missing(self, task: Task, sources: Sequence[Task]) -> list[tuple[Task, int]]:
        """Those of a task's shares that nothing was measured of; none: the task is priced.

        A task whose direct workload is known may still have to be priced: the workload of a
        lowering that depends on weights is new with every change of these.

        Args:
            task: What is priced.
            sources: Tasks whose programs may fit, most similar first.

        Returns:
            See `shares`.
        """
        return [
            (lowered, limit)
            for lowered, limit in self.shares(task, sources)
            if not self._database.programs(lowered.mod, 1)
        ]

    def shares(self, task: Task, sources: Sequence[Task]) -> list[tuple[Task, int]]:
        """How many programs price each lowering: most for the one that won at a source's shape.

        One that lost there by far is not tried: channel counts change little between lowerings.

        Args:
            task: What is priced.
            sources: Tasks whose programs may fit, most similar first.

        Returns:
            Pairs (the task or an alternative of it, number of programs).
        """
        limit = self._programs_per_task
        if not task.alternatives:
            return [(task, limit)]
        measured = (self._best_by_lowering(source) for source in sources)
        best: dict[str, float] = next((latencies for latencies in measured if latencies), {})
        won = min(best, key=lambda name: best[name], default=DIRECT)
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

    def _schedules(self, task: Task, sources: Sequence[Task], limit: int) -> list[Schedule]:
        """Transferred programs of the first source that has any, and a few seeds."""
        count = max(1, min(_PRICING_SEEDS, limit // 3))
        seeds = self._first_programs.known_good(task, count, self._seed)
        for source in sources:
            room = max(1, limit - len(seeds))
            if moved := self._first_programs.transferred(source, task, room):
                return [*moved, *seeds]
        return []
