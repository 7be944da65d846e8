"""The first programs of a workload: seeds, transferred and random programs, the default schedule.

A workload's first round has no evolution: with an untrained cost model, evolution takes most of a
round's time and finds nothing.
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

# The largest number of programs that are transferred from one similar task.
_PROGRAMS_PER_SOURCE = 4


class FirstPrograms:
    """Makes schedules for workloads that have no measured program.

    Args:
        measurer: The measurer, which has the target and the database.
        warm_start: Programs of earlier runs.
        programs_per_task: How many of a task's programs are transferred; they differ in inner
            tiling.
        seed: The random seed.
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
        """Makes the schedules of a first round.

        Half of them are seeds, a quarter are transferred programs, and the rest are random. If a
        workload has neither seeds nor a default schedule, half of them are transferred.

        Args:
            task: A workload, in any lowering.
            others: Workloads in the same lowering whose programs may fit.
            round_size: The number of schedules in the round.

        Returns:
            At most `round_size` schedules.
        """
        schedules = self.known_good(task, (round_size + 1) // 2, self.task_seed(task))
        room = round_size // 4 if schedules else round_size // 2
        transferred: list[Schedule] = []
        for other in sorted(others, key=lambda other: other.kind != task.kind):
            if other.key != task.key and len(transferred) < room:
                limit = min(room - len(transferred), _PROGRAMS_PER_SOURCE)
                transferred += self.transferred(other, task, limit)
        if len(transferred) < room:
            limit = room - len(transferred)
            nearest = self._warm_start.nearest(task.mod, limit)
            programs = self._transfer.apply(nearest, task.mod, limit)
            transferred += [program.schedule for program in programs]
        schedules += transferred
        schedules += self.sample(task, round_size - len(schedules))
        return schedules

    def known_good(self, task: Task, count: int, seed: int) -> list[Schedule]:
        """Makes a workload's seeds, or its default schedule if it has no seeds (as on GPUs).

        With the default schedule among the measured programs, the chosen program is never slower
        than without tuning. Seeds are faster by far, so beside them it is not measured.

        Args:
            task: A workload.
            count: The largest number of schedules.
            seed: The random seed.
        """
        seeds = seed_schedules(task.mod, self._target, count, seed)
        if seeds:
            return seeds
        default = default_schedule(task.mod, self._target)
        return [] if default is None else [default]

    def transferred(self, source: Task, task: Task, limit: int) -> list[Schedule]:
        """Transfers a measured workload's programs to another workload.

        Args:
            source: The workload that the programs come from.
            task: The workload that they are transferred to.
            limit: The largest number of schedules.
        """
        source_programs = distinct_programs(
            self._database.programs(source.mod), self._programs_per_task
        )
        programs = self._transfer.apply(source_programs, task.mod, limit)
        return [program.schedule for program in programs]

    def sample(self, task: Task, count: int) -> list[Schedule]:
        """Draws random programs.

        Args:
            task: A workload.
            count: The largest number of schedules.
        """
        if count <= 0:
            return []
        seed = self.task_seed(task)
        # One thread and a seeded cost model make the result reproducible. Several threads would
        # draw in random order, and an untrained XGBModel predicts from numpy's global random state.
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
        """The random seed of one search, which depends on the task and the database's size.

        Args:
            task: A workload.
        """
        return 1 + (self._seed * 7919 + task.key + len(self._database)) % (2**31 - 2)
