"""Other weights instead of fewer filters: what another tool did to the original, as a candidate.

No strategy to choose by name: a comparison runs it beside the strategies, so that a tool's result
is tuned, timed, exported and checked as theirs are.
"""

from __future__ import annotations

import typing
from collections.abc import Callable
from typing import Any, Protocol

from cprune_tf.runs import events
from cprune_tf.strategies.base import Candidate, Stop, Strategy, Verdict

if typing.TYPE_CHECKING:
    from cprune_tf.data import ImageData
    from cprune_tf.strategies.workbench.bench import CurrentModel, Workbench

_KEY = "weights"


class Sparsifier(Protocol):
    """Sets weights of a model to zero, by whatever method."""

    def check(self, model: Any, data: ImageData) -> None:
        """Raises a UserError if it cannot work on a model; called before anything expensive."""

    def __call__(
        self, model: Any, data: ImageData, on_step: Callable[[int, int, str], None]
    ) -> str:
        """Trains a model in place and returns what was done, in words.

        Args:
            model: The model.
            data: Training batches.
            on_step: Told how far it is: (steps done, steps in all, text).
        """


class Reweighting(Strategy):
    """Proposes the original once, has a sparsifier change its weights, and accepts what it gets.

    Its accuracy is not a reason to refuse it: the comparison says whether it is enough.

    Args:
        bench: The workbench.
        original: The original model (iteration 0), tuned and measured.
        required_accuracy: The accuracy that a result should have, 0..1.
        sparsify: Changes the weights.
        data: What it trains on.
    """

    def __init__(
        self,
        bench: Workbench,
        original: CurrentModel,
        required_accuracy: float,
        sparsify: Sparsifier,
        data: ImageData,
    ) -> None:
        self.bench = bench
        self.original = original
        self.required_accuracy = required_accuracy
        self._sparsify = sparsify
        self._data = data
        self._is_done = False

    def learn(self, event: Any) -> None:
        """See Strategy."""
        self._is_done |= isinstance(event, events.CandidateJudged)

    def propose(self, current: CurrentModel) -> Candidate | Stop:
        """See Strategy: the original itself, once."""
        if self._is_done:
            return Stop("the weights were changed, and no filter is removed")
        draft = self.bench.draft(current, {})
        return Candidate(_KEY, draft, 0, price=self.bench.price(current, draft))

    def judge(self, current: CurrentModel, candidate: Candidate, index: int) -> Verdict:
        """See Strategy: accepted, whatever its accuracy."""
        measurement = self.bench.measure(current, candidate, index)
        model = candidate.draft.model
        with self.bench.progress.stage(f"Train candidate {index + 1}"):
            done = self._sparsify(model, self._data, self.bench.progress.innermost)
            evaluation = self.bench.evaluate(model)
        reason = f"{evaluation.text(self.metric)}, {measurement}; {done}"
        return Verdict(events.ACCEPTED, reason, measurement, evaluation)
