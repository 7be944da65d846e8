"""The first programs of a workload: seeds, transferred ones, random ones, its default schedule.

An evolution steered by an untrained cost model costs most of a round's time and finds nothing, so a
workload's first round has none.
"""

from __future__ import annotations

from collections.abc import Sequence

from tvm.s_tir import Schedule
from tvm.s_tir import meta_schedule as ms

from cprune_tf.compiler.tasks import Task
from cprune_tf.compiler.transfer import Transfer, distinct_programs
from cprune_tf.compiler.tuning.default_schedule import default_schedule
from cprune_tf.compiler.tuning.measuring import ProgramMeasurer
from cprune_tf.compiler.tuning.search_space import random_strategy, search_context
from cprune_tf.compiler.tuning.seeding import seed_schedules
from cprune_tf.compiler.tuning.warm_start import WarmStart

# One similar task gives at most so many programs.
_PROGRAMS_PER_SOURCE = 4


class FirstPrograms:
    """Schedules of workloads that nothing was measured of.

    Args:
        measurer: Knows the target and the database.
        warm_start: Programs of earlier runs.
        programs_per_task: So many of a task's programs that differ in inner tiling are transferred.
        seed: Of what is drawn.
    """

    def __init__(
        self, measurer: ProgramMeasurer, warm_start: WarmStart, programs_per_task: int, seed: int
    ) -> None:
        self._target = measurer.target
        self._database = measurer.database
        self._warm_start = warm_start
        self._programs_per_task = programs_per_task
        self._seed = seed
        self._transfer = Transfer(measurer.target)

    def schedules(self, task: Task, others: Sequence[Task], round_size: int) -> list[Schedule]:
        """Seeds for half of a first round, transferred programs for a quarter, the rest random.

        Args:
            task: A workload, of any lowering.
            others: Workloads of the same lowering whose programs may fit.
            round_size: How many schedules are wanted.

        Returns:
            At most that many.
        """
        schedules = self.known_good(task, (round_size + 1) // 2, self.task_seed(task))
        room = round_size // 4 if schedules else round_size // 2
        moved: list[Schedule] = []
        for other in sorted(others, key=lambda other: other.kind != task.kind):
            if other.key != task.key and len(moved) < room:
                limit = min(room - len(moved), _PROGRAMS_PER_SOURCE)
                moved += self.transferred(other, task, limit)
        if len(moved) < room:
            limit = room - len(moved)
            nearest = self._warm_start.nearest(task.mod, limit)
            moved += [p.schedule for p in self._transfer.apply(nearest, task.mod, limit)]
        schedules += moved
        schedules += self.sample(task, round_size - len(schedules))
        return schedules

    def known_good(self, task: Task, count: int, seed: int) -> list[Schedule]:
        """Seeds; for a task of a kind that has none, and on GPUs, what it runs as untuned.

        So nothing that is chosen here is slower than without tuning. Seeds are faster than that by
        far: where there are some, it is not measured.

        Args:
            task: A workload.
            count: At most so many.
            seed: Of what is drawn.
        """
        seeds = seed_schedules(task.mod, self._target, count, seed)
        if seeds:
            return seeds
        default = default_schedule(task.mod, self._target)
        return [] if default is None else [default]

    def transferred(self, source: Task, task: Task, limit: int) -> list[Schedule]:
        """A measured workload's programs on another workload.

        Args:
            source: Where the programs are from.
            task: What they are transferred to.
            limit: At most so many.
        """
        measured = self._database.programs(source.mod)
        programs = distinct_programs(measured, self._programs_per_task)
        return [moved.schedule for moved in self._transfer.apply(programs, task.mod, limit)]

    def sample(self, task: Task, count: int) -> list[Schedule]:
        """Random programs.

        Args:
            task: A workload.
            count: At most so many.
        """
        if count <= 0:
            return []
        seed = self.task_seed(task)
        # One thread and a model of its own: which of several threads draws next is chance, and the
        # untrained XGBModel answers from numpy's global state.
        context = search_context(
            task.mod,
            self._target,
            random_strategy(count, self._target),
            num_trials=count,
            database=self._database,
            cost_model=ms.cost_model.RandomModel(seed=seed),
            num_threads=1,
            seed=seed,
        )
        return [candidate.sch for candidate in context.generate_measure_candidates() or []]

    def task_seed(self, task: Task) -> int:
        """A seed for one search: other for other tasks and for what was measured since.

        Args:
            task: A workload.
        """
        return 1 + (self._seed * 7919 + task.key + len(self._database)) % (2**31 - 2)
