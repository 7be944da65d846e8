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
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from cprune_tf.latency.lab import LatencyLab
from cprune_tf.latency.prediction import LatencyPredictor, TaskKey
from cprune_tf.latency.sites import Site, SiteKey
from cprune_tf.strategies.planning.allocation import (
    Allocation,
    BudgetError,
    GroupOptions,
    SiteCosts,
    ZeroRules,
    allocate,
)
from cprune_tf.strategies.planning.depth import Depth

# A site of more combinations (a concatenation of many groups) is costed group by group.
_MAX_COMBINATIONS = 1024
# After so many sets of groups that may not vanish together, no group vanishes.
_MAX_CONFLICTS = 30
# What a budget exceeds the least possible latency by, so that rounding cannot rule that out.
_ROUNDING = 1e-6


@dataclasses.dataclass(frozen=True)
class Plan:
    """Channel counts that fit into a budget.

    Attributes:
        counts: Units to keep, by group.
        tasks_ms: What all subgraphs take with these counts.
        measured: Whether all of that was measured, or predicted well enough.
        value: The sum of the chosen counts' values.
        gap: How far the value may be from the best, as a fraction; 0 if proven optimal.
        solver_sec: Time that the solver took, all solutions together.
        num_solutions: How often the problem was solved.
        num_measured: Tasks that were measured on the way.
    """

    counts: Mapping[str, int]
    tasks_ms: float
    measured: bool
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
        depth: Which groups may vanish together; needed where a group has the option 0.
    """

    def __init__(
        self, lab: LatencyLab, config: PlannerConfig | None = None, depth: Depth | None = None
    ) -> None:
        self.lab = lab
        self.config = config or PlannerConfig()
        self._depth = depth
        self._forbidden: list[frozenset[str]] = []
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
            groups: The counts that each prunable group may take, with their values. A group that
                has vanished has no other than 0.
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
        calls = Counter((site.family, site.counts(units)) for site in self.lab.sites_at(units))
        latency_ms, deviations = self._predictor().predict_tasks(list(calls))
        total_ms = latency_ms * np.array(list(calls.values()))
        return _Sites(dict(zip(calls, deviations.tolist(), strict=True)), float(total_ms.sum()))

    def _predictor(self) -> LatencyPredictor:
        """A predictor of all points there are; fitted again only where there are new ones."""
        num_points = len(self.lab.store)
        if self._fitted is None or self._fitted[0] != num_points:
            predictor = LatencyPredictor.from_lab(self.lab, seed=self.config.seed)
            self._fitted = (num_points, predictor)
        return self._fitted[1]

    def _solve(self, groups: Sequence[GroupOptions], budget_ms: float) -> Allocation:
        """Finds the best counts of which all groups without units may vanish together."""
        costs = self._costs(groups)
        while len(self._forbidden) < _MAX_CONFLICTS:
            allocation = self._allocate(groups, costs, budget_ms)
            zeros = [g.name for g in groups if len(g.counts) > 1 and not allocation.counts[g.name]]
            conflict = self._depth.conflict(zeros) if self._depth else frozenset()
            if not conflict:
                return allocation
            self._forbidden.append(conflict)
        staying = [_without_zero(group) for group in groups]
        return self._allocate(staying, self._costs(staying), budget_ms)

    def _allocate(
        self,
        groups: Sequence[GroupOptions],
        costs: tuple[Sequence[SiteCosts], float],
        budget_ms: float,
    ) -> Allocation:
        solve = functools.partial(
            allocate,
            groups,
            costs[0],
            rules=self._rules(groups),
            constant_ms=costs[1],
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
        gone = {name: 0 for name, counts in options.items() if counts == (0,)}
        left = self.lab.sites_at(gone)
        ends = self._ends(groups, gone)
        implied = self._rules(groups).implied
        tables = [
            _table(site, options, self.lab.units, ends.get(site.key, ()), implied) for site in left
        ]
        keys = list(dict.fromkeys(key for table in tables for key in table.keys))
        latency_ms, _ = self._predictor().predict_tasks(keys)
        known = dict(zip(keys, latency_ms.tolist(), strict=True))
        costs, constant_ms = [], 0.0
        for table in tables:
            constant_ms += table.constant_ms(known)
            costs += table.costs(known)
        return costs, constant_ms

    def _ends(
        self, groups: Sequence[GroupOptions], gone: Mapping[str, int]
    ) -> dict[SiteKey, tuple[str, ...]]:
        """For each site, the groups with which it would vanish."""
        ends: dict[SiteKey, tuple[str, ...]] = {}
        for name in _zeroable(groups):
            left = {site.key for site in self.lab.sites_at({**gone, name: 0})}
            for site in self.lab.sites_at(gone):
                if site.key not in left:
                    ends[site.key] = (*ends.get(site.key, ()), name)
        return ends

    def _rules(self, groups: Sequence[GroupOptions]) -> ZeroRules:
        names = set(_zeroable(groups))
        if self._depth is None or not names:
            return ZeroRules()
        implied = tuple(pair for pair in self._depth.implied if names.issuperset(pair))
        return ZeroRules(implied, tuple(s for s in self._forbidden if s <= names))


def _zeroable(groups: Sequence[GroupOptions]) -> list[str]:
    """The groups that have the choice to vanish."""
    return [group.name for group in groups if len(group.counts) > 1 and not group.counts[0]]


def _without_zero(group: GroupOptions) -> GroupOptions:
    """The options of a group without the choice to vanish."""
    if len(group.counts) == 1 or group.counts[0]:
        return group
    return GroupOptions(group.name, group.counts[1:], group.values[1:])


@dataclasses.dataclass(frozen=True, eq=False)
class _Table:
    """The tasks of one site for combinations of its groups' options.

    Attributes:
        site: The site.
        parts: For each array of combinations: its groups, and a task for each combination; None
            where the site vanishes.
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
        return single + [key for _, tasks in self.parts for key in tasks.ravel() if key]

    def constant_ms(self, known: Mapping[TaskKey, float]) -> float:
        """What the site costs whatever is chosen."""
        return 0.0 if self.base is None else known[self.base]

    def costs(self, known: Mapping[TaskKey, float]) -> list[SiteCosts]:
        """What the site costs for each combination, beyond the constant."""
        minus = self.constant_ms(known)
        result = []
        for names, tasks in self.parts:
            latency_ms = [known[key] - minus if key else 0.0 for key in tasks.ravel()]
            array = np.array(latency_ms).reshape(tasks.shape)
            result.append(SiteCosts(self.site.anchor, names, array))
        return result


