"""Measures staircases, and chooses the channel counts that are worth choosing: right edges."""

from __future__ import annotations

import typing
from collections.abc import Collection, Mapping

if typing.TYPE_CHECKING:
    from cprune_tf.latency.lab import LatencyLab
    from cprune_tf.latency.staircase import Staircase
    from cprune_tf.strategies.workbench import Workbench


def measure_staircases(
    bench: Workbench, lab: LatencyLab, names: tuple[str, ...], max_points: int
) -> dict[str, Staircase]:
    """Measures the staircases of some groups, down to what may be left of them.

    Args:
        bench: The workbench; its progress shows how far this is.
        lab: The lab of the original model; points that it has are not measured again.
        names: Names of the groups.
        max_points: Maximum number of counts of each group.

    Returns:
        Staircases by group name.
    """
    from cprune_tf.latency.sampling import SamplingConfig, sample_staircase

    smallest = 1 - bench.config.strategy.max_pruned_fraction
    sampling = SamplingConfig(
        max_points=max_points, first_points=min(7, max_points), smallest=smallest
    )
    staircases = {}
    with bench.progress.stage("Measure staircases", total=len(names)) as stage:
        for number, name in enumerate(names):

            def report(num_done: int, count: int, done: int = number, name: str = name) -> None:
                stage.update(done, f"{name} with {count} units, point {num_done + 1}")

            group = lab.channels[name]
            staircases[name] = sample_staircase(lab, group, sampling, on_point=report)
        stage.update(len(names))
    return staircases


def staircase_options(
    staircase: Staircase, max_options: int, tolerance: float = 0.02
) -> tuple[int, ...]:
    """Chooses the counts of a group that a plan may use.

    Args:
        staircase: The group's, measured.
        max_options: At most so many, at least the two ends; those without which the gap in latency
            stays smallest are left out first.
        tolerance: See `Staircase.steps`.

    Returns:
        Counts, ascending; the last is the number of units of the unpruned model.
    """
    steps = list(staircase.steps(tolerance))
    while len(steps) > max(max_options, 2):
        gaps_ms = [
            staircase.latency_ms(larger) - staircase.latency_ms(smaller)
            for larger, smaller in zip(steps, steps[2:], strict=False)
        ]
        del steps[1 + gaps_ms.index(min(gaps_ms))]
    return tuple(reversed(steps))


def remaining(
    options: Mapping[str, tuple[int, ...]],
    units: Mapping[str, int],
    vanishing: Collection[str] = (),
) -> dict[str, tuple[int, ...]]:
    """The options that a pruned model still has.

    Args:
        options: Counts by group, ascending, of the original model.
        units: Units of the pruned model's groups; 0 for a group that has vanished.
        vanishing: Groups that may lose all their units.

    Returns:
        The smaller options, after 0 where the group may vanish, and the count that each group has
        now as the last.
    """
    return {
        name: (
            *((0,) if name in vanishing else ()),
            *(count for count in counts if count < units[name]),
            units[name],
        )
        for name, counts in options.items()
    }
