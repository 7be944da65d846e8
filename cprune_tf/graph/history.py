"""The pruning history as data: replayed on the original model it gives the pruned one."""

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

_FORMAT = 1


@dataclass(frozen=True)
class PruningStep:
    """One removal.

    Attributes:
        removal: Sorted unit indices by group name, counted in the model before this step.
        fold_constants: As given to `rebuild`.
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
        """A history with one more step.

        Args:
            removal: Unit indices by group name, counted in the model after the last step.
            fold_constants: As given to `rebuild`.

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
            GraphError: For text that is not such a history.
        """
        try:
            data = json.loads(text)
            known = data["format"]
            steps = [(step["removal"], step["fold_constants"]) for step in data["steps"]]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise GraphError(f"This is not a pruning history in JSON: {error!r}.") from error
        if known != _FORMAT:
            raise GraphError(f"The pruning history has format {known}; expected {_FORMAT}.")
        history = cls()
        for removal, fold_constants in steps:
            history = history.add(removal, fold_constants=fold_constants)
        return history

    def replay(self, original: Any) -> Any:
        """Repeats all steps.

        Args:
            original: The model before the first step; it is not modified.

        Returns:
            The pruned model: the same weights, bit for bit, as the steps gave.
        """
        model = original
        for step in self.steps:
            model = rebuild(model, step.removal, fold_constants=step.fold_constants)
        return rebuild(model, {}) if model is original else model

    def merged(self, original: Any) -> dict[str, Sequence[int]]:
        """All steps as one removal, counted in the original model.

        Args:
            original: The model before the first step; it is not modified.

        Returns:
            Unit indices by group name.

        Raises:
            GraphError: Where a step removed what is not a unit of the original: channels that were
                split along two axes (a channel shuffle) are removed along the longer one, and
                pruning can make the other one the longer.
        """
        first = analyze(original)
        left = {group.name: list(range(group.num_channels)) for group in first.groups}
        gone: dict[str, list[int]] = {}
        model = original
        for number, step in enumerate(self.steps, 1):
            if number > 1:
                model = rebuild(model, self.steps[number - 2].removal, fold_constants=False)
                _check_same_units(first, gone, analyze(model), step.removal, number)
            for name, indices in step.removal.items():
                gone.setdefault(name, []).extend(left[name][i] for i in indices)
                dropped = set(indices)
                left[name] = [unit for i, unit in enumerate(left[name]) if i not in dropped]
        return {name: sorted(units) for name, units in gone.items()}


def _check_same_units(
    first: ChannelGraph, gone: Removal, later: ChannelGraph, removal: Removal, number: int
) -> None:
    """Raises GraphError unless the groups of a removal still consist of the original's units."""
    keep = first.keep(gone)
    for name, indices in removal.items():
        if not indices:
            continue
        expected = _units_by_weight(first, name, keep, gone)
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
    graph: ChannelGraph, name: str, keep: Keep | None, gone: Removal
) -> dict[tuple[str, str, int], Any]:
    """The unit at each index that remains, counted after the removal, by layer, weight and axis."""
    if name not in {group.name for group in graph.groups}:
        return {}
    group = graph[name]
    number = np.full(group.num_channels + 1, -1)  # the last entry serves other groups' -1
    stay = np.setdiff1d(np.arange(group.num_channels), gone.get(name, ()))
    number[stay] = np.arange(len(stay))
    units_of_axis = {}
    for weight in group.weights:
        labels = graph.propagation.weights[weight.layer][weight.weight].axes[weight.axis]
        units = weight.units if keep is None or labels is None else weight.units[keep.mask(labels)]
        units_of_axis[weight.layer, weight.weight, weight.axis] = number[units]
    return units_of_axis
