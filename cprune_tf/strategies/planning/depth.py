"""Depth: which groups of a pruned model may vanish, and what the others are called in the original.

Plans are made with the groups of the original, whose sites are measured. A branch of the current
model may have vanished, and with it some groups; a group of which the first layer vanished has
another name.
"""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from cprune_tf.graph import ChannelGraph


class Depth:
    """Compares the groups of a pruned model with the original's, and says which may vanish.

    A branch with a layer that the user protects does not vanish.

    Args:
        original: The channel groups of the original.
        current: Those of the pruned model.
        protect: The patterns of layers that the user protects.
        allowed: Whether groups may vanish at all.

    Attributes:
        original_of: The name in the original, by name in the current model. If several groups of
            the current model were one group in the original, none of them is named.
        units: The units that each group of the original still has; 0 if it has vanished.
        vanishing: The groups that may vanish, by their names in the original.
    """

    def __init__(
        self,
        original: ChannelGraph,
        current: ChannelGraph,
        protect: Sequence[str] = (),
        *,
        allowed: bool = True,
    ) -> None:
        self._current = current
        self._protect = tuple(protect)
        origins = {group.name: original.group_of(group.name).name for group in current.groups}
        times = Counter(origins.values())
        self.original_of = {name: first for name, first in origins.items() if times[first] == 1}
        self._current_of = {first: name for name, first in self.original_of.items()}
        self.units = {group.name: 0 for group in original.groups}
        for group in current.groups:
            self.units[origins[group.name]] = group.num_channels
        candidates = current.removable_whole if allowed else ()
        self.vanishing = tuple(
            self.original_of[group.name]
            for group in candidates
            if group.name in self.original_of and not self._is_refused((group.name,))
        )
        self._gone = {name: self._gone_with(name) for name in self.vanishing}

    @property
    def implied(self) -> tuple[tuple[str, str], ...]:
        """Pairs of groups that may vanish: with the first, the second one disappears."""
        return tuple((a, b) for a in self.vanishing for b in self.vanishing if b in self._gone[a])

    def conflict(self, names: Collection[str]) -> frozenset[str]:
        """Finds groups that may vanish alone, but not all of them together.

        Args:
            names: Groups that are to vanish.

        Returns:
            Some of them, without any that could be left out of the conflict; empty if all of them
            may vanish together.
        """
        chosen = [self._current_of[name] for name in names]
        if not chosen or not self._is_refused(chosen):
            return frozenset()
        for name in tuple(chosen):
            others = [other for other in chosen if other != name]
            if others and self._is_refused(others):
                chosen = others
        return frozenset(self.original_of[name] for name in chosen)

    def branches(self, names: Collection[str]) -> tuple[str, ...]:
        """Chooses one group for each branch that disappears with some groups.

        Args:
            names: Groups that vanish.

        Returns:
            Those that do not disappear with an outer branch; of groups in the same branch, the
            first.
        """
        chosen = [name for name in self.vanishing if name in names]
        found: list[str] = []
        for name in chosen:
            is_inner = any(self._is_inside(name, other) for other in chosen)
            if not is_inner and not any(self._are_one(name, other) for other in found):
                found.append(name)
        return tuple(found)

    def shared_values(self, values: Mapping[str, float]) -> dict[str, float]:
        """Divides what a branch's absence is worth between its groups, which all go at once.

        Args:
            values: What the absence of each group's branch is worth.

        Returns:
            For each of these groups its part, so that the parts of all groups that disappear with
            one group add up to what that group's branch is worth.
        """
        parts: dict[str, float] = {}
        for name in sorted(values, key=lambda name: len(self._gone[name])):
            if any(self._are_one(name, other) for other in parts):
                parts[name] = 0.0
                continue
            inner = [part for other, part in parts.items() if self._is_inside(other, name)]
            parts[name] = values[name] - sum(inner)
        return parts

    def _are_one(self, name: str, other: str) -> bool:
        """Whether two groups only disappear together."""
        return name in self._gone[other] and other in self._gone[name]

    def _is_inside(self, name: str, other: str) -> bool:
        """Whether a group disappears with another one, but not the other way round."""
        return name in self._gone[other] and other not in self._gone[name]

    def _gone_with(self, name: str) -> frozenset[str]:
        """The other groups that may vanish and of which nothing is left if one group vanishes."""
        surviving = self._surviving((self._current_of[name],))
        return frozenset(
            other
            for other in self.vanishing
            if other != name
            and surviving.isdisjoint(self._current[self._current_of[other]].producers)
        )

    def _is_refused(self, names: Collection[str]) -> bool:
        """Whether groups of the current model may not vanish together."""
        if self._current.vanishing(names).refusal:
            return True
        if not self._protect:
            return False
        surviving = self._surviving(names)
        return any(
            fnmatch.fnmatchcase(name, pattern)
            for call in self._current.propagation.flat.calls
            if call.name not in surviving
            for pattern in self._protect
            for name in (call.name, call.path)
        )

    def _surviving(self, names: Collection[str]) -> set[str]:
        return self._current.vanishing(names).surviving_layers(self._current.propagation.flat)
