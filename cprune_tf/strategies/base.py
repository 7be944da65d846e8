"""The interface of a strategy: it proposes candidates, judges them and learns from decisions."""

from __future__ import annotations

import abc
import dataclasses
import typing
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

import numpy as np

from cprune_tf.accuracy import AccuracyGate, Evaluation, Metric
from cprune_tf.config.checks import ConfigError
from cprune_tf.runs.events import ACCEPTED

if typing.TYPE_CHECKING:
    from cprune_tf.config import PruneConfig
    from cprune_tf.devices import Latency
    from cprune_tf.graph import ChannelGraph
    from cprune_tf.importance.registry import Array
    from cprune_tf.runs.events import CandidatePlanned
    from cprune_tf.runtimes import RuntimeModel
    from cprune_tf.strategies.workbench import CurrentModel, Hooks, Workbench


@dataclasses.dataclass(frozen=True, eq=False)
class Draft:
    """A smaller model that is not decided on yet.

    Attributes:
        removal: Indices of the removed units in the current model, by group name.
        model: The rebuilt Keras model; training changes it in place.
        prepared: The model as the runtime sees it.
    """

    removal: Mapping[str, tuple[int, ...]]
    model: Any
    prepared: RuntimeModel


@dataclasses.dataclass(frozen=True)
class Price:
    """The predicted latency of a draft, derived from the latencies of its tasks.

    Attributes:
        ratio: Latency of the draft's tasks / latency of the current model's tasks.
        latency_ms: Whole-model latency: that of the current model x ratio.
    """

    ratio: float
    latency_ms: float


@dataclasses.dataclass(frozen=True, eq=False)
class Candidate:
    """One proposed pruning of the current model.

    Attributes:
        key: The key of what is pruned; candidates that prune the same target have the same key.
        draft: The pruned model.
        step: Number of units removed from each group of the target.
        task: The name of the task that the strategy aims at; "" if it does not aim at a single
            task.
        layers: Keras layers of that task.
        price: The predicted latency; None if the candidate was not priced.
    """

    key: str
    draft: Draft
    step: int
    task: str = ""
    layers: tuple[str, ...] = ()
    price: Price | None = None


@dataclasses.dataclass(frozen=True)
class Stop:
    """The strategy proposes no further candidate.

    Attributes:
        reason: Why pruning stops, in words.
    """

    reason: str


@dataclasses.dataclass(frozen=True)
class Measurement:
    """The latency of a candidate, measured side by side with the current and the original model.

    Attributes:
        latency: The candidate's whole-model latency.
        current_ms: The current model's median latency.
        original_ratio: The candidate's median latency / the original's.
    """

    latency: Latency
    current_ms: float
    original_ratio: float

    @property
    def current_ratio(self) -> float:
        """The candidate's median latency / the current model's."""
        return self.latency.median_ms / self.current_ms

    def __str__(self) -> str:
        return (
            f"{self.current_ratio:.1%} of the current model's latency, side by side "
            f"({1 / self.original_ratio:.3g}x as fast as the original)"
        )


@dataclasses.dataclass(frozen=True)
class Verdict:
    """A strategy's decision on a candidate.

    Attributes:
        decision: events.ACCEPTED, REFUSED_LATENCY or REFUSED_ACCURACY.
        reason: Why the candidate was accepted or refused, with the numbers.
        measurement: The measured whole-model latency; None if the candidate was not measured.
        evaluation: The accuracy after short-term training; None if the candidate was not trained.
    """

    decision: str
    reason: str
    measurement: Measurement | None
    evaluation: Evaluation | None

    @property
    def accepted(self) -> bool:
        """Whether the candidate becomes the current model."""
        return self.decision == ACCEPTED


