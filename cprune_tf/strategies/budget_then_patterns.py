"""The strategy "latency_budget+patdnn": filters first, patterns after.

It prunes filters as `latency_budget` does. When that stops, the last accepted model gets patterns
as in `patdnn`. Each part has its own config, and the accuracy gate is that of the part. The last
of `config.strategy.max_iterations` candidates is kept for the patterns.
"""

from __future__ import annotations

import typing
from typing import Any

from cprune_tf.runs import events
from cprune_tf.strategies.base import Candidate, Stop, Strategy, Verdict
from cprune_tf.strategies.latency_budget import LatencyBudget
from cprune_tf.strategies.patdnn import PATTERNS_KEY, PatDnn
from cprune_tf.strategies.registry import register_strategy

if typing.TYPE_CHECKING:
    from cprune_tf.config import PruneConfig
    from cprune_tf.graph import ChannelGraph
    from cprune_tf.strategies.workbench import CurrentModel, Hooks, Workbench


@register_strategy("latency_budget+patdnn", None)
class BudgetThenPatterns(Strategy):
    """See the module's text."""

    default_importance = LatencyBudget.default_importance
    removes_only_filters = False

    def __init__(self, bench: Workbench, original: CurrentModel, required_accuracy: float) -> None:
        self.bench = bench
        self.original = original
        self.required_accuracy = required_accuracy
        self._filters = LatencyBudget(bench, original, required_accuracy)
        self._patterns = PatDnn(bench, original, required_accuracy)
        self._num_judged = 0

    @classmethod
    def check(cls, config: PruneConfig, hooks: Hooks) -> None:
        """See Strategy: what both need."""
        LatencyBudget.check(config, hooks)
        PatDnn.check_training(config, hooks)

    @classmethod
    def check_model(cls, config: PruneConfig, model: Any, channels: ChannelGraph) -> None:
        """See Strategy: what both need."""
        LatencyBudget.check_model(config, model, channels)
        PatDnn.check_model(config, model, channels)

    def learn(self, event: Any) -> None:
        """See Strategy."""
        self._num_judged += isinstance(event, events.CandidateJudged)
        has_patterns = getattr(event, "key", "") == PATTERNS_KEY
        (self._patterns if has_patterns else self._filters).learn(event)

    def propose(self, current: CurrentModel) -> Candidate | Stop:
        """See Strategy: fewer filters as long as the budget asks for it, then patterns."""
        left = self.bench.config.strategy.max_iterations - self._num_judged
        # A resumed run may have begun with the patterns before it was killed.
        has_begun = self.bench.run.journal.last(events.PatternsTrained) is not None
        if left > 1 and not has_begun:
            proposal = self._filters.propose(current)
            if isinstance(proposal, Candidate):
                return proposal
            self.bench.progress.note(f"No more filters go: {proposal.reason}.")
        return self._patterns.propose(current)

    def judge(self, current: CurrentModel, candidate: Candidate, index: int) -> Verdict:
        """See Strategy."""
        has_patterns = candidate.key == PATTERNS_KEY
        return (self._patterns if has_patterns else self._filters).judge(current, candidate, index)
