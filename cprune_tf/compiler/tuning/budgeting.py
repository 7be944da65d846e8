"""Decides how many trials a task gets, and which task gets the next round."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence

from cprune_tf.compiler.database import ProgramDatabase
from cprune_tf.compiler.tasks import Task

_LOGGER = logging.getLogger(__name__)
# A task below this share of the total gets only its first round.
_NEGLIGIBLE_SHARE = 0.02
_MIN_FIRST_ROUND = 4
# A round should keep every build process busy. In a longer round, the search would learn too late
# from its trials.
_TRIALS_PER_WORKER = 16
_MAX_TRIALS_PER_ROUND = 128
# A round that makes a task this much faster is worth another one.
_WORTHWHILE_GAIN = 0.01
# The expected gain of a task's next round, as long as no round has shown one.
_EXPECTED_GAIN = 0.1


@dataclasses.dataclass
class Budget:
    """The remaining budget of one task in one call of `Tuner.tune`.

    Attributes:
        missing: The number of trials that the task still gets.
        expected_gain: How much faster the next round is expected to make the task, as a fraction.
        stalls: The number of rounds in a row that gained nothing worthwhile.
    """

    missing: int
    expected_gain: float = _EXPECTED_GAIN
    stalls: int = 0

    def spend(self, trials: int, gain: float) -> None:
        """Records a round.

        Args:
            trials: The number of trials of the round.
            gain: How much faster the round made the task, as a fraction.
        """
        self.missing -= trials
        self.stalls = 0 if gain >= _WORTHWHILE_GAIN else self.stalls + 1
        self.expected_gain = max(gain, self.expected_gain / 2)


def budgets_of(
    tasks: Sequence[Task], database: ProgramDatabase, trials_per_task: int, round_size: int
) -> dict[int, Budget]:
    """Computes how many trials each task still needs; programs measured before count.

    Args:
        tasks: The tasks of one model.
        database: The database of measured programs.
        trials_per_task: The number of measured programs, over all lowerings, that each task should
            end with.
        round_size: The number of trials in a round.

    Returns:
        The budgets by Task.key.
    """
    budgets = {}
    for task in tasks:
        measured = sum(len(database.programs(lowered.mod)) for lowered in task.lowerings)
        trials = trials_per_task - measured
        # Duplicates leave rounds a few trials short. So few are not worth a search.
        budgets[task.key] = Budget(trials if trials > round_size // 2 else 0)
    return budgets


def trials_per_round(configured: int, num_build_workers: int) -> int:
    """How many programs one round measures.

    Args:
        configured: TuningConfig.trials_per_round; 0: a number that suits the build processes.
        num_build_workers: The number of build processes.
    """
    return configured or min(_TRIALS_PER_WORKER * num_build_workers, _MAX_TRIALS_PER_ROUND)


def first_round_size(task: Task, tasks: Sequence[Task], round_size: int) -> int:
    """The number of programs in the first round of a task's direct lowering.

    A task with a negligible share of the FLOPs gets few.

    Args:
        task: One of `tasks`.
        tasks: All tasks that are tuned.
        round_size: The number of trials in a round.
    """
    whole = sum(other.flops * other.weight for other in tasks)
    matters = task.flops * task.weight >= _NEGLIGIBLE_SHARE * whole
    return round_size if matters else min(round_size, max(_MIN_FIRST_ROUND, round_size // 4))


def alternative_round_size(direct_size: int) -> int:
    """The number of programs in the first round of each of a task's other lowerings.

    Args:
        direct_size: The size of the direct lowering's first round, from `first_round_size`.
    """
    return min(direct_size, max(_MIN_FIRST_ROUND, direct_size // 2))


def next_task(
    tasks: Sequence[Task],
    budgets: Mapping[int, Budget],
    database: ProgramDatabase,
    stop_within: float,
) -> Task | None:
    """Chooses the unfinished task whose next round is expected to save the most time.

    Args:
        tasks: All tasks that are tuned.
        budgets: The tasks' remaining budgets by Task.key, from `budgets_of`.
        database: The database of measured programs.
        stop_within: Tuning ends if the next rounds of all tasks together are expected to gain less
            than this fraction of the model's latency.

    Returns:
        The task; None if tuning ends or no task that matters has trials left.
    """
    totals = {task.key: (task.best_latency_ms(database) or 0.0) * task.weight for task in tasks}
    whole = sum(totals.values())
    unfinished = [
        task
        for task in tasks
        if budgets[task.key].missing > 0 and totals[task.key] >= _NEGLIGIBLE_SHARE * whole
    ]
    gains = {task.key: totals[task.key] * budgets[task.key].expected_gain for task in unfinished}
    if sum(gains.values()) < stop_within * whole:
        _LOGGER.info(
            "Tuning ends: the next rounds are expected to gain less than %g %% of the latency.",
            100 * stop_within,
        )
        return None
    return max(unfinished, key=lambda task: gains[task.key], default=None)
