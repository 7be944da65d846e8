"""Plans the channel counts of a whole model: solve, measure what the solution uses, solve again.

Most pairs of counts that a site may take were never measured; the surface predicts them. A solver
that looks for the cheapest combination finds the places where the prediction is too low. So what a
solution uses is measured and the problem solved again, until a solution rests on measurements only.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from cprune_tf.latency.lab import LatencyLab
from cprune_tf.latency.prediction import LatencyPredictor, TaskKey
from cprune_tf.latency.sites import Site
from cprune_tf.strategies.planning.allocation import (
    Allocation,
    BudgetError,
    GroupOptions,
    SiteCosts,
    allocate,
)

# A site of more combinations (a concatenation of many groups) is costed group by group.
_MAX_COMBINATIONS = 1024
# What a budget exceeds the least possible latency by, so that rounding cannot rule that out.
_ROUNDING = 1e-6


@dataclasses.dataclass(frozen=True)
class Plan:
    """Channel counts that fit into a budget.

    Attributes:
        counts: Units to keep, by group.
        tasks_ms: What all subgraphs take with these counts.
        measured: Whether all of that was measured, or predicted well enough.
        deviation: Relative standard deviation of `tasks_ms`.
        value: The sum of the chosen counts' values.
        gap: How far the value may be from the best, as a fraction; 0 if proven optimal.
        solver_sec: Time that the solver took, all solutions together.
        num_solutions: How often the problem was solved.
        num_measured: Tasks that were measured on the way.
    """

    counts: Mapping[str, int]
    tasks_ms: float
    measured: bool
    deviation: float
    value: float
    gap: float
    solver_sec: float
    num_solutions: int
    num_measured: int


@dataclasses.dataclass(frozen=True)
class PlannerConfig:
    """How a plan is made.

    Attributes:
        max_solutions: The problem is solved at most so often.
        max_gap: See `allocate`.
        time_limit_sec: See `allocate`; for each solution.
        seed: The seed for fitting the surface.
        trusted_deviation: A prediction whose relative standard deviation is at most this counts as
            measured.
    """

    max_solutions: int = 12
    max_gap: float = 1e-4
    time_limit_sec: float = 60.0
    seed: int = 0
    trusted_deviation: float = 0.0


class Planner:
    """Plans for one model over one lab.

    Args:
        lab: Of the original model; its points are used and added to.
        config: How plans are made.
    """

    def __init__(self, lab: LatencyLab, config: PlannerConfig | None = None) -> None:
        self.lab = lab
        self.config = config or PlannerConfig()
        self._fitted: tuple[int, LatencyPredictor] | None = None

    def tasks_ms(self, counts: Mapping[str, int]) -> float:
        """Measures what all subgraphs take with some counts, where that is not known yet."""
        self.lab.measure(counts)
        return self.lab.tasks_ms(counts)

    def plan(
        self,
        groups: Sequence[GroupOptions],
        budget_ms: float,
        on_solution: Callable[[Plan], None] | None = None,
    ) -> Plan:
        """Chooses the counts of most value that fit into a budget.

        Args:
            groups: The counts that each prunable group may take, with their values.
            budget_ms: What all subgraphs may take together.
            on_solution: Called with each solution, before what it uses is measured.

        Returns:
            The plan. If the last of `max_solutions` solutions still needed measuring, the best
            measured one that fits. If no counts fit, the fastest there are: their `tasks_ms` then
            exceeds the budget.
        """
        num_measured, solver_sec = 0, 0.0
        fitting: list[Plan] = []
        for number in range(1, self.config.max_solutions + 1):
            allocation = self._solve(groups, budget_ms)
            solver_sec += allocation.elapsed_sec
            sites = self._predicted(allocation.counts)
            doubtful = {
                key
                for key, deviation in sites.deviations.items()
                if deviation > self.config.trusted_deviation and not self._is_measured(key)
            }
            plan = _plan(allocation, sites, solver_sec, number, num_measured, not doubtful)
            if on_solution is not None:
                on_solution(plan)
            if not doubtful:
                return plan
            num_measured += self.lab.measure(allocation.counts, only=doubtful)
            sites = self._predicted(allocation.counts)
            plan = _plan(allocation, sites, solver_sec, number, num_measured, measured=True)
            if plan.tasks_ms <= budget_ms:
                fitting.append(plan)
        # The last solution is measured by now, though it may not fit.
        return max(fitting, key=lambda plan: plan.value) if fitting else plan

    def predict(self, counts: Mapping[str, int]) -> float:
        """Returns what all subgraphs take with some counts, in ms: measured or predicted."""
        return self._predicted(counts).tasks_ms

    def _is_measured(self, key: TaskKey) -> bool:
        return self.lab.store.get(*key) is not None

    def _predicted(self, counts: Mapping[str, int]) -> _Sites:
        """Predicts all subgraphs of an assignment."""
        units = self.lab.full(counts)
        calls = Counter((site.family, site.counts(units)) for site in self.lab.sites)
        latency_ms, deviations = self._predictor().predict_tasks(list(calls))
        total_ms = latency_ms * np.array(list(calls.values()))
        # As if the errors of different tasks were independent.
        deviation = float(np.linalg.norm(total_ms * deviations) / total_ms.sum())
        return _Sites(
            dict(zip(calls, deviations.tolist(), strict=True)), float(total_ms.sum()), deviation
        )

    def _predictor(self) -> LatencyPredictor:
        """A predictor of all points there are; fitted again only where there are new ones."""
        num_points = len(self.lab.store)
        if self._fitted is None or self._fitted[0] != num_points:
            predictor = LatencyPredictor.from_lab(self.lab, seed=self.config.seed)
            self._fitted = (num_points, predictor)
        return self._fitted[1]

    def _solve(self, groups: Sequence[GroupOptions], budget_ms: float) -> Allocation:
        costs, constant_ms = self._costs(groups)
        solve = functools.partial(
            allocate,
            groups,
            costs,
            constant_ms=constant_ms,
            max_gap=self.config.max_gap,
            time_limit_sec=self.config.time_limit_sec,
        )
        try:
            return solve(budget_ms)
        except BudgetError as error:
            return solve(error.cheapest_ms * (1 + _ROUNDING))

    def _costs(self, groups: Sequence[GroupOptions]) -> tuple[list[SiteCosts], float]:
        """What each site costs, and what does not depend on any choice."""
        options = {group.name: group.counts for group in groups}
        tables = [_table(site, options, self.lab.units) for site in self.lab.sites]
        keys = list(dict.fromkeys(key for table in tables for key in table.keys))
        latency_ms, _ = self._predictor().predict_tasks(keys)
        known = dict(zip(keys, latency_ms.tolist(), strict=True))
        costs, constant_ms = [], 0.0
        for table in tables:
            constant_ms += table.constant_ms(known)
            costs += table.costs(known)
        return costs, constant_ms


@dataclasses.dataclass(frozen=True, eq=False)
class _Table:
    """The tasks of one site for combinations of its groups' options.

    Attributes:
        site: The site.
        parts: For each array of combinations: its groups, and a task for each combination.
        base: The task of a site that depends on no choice. With several parts: the task with all
            groups at their last option; each part adds its difference to it. None with one part.
    """

    site: Site
    parts: tuple[tuple[tuple[str, ...], npt.NDArray[np.object_]], ...]
    base: TaskKey | None

    @property
    def keys(self) -> list[TaskKey]:
        """All tasks."""
        single = [] if self.base is None else [self.base]
        return single + [key for _, tasks in self.parts for key in tasks.ravel()]

    def constant_ms(self, known: Mapping[TaskKey, float]) -> float:
        """What the site costs whatever is chosen."""
        return 0.0 if self.base is None else known[self.base]

    def costs(self, known: Mapping[TaskKey, float]) -> list[SiteCosts]:
        """What the site costs for each combination, beyond the constant."""
        minus = self.constant_ms(known)
        result = []
        for names, tasks in self.parts:
            latency_ms = np.array([known[key] - minus for key in tasks.ravel()]).reshape(
                tasks.shape
            )
            result.append(SiteCosts(self.site.anchor, names, latency_ms))
        return result


def _table(site: Site, options: Mapping[str, tuple[int, ...]], units: Mapping[str, int]) -> _Table:
    names = tuple(name for name in site.groups if name in options)
    last = {**units, **{name: options[name][-1] for name in names}}
    if not names:
        return _Table(site, (), (site.family, site.counts(units)))
    if math.prod(len(options[name]) for name in names) <= _MAX_COMBINATIONS:
        return _Table(site, (_part(site, names, options, last),), None)
    parts = tuple(_part(site, (name,), options, last) for name in names)
    return _Table(site, parts, (site.family, site.counts(last)))


def _part(
    site: Site,
    names: tuple[str, ...],
    options: Mapping[str, tuple[int, ...]],
    last: Mapping[str, int],
) -> tuple[tuple[str, ...], npt.NDArray[np.object_]]:
    tasks = np.empty(tuple(len(options[name]) for name in names), dtype=object)
    for index in itertools.product(*(range(size) for size in tasks.shape)):
        chosen = {name: options[name][i] for name, i in zip(names, index, strict=True)}
        tasks[index] = (site.family, site.counts({**last, **chosen}))
    return names, tasks


@dataclasses.dataclass(frozen=True)
class _Sites:
    """All subgraphs of an assignment.

    Attributes:
        deviations: Relative standard deviation of the latency of each task.
        tasks_ms: What all subgraphs take.
        deviation: Relative standard deviation of `tasks_ms`.
    """

    deviations: Mapping[TaskKey, float]
    tasks_ms: float
    deviation: float


def _plan(
    allocation: Allocation,
    sites: _Sites,
    solver_sec: float,
    number: int,
    num_measured: int,
    measured: bool,
) -> Plan:
    return Plan(
        counts=allocation.counts,
        tasks_ms=sites.tasks_ms,
        measured=measured,
        deviation=sites.deviation,
        value=allocation.value,
        gap=allocation.gap,
        solver_sec=solver_sec,
        num_solutions=number,
        num_measured=num_measured,
    )
