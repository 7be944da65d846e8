"""Prices tasks at other shapes: transfers programs to them and times these, without any search."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from tvm.s_tir import Schedule

from cprune_tf.compiler import tvm_internals
from cprune_tf.compiler.lowerings import DIRECT
from cprune_tf.compiler.tasks import Task
from cprune_tf.compiler.tuning.first_programs import FirstPrograms
from cprune_tf.compiler.tuning.measuring import Pending, ProgramMeasurer, any_succeeded

# A lowering that was more than this many times slower than the fastest is not tried at similar
# shapes.
_HOPELESS = 1.5
# How many of the programs that price a task are seeds; the others are transferred.
_PRICING_SEEDS = 2


class TaskPricer:
    """Measures a few promising programs of tasks.

    Args:
        measurer: The measurer, which builds and times programs and has the database.
        first_programs: The source of seeds and transferred programs.
        programs_per_task: The number of programs that price one task.
        seed: The random seed.
        fall_back: Called with a workload for which no program worked, and a number of programs. It
            has to measure that many, or raise.
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
        """Transfers programs to several tasks and measures them.

        Args:
            requests: Pairs of a task, most often of a pruned shape, and the tasks whose programs
                may fit, most similar first. The requests are iterated over while programs for
                earlier ones are being built. Timing begins after the last request.

        Raises:
            TuningError: If no program could be transferred to a task and all programs of the
                fallback failed too.
        """
        pending: list[tuple[Task, int, Pending]] = []
        # Several tasks may share a workload, as tasks.Task.key explains.
        workloads: set[int] = set()
        for task, sources in requests:
            source_tasks = list(sources)
            for lowered, limit in self.missing(task, source_tasks):
                workload = tvm_internals.structural_hash(lowered.mod)
                if workload in workloads:
                    continue
                workloads.add(workload)
                lowered_sources = [
                    lowered_source
                    for source in source_tasks
                    if (lowered_source := source.in_lowering(lowered.lowering)) is not None
                ]
                schedules = self._schedules(lowered, lowered_sources, limit)
                pending.append((lowered, limit, self._measurer.begin(lowered.mod, schedules)))
        all_results = self._measurer.finish([builds for *_, builds in pending])
        for (lowered, limit, _), results in zip(pending, all_results, strict=True):
            if not any_succeeded(results):
                self._fall_back(lowered, limit)

    def missing(self, task: Task, sources: Sequence[Task]) -> list[tuple[Task, int]]:
        """Lists those of a task's shares for which no program was measured.

        The direct workload may be measured while another is not: a lowering whose code depends on
        weights has a new workload whenever the weights change.

        Args:
            task: The task to price.
            sources: Tasks whose programs may fit, most similar first.

        Returns:
            Pairs as in `shares`; empty if the task is priced.
        """
        return [
            (lowered, limit)
            for lowered, limit in self.shares(task, sources)
            if not self._database.programs(lowered.mod, 1)
        ]

    def shares(self, task: Task, sources: Sequence[Task]) -> list[tuple[Task, int]]:
        """Decides how many programs price each lowering of a task.

        The lowering that was fastest at a source's shape gets most of them. A lowering that was
        much slower there gets none, since the comparison changes little with channel counts.

        Args:
            task: The task to price.
            sources: Tasks whose programs may fit, most similar first.

        Returns:
            Pairs of the task or one of its alternatives, and a number of programs.
        """
        limit = self._programs_per_task
        if not task.alternatives:
            return [(task, limit)]
        source_latencies = (self._best_by_lowering(source) for source in sources)
        best: dict[str, float] = next(
            (latencies for latencies in source_latencies if latencies), {}
        )
        fastest = min(best, key=lambda name: best[name], default=DIRECT)
        smaller_share = max(2, limit // 4)
        shares = []
        for lowered in task.lowerings:
            if lowered.lowering == fastest:
                shares.append((lowered, max(2, limit - smaller_share // 2)))
            elif best.get(lowered.lowering, 0.0) <= _HOPELESS * best.get(fastest, 1.0):
                shares.append((lowered, smaller_share))
        return shares

    def _best_by_lowering(self, task: Task) -> dict[str, float]:
        """The best latency in ms of each lowering that was measured, by the lowering's name."""
        return {
            lowered.lowering: programs[0].latency_ms
            for lowered in task.lowerings
            if (programs := self._database.programs(lowered.mod, 1))
        }

    def _schedules(self, task: Task, sources: Sequence[Task], limit: int) -> list[Schedule]:
        """The programs of the first source that can be transferred, and a few seeds.

        Empty if no source has a program that fits, so that the fallback is used.
        """
        count = max(1, min(_PRICING_SEEDS, limit // 3))
        seeds = self._first_programs.known_good(task, count, self._seed)
        for source in sources:
            room = max(1, limit - len(seeds))
            if transferred := self._first_programs.transferred(source, task, room):
                return [*transferred, *seeds]
        return []
