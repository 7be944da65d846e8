"""The pruning history as data: replayed on the original model it gives the pruned one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cprune_tf.graph.channel_graph import Removal, analyze
from cprune_tf.graph.errors import GraphError
from cprune_tf.graph.rebuild import rebuild

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
            original: The model before the first step.

        Returns:
            Unit indices by group name.
        """
        left = {group.name: list(range(group.num_channels)) for group in analyze(original).groups}
        gone: dict[str, list[int]] = {}
        for step in self.steps:
            for name, indices in step.removal.items():
                gone.setdefault(name, []).extend(left[name][i] for i in indices)
                dropped = set(indices)
                left[name] = [unit for i, unit in enumerate(left[name]) if i not in dropped]
        return {name: sorted(units) for name, units in gone.items()}
