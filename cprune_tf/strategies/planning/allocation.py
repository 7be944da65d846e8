"""Chooses a channel count for every group: the most importance that fits into a latency budget.

The choice is exact: it solves a mixed-integer linear program like that of MDP (Sun et al., 2024).
The latency of a site is given for each combination of its groups' counts. The variables are:

- x[g, n] in {0, 1} for each group g and option n. For each group, exactly one of them is 1.
- y[s, c] for each site s and combination c of its groups' options. For each group and option of a
  site, the sum of y over all combinations with that option equals x[g, n].

The program is:

    maximise    sum over g, n of value[g, n] x[g, n]
    subject to  constant + sum over s, c of latency[s, c] y[s, c] <= budget.

Where x is 0 or 1, these sums force y to be 0 or 1 too. So only x is declared as integral.

A group may have the option of no units at all. Groups may be bound in two ways then:

- b goes with a:                        x[a, 0] <= x[b, 0]
- the groups of S may not go together:  sum over g in S of x[g, 0] <= |S| - 1
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from scipy.optimize import Bounds, LinearConstraint, OptimizeResult, milp
from scipy.sparse import coo_array

from cprune_tf.errors import UserError

_TOLERANCE = 1e-9
# The solver's status where it has proven that there is no solution.
_INFEASIBLE = 2


class BudgetError(UserError, ValueError):
    """Raised if no choice of counts fits into the budget; says how low the latency can get.

    Args:
        message: The message for the user.
        cheapest_ms: The least latency of all choices, the constant included.
    """

    def __init__(self, message: str, cheapest_ms: float) -> None:
        super().__init__(message)
        self.cheapest_ms = cheapest_ms


@dataclasses.dataclass(frozen=True)
class GroupOptions:
    """The channel counts that a group may take.

    Attributes:
        name: The group's name.
        counts: The allowed numbers of units, distinct and ascending.
        values: The value of keeping each of these numbers, e.g. the summed importance of the kept
            units.
    """

    name: str
    counts: tuple[int, ...]
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.counts or len(self.counts) != len(self.values):
            raise ValueError(
                f"Group {self.name} has {len(self.counts)} counts and {len(self.values)} values; "
                "expected one value for each count, and at least one count."
            )


@dataclasses.dataclass(frozen=True, eq=False)
class SiteCosts:
    """The latency of a site for each combination of its groups' options.

    Attributes:
        name: The site's name in error messages.
        groups: Names of the groups that decide the site's shape, each once.
        latency_ms: An array with one axis for each of these groups, indexed by the group's options.
    """

    name: str
    groups: tuple[str, ...]
    latency_ms: npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class ZeroRules:
    """What holds between groups of which some keep no units; each of them must have that option.

    Attributes:
        implied: (a, b): if a keeps no units, b keeps none either.
        forbidden: Sets of groups of which at least one must keep some units.
    """

    implied: tuple[tuple[str, str], ...] = ()
    forbidden: tuple[frozenset[str], ...] = ()


@dataclasses.dataclass(frozen=True)
class Allocation:
    """One choice of a count for every group.

    Attributes:
        counts: Number of units to keep, by group name.
        latency_ms: The latency of all sites with these counts, plus the constant.
        value: The sum of the chosen options' values.
        gap: (upper bound of the value - value) / |value|; 0 if the choice is proven optimal.
        elapsed_sec: Running time of the solver.
    """

    counts: Mapping[str, int]
    latency_ms: float
    value: float
    gap: float
    elapsed_sec: float


def allocate(
    groups: Sequence[GroupOptions],
    sites: Sequence[SiteCosts],
    budget_ms: float,
    *,
    rules: ZeroRules | None = None,
    constant_ms: float = 0.0,
    max_gap: float = 1e-6,
    time_limit_sec: float = 60.0,
) -> Allocation:
    """Chooses the counts with the highest value whose latency fits into a budget.

    Args:
        groups: All groups with their options.
        sites: All sites whose latency depends on a group.
        budget_ms: Maximum latency of all sites plus the constant.
        rules: What holds between groups that keep no units.
        constant_ms: Latency that does not depend on any count.
        max_gap: The solver stops once no other choice can be better by more than this fraction.
        time_limit_sec: The solver stops after this time with the best choice so far.

    Returns:
        The choice.

    Raises:
        BudgetError: If no choice fits, or none was found within the time limit.
        ValueError: If a site names an unknown group, or its latencies have an unexpected shape.
    """
    program = _Program(groups, sites, rules or ZeroRules())
    start_sec = time.monotonic()
    result = program.solve(budget_ms - constant_ms, max_gap, time_limit_sec)
    elapsed_sec = time.monotonic() - start_sec
    if result.x is None:
        cheapest = program.cheapest_ms(time_limit_sec) + constant_ms
        is_proven = result.status == _INFEASIBLE
        found = "fit into" if is_proven else "were found in time that fit into"
        raise BudgetError(
            f"No channel counts {found} {budget_ms:.4g} ms. The "
            f"least latency that the allowed counts reach is {cheapest:.4g} ms; raise the budget "
            "to at least that, or allow smaller counts.",
            cheapest,
        )
    chosen = program.chosen(result.x)
    value = sum(group.values[chosen[group.name]] for group in groups)
    gap = 0.0 if result.mip_gap is None else float(result.mip_gap)
    return Allocation(
        {group.name: group.counts[chosen[group.name]] for group in groups},
        constant_ms + program.latency_ms(chosen),
        value,
        gap,
        elapsed_sec,
    )


class _Program:
    """The mixed-integer linear program of some groups and sites."""

    def __init__(
        self, groups: Sequence[GroupOptions], sites: Sequence[SiteCosts], rules: ZeroRules
    ) -> None:
        self._groups = {group.name: group for group in groups}
        self._sites = tuple(sites)
        for site in sites:
            self._check(site)
        self._first: dict[str, int] = {}
        number = 0
        for group in groups:
            self._first[group.name] = number
            number += len(group.counts)
        self._num_choices = number
        self._site_first = []
        for site in sites:
            self._site_first.append(number)
            number += site.latency_ms.size
        self._num_variables = number
        self._rows: list[dict[int, float]] = []
        self._right: list[float] = []
        self._add_one_choice_per_group()
        self._add_marginals()
        self._left = list(self._right)
        self._add_rules(rules)

    def _check(self, site: SiteCosts) -> None:
        unknown = [name for name in site.groups if name not in self._groups]
        if unknown or len(set(site.groups)) != len(site.groups):
            raise ValueError(
                f"Site {site.name} depends on {list(site.groups)}; expected different groups "
                f"from {list(self._groups)}."
            )
        shape = tuple(len(self._groups[name].counts) for name in site.groups)
        if site.latency_ms.shape != shape:
            raise ValueError(
                f"Site {site.name} has latencies of shape {site.latency_ms.shape}; expected "
                f"{shape}, one for each combination of its groups' options."
            )

    def _add_one_choice_per_group(self) -> None:
        for name, group in self._groups.items():
            first = self._first[name]
            self._rows.append({first + index: 1.0 for index in range(len(group.counts))})
            self._right.append(1.0)

    def _add_marginals(self) -> None:
        for site, first in zip(self._sites, self._site_first, strict=True):
            numbers = first + np.arange(site.latency_ms.size).reshape(site.latency_ms.shape)
            for axis, name in enumerate(site.groups):
                for option, slab in enumerate(np.moveaxis(numbers, axis, 0)):
                    row = {int(number): 1.0 for number in slab.ravel()}
                    row[self._first[name] + option] = -1.0
                    self._rows.append(row)
                    self._right.append(0.0)

    def _add_rules(self, rules: ZeroRules) -> None:
        rows = [({self._zero(a): 1.0, self._zero(b): -1.0}, 0) for a, b in rules.implied]
        rows += [({self._zero(name): 1.0 for name in s}, len(s) - 1) for s in rules.forbidden]
        for row, right in rows:
            self._rows.append(row)
            self._left.append(-math.inf)
            self._right.append(float(right))

    def _zero(self, name: str) -> int:
        """The number of the variable that says that a group keeps no units."""
        return self._first[name] + self._groups[name].counts.index(0)

    def solve(self, budget_ms: float, max_gap: float, time_limit_sec: float) -> OptimizeResult:
        """Finds the choice with the highest value within a budget, without the constant."""
        costs = np.zeros(self._num_variables)
        for name, group in self._groups.items():
            first = self._first[name]
            costs[first : first + len(group.counts)] = -np.asarray(group.values)
        latencies = {
            int(number): float(value)
            for number, value in enumerate(self._latencies())
            if value and number >= self._num_choices
        }
        return self._milp(
            costs,
            [*self._rows, latencies],
            [*self._left, -math.inf],
            [*self._right, budget_ms + _TOLERANCE * max(abs(budget_ms), 1.0)],
            {"mip_rel_gap": max_gap, "time_limit": time_limit_sec},
        )

    def cheapest_ms(self, time_limit_sec: float) -> float:
        """Returns the lowest latency of all choices, without the constant."""
        options = {"time_limit": time_limit_sec}
        result = self._milp(self._latencies(), self._rows, self._left, self._right, options)
        return math.inf if result.x is None else self.latency_ms(self.chosen(result.x))

    def chosen(self, values: npt.NDArray[np.float64]) -> dict[str, int]:
        """Returns the index of each group's chosen option, from the values of the variables."""
        return {
            name: int(np.argmax(values[first : first + len(self._groups[name].counts)]))
            for name, first in self._first.items()
        }

    def latency_ms(self, chosen: Mapping[str, int]) -> float:
        """Returns the latency of all sites for the chosen options."""
        return sum(
            float(site.latency_ms[tuple(chosen[name] for name in site.groups)])
            for site in self._sites
        )

    def _latencies(self) -> npt.NDArray[np.float64]:
        """Returns the latency of each variable; 0 for the variables x of the groups."""
        parts = [np.zeros(self._num_choices), *(site.latency_ms.ravel() for site in self._sites)]
        return np.concatenate(parts)

    def _milp(
        self,
        costs: npt.NDArray[np.float64],
        rows: Sequence[Mapping[int, float]],
        low: Sequence[float],
        high: Sequence[float],
        options: Mapping[str, float],
    ) -> OptimizeResult:
        entries = [
            (number, variable, value)
            for number, row in enumerate(rows)
            for variable, value in row.items()
        ]
        numbers, variables, values = (np.array(column) for column in zip(*entries, strict=True))
        matrix = coo_array((values, (numbers, variables)), shape=(len(rows), self._num_variables))
        integrality = np.zeros(self._num_variables)
        integrality[: self._num_choices] = 1
        return milp(
            costs,
            integrality=integrality,
            bounds=Bounds(0, 1),
            constraints=LinearConstraint(matrix.tocsr(), low, high),
            options=dict(options),
        )