def _table(
    site: Site,
    options: Mapping[str, tuple[int, ...]],
    units: Mapping[str, int],
    ends: tuple[str, ...],
    implied: Collection[tuple[str, str]],
) -> _Table:
    names = tuple(name for name in site.groups if name in options)
    # Groups that the site's shape does not depend on, but with which it vanishes. Most of them take
    # one of the site's own groups along, which says as much.
    others = tuple(
        name
        for name in ends
        if name not in names and not any(own in ends and (name, own) in implied for own in names)
    )
    last = {**units, **{name: options[name][-1] for name in names}}
    for chosen in (names + others, names):
        if chosen and math.prod(len(options[name]) for name in chosen) <= _MAX_COMBINATIONS:
            return _Table(site, (_part(site, chosen, options, last, ends),), None)
    # A part cannot say that the site vanishes, so no units cost as much as the fewest.
    some = {name: tuple(n or options[name][:2][-1] for n in options[name]) for name in names}
    parts = tuple(_part(site, (name,), some, last, ()) for name in names)
    return _Table(site, parts, (site.family, site.counts(last)))


def _part(
    site: Site,
    names: tuple[str, ...],
    options: Mapping[str, tuple[int, ...]],
    last: Mapping[str, int],
    ends: Collection[str],
) -> tuple[tuple[str, ...], npt.NDArray[np.object_]]:
    tasks = np.empty(tuple(len(options[name]) for name in names), dtype=object)
    for index in itertools.product(*(range(size) for size in tasks.shape)):
        chosen = {name: options[name][i] for name, i in zip(names, index, strict=True)}
        if all(chosen.get(name) != 0 for name in ends):
            tasks[index] = (site.family, site.counts({**last, **chosen}))
    return names, tasks


@dataclasses.dataclass(frozen=True)
class _Sites:
    """All subgraphs of an assignment.

    Attributes:
        deviations: Relative standard deviation of the latency of each task.
        tasks_ms: What all subgraphs take.
    """

    deviations: Mapping[TaskKey, float]
    tasks_ms: float


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
        value=allocation.value,
        gap=allocation.gap,
        solver_sec=solver_sec,
        num_solutions=number,
        num_measured=num_measured,
    )
