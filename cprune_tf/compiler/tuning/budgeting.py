"""How many trials a task gets, and which task gets the next round."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence

from cprune_tf.compiler.database import ProgramDatabase
from cprune_tf.compiler.tasks import Task

_LOGGER = logging.getLogger(__name__)
# A task below this share of the total gets its first round only.
_NEGLIGIBLE_SHARE = 0.02
_MIN_FIRST_ROUND = 4
# A round keeps every build process busy for a while; a longer one learns too late from its trials.
_TRIALS_PER_WORKER = 16
_MAX_TRIALS_PER_ROUND = 128
# A round that makes a task this much faster is worth another one.
_WORTHWHILE_GAIN = 0.01
# What a task's next round is expected to gain before one has shown it.
_EXPECTED_GAIN = 0.1


@dataclasses.dataclass
class Budget:
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
        """Notes a round.

        Args:
            trials: What it took.
            gain: How much faster the task became, as a fraction.
        """
        self.missing -= trials
        self.stalls = 0 if gain >= _WORTHWHILE_GAIN else self.stalls + 1
        self.expected_gain = max(gain, self.expected_gain / 2)


def budgets_of(
    tasks: Sequence[Task], database: ProgramDatabase, trials_per_task: int, round_size: int
) -> dict[int, Budget]:
    """What every task lacks; what was measured before counts.

    Args:
        tasks: Tasks of one model.
        database: Knows what was measured.
        trials_per_task: Measured programs that each task should end with, of all its lowerings.
        round_size: Trials in a round.

    Returns:
        The budgets by Task.key.
    """
    budgets = {}
    for task in tasks:
        measured = sum(len(database.programs(lowered.mod)) for lowered in task.lowerings)
        trials = trials_per_task - measured
        # A few trials are not worth a search: duplicates leave rounds a little short.
        budgets[task.key] = Budget(trials if trials > round_size // 2 else 0)
    return budgets


def trials_per_round(configured: int, num_build_workers: int) -> int:
    """How many programs one round measures.

    Args:
        configured: TuningConfig.trials_per_round; 0: as many as suits the build processes.
        num_build_workers: The build processes.
    """
    return configured or min(_TRIALS_PER_WORKER * num_build_workers, _MAX_TRIALS_PER_ROUND)


def first_round_size(task: Task, tasks: Sequence[Task], round_size: int) -> int:
    """Programs in the first round of a task's direct lowering: few where it hardly computes.

    Args:
        task: One of `tasks`.
        tasks: All tasks that are tuned.
        round_size: Trials in a round.
    """
    whole = sum(other.flops * other.weight for other in tasks)
    matters = task.flops * task.weight >= _NEGLIGIBLE_SHARE * whole
    return round_size if matters else max(_MIN_FIRST_ROUND, round_size // 4)


def alternative_round_size(direct_size: int) -> int:
    """Programs in the first round of each of its other lowerings.

    Args:
        direct_size: From `first_round_size`.
    """
    return max(_MIN_FIRST_ROUND, direct_size // 2)


def next_task(
    tasks: Sequence[Task],
    budgets: Mapping[int, Budget],
    database: ProgramDatabase,
    stop_within: float,
) -> Task | None:
    """The unfinished task that most time can be expected to be gained from, if any matters.

    Args:
        tasks: All tasks that are tuned.
        budgets: From `budgets_of`, as far as they are spent.
        database: Knows the tasks' latencies.
        stop_within: Tuning ends where all next rounds together are expected to gain less than this
            fraction of the model's latency.
    """
    totals = {task.key: (task.best_latency_ms(database) or 0.0) * task.weight for task in tasks}
    whole = sum(totals.values())
    unfinished = [
        task
        for task in tasks
        if budgets[task.key].missing > 0 and totals[task.key] >= _NEGLIGIBLE_SHARE * whole
    ]
    gains = {t.key: totals[t.key] * budgets[t.key].expected_gain for t in unfinished}
    if sum(gains.values()) < stop_within * whole:
        _LOGGER.info(
            "Tuning ends: further rounds are expected to gain less than %g %%.", 100 * stop_within
        )
        return None
    return max(unfinished, key=lambda task: gains[task.key], default=None)
