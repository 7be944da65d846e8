"""Baselines: what is commonly done without looking at the device, in one shot.

"uniform" takes the same fraction of units from every group. "global_ranking" ranks the units of all
groups together and takes the least important ones. Both remove as little as meets a target: a
fraction of the original's multiply-accumulates (MACs), or a latency target if there is one. The one
candidate is timed, trained and accepted if it is accurate enough.
"""

from __future__ import annotations

import abc
import dataclasses
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from cprune_tf.config.checks import ConfigError, require
from cprune_tf.runs import events
from cprune_tf.strategies.base import Stop, num_units
from cprune_tf.strategies.planning.one_shot import OneShot, Plans, smallest_amount
from cprune_tf.strategies.registry import register_strategy

if typing.TYPE_CHECKING:
    from cprune_tf.graph import SparsityBudget
    from cprune_tf.importance.registry import Array
    from cprune_tf.strategies.workbench import CurrentModel

Removed = dict[str, tuple[int, ...]]

# A latency target is met in so many steps, since each is priced on the device.
_MAX_PRICES = 8


@dataclasses.dataclass(frozen=True)
class UniformConfig:
    """How much uniform pruning removes.

    Attributes:
        macs_ratio: The fraction (0..1) of the original's MACs to keep. With a latency target, that
            is met instead.
    """

    macs_ratio: float = 0.5

    def validate(self) -> None:
        """Raises ConfigError if a field is invalid."""
        _check_macs_ratio("uniform", self.macs_ratio)


@dataclasses.dataclass(frozen=True)
class GlobalRankingConfig:
    """How much a global ranking removes.

    Attributes:
        macs_ratio: The fraction (0..1) of the original's MACs to keep. With a latency target, that
            is met instead.
    """

    macs_ratio: float = 0.5

    def validate(self) -> None:
        """Raises ConfigError if a field is invalid."""
        _check_macs_ratio("global_ranking", self.macs_ratio)


def _check_macs_ratio(strategy: str, ratio: float) -> None:
    require(0 < ratio < 1, f"strategy.{strategy}.macs_ratio", ratio, "a number in (0, 1)")


class Baseline(OneShot):
    """Removes as little as meets the target; a subclass says what goes first.

    An "amount" is a whole number that says how much goes: each further one takes at most one more
    unit from a group.
    """

    @abc.abstractmethod
    def most(self, units: Sequence[int]) -> int:
        """Returns the largest amount.

        Args:
            units: Number of units of each group that may be pruned.
        """

    @abc.abstractmethod
    def sparsity(self, amount: int, units: Sequence[int]) -> SparsityBudget:
        """Returns the budget that removes an amount.

        Args:
            amount: From 1 to `most(units)`.
            units: Number of units of each group that may be pruned.
        """

    def comparable(self, scores: Mapping[str, Array]) -> dict[str, Array]:
        """Returns the scores in the form in which groups can be compared; by default unchanged."""
        return dict(scores)

    def plan(self, current: CurrentModel, budget: float, attempt: int) -> Plans | Stop:
        """See OneShot."""
        from cprune_tf import graph

        groups = current.channels.prunable
        units = [group.num_channels for group in groups]
        if not units:
            return Stop("no group may be pruned")
        if not budget:
            self._require_macs(current)
        names = tuple(group.name for group in groups)
        scores = self.comparable(self.bench.score_units(current, names, 0))

        def removal(amount: int) -> Removed:
            chosen = graph.plan_removal(current.channels, scores, self.sparsity(amount, units))
            return {name: tuple(indices) for name, indices in chosen.items()}

        most = self.most(units)
        amount = self._least_amount(current, removal, most, budget)
        removed = removal(amount or most)
        if not removed:
            return Stop("no group can lose a unit: config.strategy.max_pruned_fraction binds")
        key = f"{num_units(removed)} of {sum(units)} units"
        draft = self.bench.draft(current, removed)
        price = self.bench.price(current, draft).ratio
        reason = f"without {key}, {_macs_text(current.model, draft.model)}priced at {price:.1%}"
        if amount is None:
            reason += "; the target is not met: config.strategy.max_pruned_fraction binds"
        return (events.CandidatePlanned(0, attempt, key, removed, price, reason),)

    def _least_amount(
        self, current: CurrentModel, removal: Callable[[int], Removed], most: int, budget: float
    ) -> int | None:
        """The smallest amount that meets the target; None if none does."""
        with self.bench.progress.stage("Find how much goes") as stage:

            def meets(amount: int) -> bool:
                removed = removal(amount)
                if budget:
                    ratio = self.bench.price(current, self.bench.draft(current, removed)).ratio
                else:
                    ratio = _macs_ratio(current, removed)
                what = "latency" if budget else "MACs"
                stage.update(text=f"{num_units(removed)} units less: {ratio:.1%} of the {what}")
                return ratio <= (budget or self.settings.macs_ratio)

            return smallest_amount(meets, most, _MAX_PRICES if budget else None)

    def _require_macs(self, current: CurrentModel) -> None:
        from cprune_tf import graph

        if not graph.statistics(current.model).macs:
            raise ConfigError(
                f"config.strategy.name is {self.name!r}, which prunes to a fraction of the MACs, "
                "and this model has none or sizes that are unknown; expected a model with a fixed "
                "input shape, or a latency target in config.strategy.target_speedup."
            )


@register_strategy("uniform", UniformConfig)
class Uniform(Baseline):
    """Takes the same fraction of units from every group, as far as units are whole."""

    def most(self, units: Sequence[int]) -> int:
        """See Baseline: each unit of the largest group is one further amount."""
        return max(units)

    def sparsity(self, amount: int, units: Sequence[int]) -> SparsityBudget:
        """See Baseline."""
        from cprune_tf import graph

        limit = self.bench.config.strategy.max_pruned_fraction
        return graph.SparsityBudget(limit * amount / max(units), max_fraction=limit)


@register_strategy("global_ranking", GlobalRankingConfig)
class GlobalRanking(Baseline):
    """Takes the least important units of all groups, wherever they are."""

    def most(self, units: Sequence[int]) -> int:
        """See Baseline: each unit that may go is one further amount."""
        limit = self.bench.config.strategy.max_pruned_fraction
        return sum(int(count * limit) for count in units)

    def sparsity(self, amount: int, units: Sequence[int]) -> SparsityBudget:
        """See Baseline."""
        from cprune_tf import graph

        limit = self.bench.config.strategy.max_pruned_fraction
        return graph.SparsityBudget(amount / sum(units), "global", max_fraction=limit)

    def comparable(self, scores: Mapping[str, Array]) -> dict[str, Array]:
        """See Baseline: importance relative to the group's mean."""
        return {name: values / (float(np.mean(values)) or 1.0) for name, values in scores.items()}


def _macs_ratio(current: CurrentModel, removed: Removed) -> float:
    """The MACs without some units / those with them; both must be known."""
    from cprune_tf import graph

    model = graph.rebuild(current.model, removed, fold_constants=False, graph=current.channels)
    macs, whole = graph.statistics(model).macs, graph.statistics(current.model).macs
    assert macs is not None and whole
    return macs / whole


def _macs_text(model: Any, smaller: Any) -> str:
    from cprune_tf import graph

    whole, macs = graph.statistics(model).macs, graph.statistics(smaller).macs
    return f"{macs / whole:.1%} of the MACs, " if whole and macs else ""
