"""The pruning history as data: replaying it on the original model gives the pruned model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cprune_tf.graph.channel_graph import ChannelGraph, Removal, analyze
from cprune_tf.graph.errors import GraphError
from cprune_tf.graph.rebuilding import rebuild
from cprune_tf.graph.rules.registry import Keep
from cprune_tf.graph.vanishing import find_vanishing

_FORMAT = 1


@dataclass(frozen=True)
class PruningStep:
    """One removal.

    Attributes:
        removal: Sorted unit indices by group name, counted in the model before this step.
        fold_constants: The argument of `rebuild` in this step.
    """

    removal: Mapping[str, tuple[int, ...]]
    fold_constants: bool = True


@dataclass(frozen=True)
class PruningHistory:
    """All removals, in order.

    Attributes:
        steps: The removals.
    """

    steps: tuple[PruningStep, ...] = ()

    def add(self, removal: Removal, *, fold_constants: bool = True) -> PruningHistory:
        """Returns a history with one more step.

        Args:
            removal: Unit indices by group name, counted in the model after the last step.
            fold_constants: The argument of `rebuild` in the new step.

        Returns:
            The longer history.
        """
        plain = {
            str(name): tuple(sorted(int(i) for i in indices))
            for name, indices in sorted(removal.items())
        }
        return PruningHistory((*self.steps, PruningStep(plain, fold_constants)))

    def to_json(self) -> str:
        """The history as JSON text."""
        steps = [
            {"fold_constants": step.fold_constants, "removal": dict(step.removal)}
            for step in self.steps
        ]
        return json.dumps({"format": _FORMAT, "steps": steps}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> PruningHistory:
        """Reads what `to_json` wrote.

        Raises:
            GraphError: The text is not such a history.
        """
        try:
            data = json.loads(text)
            format_number = data["format"]
            steps = [(step["removal"], step["fold_constants"]) for step in data["steps"]]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise GraphError(f"This is not a pruning history in JSON: {error!r}.") from error
        if format_number != _FORMAT:
            raise GraphError(f"The pruning history has format {format_number}; expected {_FORMAT}.")
        history = cls()
        for removal, fold_constants in steps:
            history = history.add(removal, fold_constants=fold_constants)
        return history

    def replay(self, original: Any) -> Any:
        """Repeats all steps.

        Args:
            original: The model before the first step; it is not modified.

        Returns:
            The pruned model, with the same weights, bit for bit, as after the original steps.
        """
        model = original
        for step in self.steps:
            model = rebuild(model, step.removal, fold_constants=step.fold_constants)
        return rebuild(model, {}) if model is original else model

    def merged(self, original: Any) -> dict[str, Sequence[int]]:
        """Merges all steps into one removal, counted in the original model.

        Args:
            original: The model before the first step; it is not modified.

        Returns:
            Unit indices by the name of the group in the original.

        Raises:
            GraphError: A step removed units that the original does not have. Channels that are
                split along two axes (a channel shuffle) are removed along the longer axis, and
                pruning can make the other axis the longer one.
        """
        first = analyze(original)
        remaining_units = {group.name: list(range(group.num_channels)) for group in first.groups}
        removed_units: dict[str, list[int]] = {}
        model = original
        for number, step in enumerate(self.steps, 1):
            if number > 1:
                model = rebuild(model, self.steps[number - 2].removal, fold_constants=False)
                _check_same_units(first, removed_units, analyze(model), step.removal, number)
            for later_name, indices in step.removal.items():
                name = first.group_of(later_name).name
                units, step_indices = remaining_units[name], set(indices)
                removed_units.setdefault(name, []).extend(units[i] for i in indices)
                remaining_units[name] = [
                    unit for i, unit in enumerate(units) if i not in step_indices
                ]
        return {name: sorted(units) for name, units in removed_units.items()}


def _check_same_units(
    first: ChannelGraph, earlier: Removal, later: ChannelGraph, removal: Removal, number: int
) -> None:
    """Raises GraphError unless the groups of a removal still consist of the original's units.

    A group is called after its first layer. If that layer vanished, the group has a new name.

    Args:
        first: The groups of the original.
        earlier: The units of the original that earlier steps removed.
        later: The groups of the model before the step.
        removal: The units that the step removes, counted in `later`.
        number: The step's number, from 1.
    """
    keep = first.keep(earlier)
    vanishing = find_vanishing(first.propagation, keep)
    surviving = vanishing.surviving_layers(first.propagation.flat)
    for name, indices in removal.items():
        if not indices:
            continue
        original = first.group_of(name).name
        expected = _units_by_weight(first, original, keep, earlier)
        expected = {place: units for place, units in expected.items() if place[0] in surviving}
        actual = _units_by_weight(later, name, None, {})
        if expected.keys() != actual.keys() or any(
            not np.array_equal(units, actual[place]) for place, units in expected.items()
        ):
            raise GraphError(
                f"Step {number} of the history removes units of the group '{name}' that the "
                "original does not have: the steps before it regrouped its channels. Such a "
                "history cannot be merged into one removal; use replay."
            )


def _units_by_weight(
    graph: ChannelGraph, name: str, keep: Keep | None, removal: Removal
) -> dict[tuple[str, str, int], Any]:
    """The unit at each remaining index, numbered after the removal, by layer, weight and axis."""
    if name not in {group.name for group in graph.groups}:
        return {}
    group = graph[name]
    number = np.full(group.num_channels + 1, -1)  # the last entry serves other groups' -1
    remaining_units = np.setdiff1d(np.arange(group.num_channels), removal.get(name, ()))
    number[remaining_units] = np.arange(len(remaining_units))
    units_of_axis = {}
    for weight in group.weights:
        labels = graph.propagation.weights[weight.layer][weight.weight].axes[weight.axis]
        units = weight.units if keep is None or labels is None else weight.units[keep.mask(labels)]
        units_of_axis[weight.layer, weight.weight, weight.axis] = number[units]
    return units_of_axis