class Strategy(abc.ABC):
    """Decides what is pruned next and whether it is kept.

    A resumed run makes a new strategy object and passes all earlier decisions to its `learn`.

    Args:
        bench: The workbench, which does all work on models.
        original: The original model (iteration 0), tuned and measured.
        required_accuracy: The accuracy (0..1) or score that the result must have.

    Attributes:
        settings: The strategy's own config, `config.strategy.NAME`.
    """

    name: ClassVar[str]
    # What ranks units where config.strategy.importance is empty.
    default_importance: ClassVar[str] = "l1"
    # Whether it has trainings that don't depend on each other, which config.ray_address is for.
    trains_side_by_side: ClassVar[bool] = False
    # Whether its results are to be faster than the original.
    aims_at_latency: ClassVar[bool] = True
    # Whether its results differ from the original in their numbers of filters alone.
    removes_only_filters: ClassVar[bool] = True

    def __init__(self, bench: Workbench, original: CurrentModel, required_accuracy: float) -> None:
        self.bench = bench
        self.original = original
        self.required_accuracy = required_accuracy
        self.settings: Any = getattr(bench.config.strategy, self.name)

    @classmethod  # noqa: B027 (most strategies have nothing to check)
    def check(cls, config: PruneConfig, hooks: Hooks) -> None:
        """Checks that a run can do what the strategy's settings ask for, before expensive work.

        Args:
            config: The config of the run, validated.
            hooks: The functions that train and evaluate models.

        Raises:
            ConfigError: The run cannot do it.
        """

    @classmethod
    def check_model(cls, config: PruneConfig, model: Any, channels: ChannelGraph) -> None:
        """Checks that the original has what the strategy prunes, before expensive work.

        Args:
            config: The config of the run, validated.
            model: The original, without nested models.
            channels: Its channel groups; those that the user protects are protected.

        Raises:
            ConfigError: By default, if no channel group can be pruned.
        """
        if not channels.prunable:
            reasons = sorted({str(group.protected) for group in channels.groups})
            raise ConfigError(
                f"The model {model.name!r} has no channel group that could be pruned: "
                f"{'; '.join(reasons) or 'no layer makes channels'}."
            )

    @property
    def metric(self) -> Metric:
        """What models are judged by."""
        return self.bench.hooks.metric

    def with_slack(self, fraction: float) -> float:
        """The required accuracy, less what long-term training may still make good.

        Args:
            fraction: How much less; see `Metric.drop`.
        """
        return self.required_accuracy - self.metric.drop(fraction, self.original.accuracy)

    @property
    def target_ratio(self) -> float:
        """The latency to reach / the original's; 0 if accuracy alone decides how far to go."""
        strategy = self.bench.config.strategy
        if strategy.target_speedup:
            return float(1 / strategy.target_speedup)
        if strategy.target_latency_ms:
            return float(strategy.target_latency_ms / self.original.latency.median_ms)
        return 0.0

    def accuracy_gate(self, least: float) -> AccuracyGate:
        """Returns the gate for a candidate.

        Args:
            least: The accuracy (0..1) or score that it must have.

        Returns:
            The gate. With `config.strategy.gate_confidence`, the lower confidence bound must reach
            the accuracy that the result must have, or `least` where that is lower.
        """
        confidence = self.bench.config.strategy.gate_confidence
        bound = min(least, self.required_accuracy)
        return AccuracyGate(least, bound, confidence, self.metric)

    @abc.abstractmethod
    def propose(self, current: CurrentModel) -> Candidate | Stop:
        """Proposes what to try next.

        Args:
            current: The last accepted model; the original if none was accepted yet.

        Returns:
            A candidate, or a Stop with the reason why there is none. If a run was killed before its
            candidate was judged, the resumed run must get the same candidate again.
        """

    def planned_candidate(self, current: CurrentModel, planned: CandidatePlanned) -> Candidate:
        """Drafts and prices what was planned.

        Whatever the plan measured is priced already; where that was lost, it is measured again.

        Args:
            current: The model to prune.
            planned: What is removed from it.

        Returns:
            The candidate, not trained.
        """
        draft = self.bench.draft(current, dict(planned.removed))
        price = self.bench.price(current, draft)
        return Candidate(planned.key, draft, num_units(planned.removed), price=price)

    @abc.abstractmethod
    def judge(self, current: CurrentModel, candidate: Candidate, index: int) -> Verdict:
        """Decides on a candidate; measures and trains it as far as the decision needs.

        Args:
            current: The model that the candidate was made from.
            candidate: A candidate from `propose`; its model may be trained in place.
            index: The candidate's number in this run, from 0.

        Returns:
            The decision.
        """

    def accept(self, current: CurrentModel, candidate: Candidate, verdict: Verdict) -> CurrentModel:
        """Makes an accepted candidate the current model.

        By default, the candidate is tuned, measured and saved; see `Workbench.accept`.
        """
        return self.bench.accept(current, candidate, verdict)

    def learn(self, event: Any) -> None:  # noqa: B027 (a strategy may have nothing to learn)
        """Learns from an event of the journal.

        Called with each CandidateJudged event when it is written. A resumed run calls it with all
        earlier CandidateJudged and CountRuledOut events. A strategy that journals a CountRuledOut
        event must call this method with it, so that it learns the same in both cases.

        Args:
            event: A CandidateJudged or CountRuledOut event of `runs.events`.
        """


def num_units(removal: Mapping[str, Collection[int]]) -> int:
    """Counts the units of a removal, all groups together."""
    return sum(len(units) for units in removal.values())


def least_units(ranking: Mapping[str, tuple[int, ...]], count: int) -> dict[str, tuple[int, ...]]:
    """Returns the least important units of each group.

    Args:
        ranking: All unit indices by group name, the least important first.
        count: Number of units to take from each group.

    Returns:
        Sorted unit indices by group name.
    """
    return {name: tuple(sorted(units[:count])) for name, units in ranking.items()}


def ranked(scores: Mapping[str, Array]) -> dict[str, tuple[int, ...]]:
    """Ranks units by their scores.

    Args:
        scores: By group name.

    Returns:
        All unit indices by group name, the least important first.
    """
    # A stable sort: equal scores go in index order on every machine.
    return {
        name: tuple(int(index) for index in np.argsort(values, kind="stable"))
        for name, values in scores.items()
    }
