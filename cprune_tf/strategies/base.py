"""What a strategy is: it proposes candidates, judges them, and learns from what was decided."""

from __future__ import annotations

import abc
import dataclasses
import typing
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from cprune_tf.runs.events import ACCEPTED

if typing.TYPE_CHECKING:
    from cprune_tf.devices import Latency
    from cprune_tf.importance.registry import Array
    from cprune_tf.runtimes import RuntimeModel
    from cprune_tf.strategies.workbench import CurrentModel, Workbench


@dataclasses.dataclass(frozen=True, eq=False)
class Draft:
    """A smaller model that nobody has decided on yet.

    Attributes:
        removal: Unit indices by group name, counted in the current model.
        model: The rebuilt Keras model; training changes it in place.
        prepared: The same as the runtime sees it.
    """

    removal: Mapping[str, tuple[int, ...]]
    model: Any
    prepared: RuntimeModel


@dataclasses.dataclass(frozen=True)
class Price:
    """What a draft is expected to cost, from its tasks.

    Attributes:
        ratio: The draft's tasks / the current model's tasks.
        latency_ms: The current model's whole latency x ratio.
    """

    ratio: float
    latency_ms: float


@dataclasses.dataclass(frozen=True, eq=False)
class Candidate:
    """One proposed pruning of the current model.

    Attributes:
        key: Names what is pruned; the same for every visit to it.
        draft: The pruned model.
        step: Units removed from each group of the target.
        task: The task that it is aimed at; "" where a strategy aims at no single one.
        layers: Keras layers of that task.
        price: What it is expected to cost; None where nobody asked.
    """

    key: str
    draft: Draft
    step: int
    task: str = ""
    layers: tuple[str, ...] = ()
    price: Price | None = None


@dataclasses.dataclass(frozen=True)
class Stop:
    """Nothing is proposed any more.

    Attributes:
        reason: Why, in words.
    """

    reason: str


@dataclasses.dataclass(frozen=True)
class Measurement:
    """A whole model, timed in turn with the current model and the original.

    Attributes:
        latency: The model's.
        current_ms: The current model's median.
        original_ratio: The model's median / the original's.
    """

    latency: Latency
    current_ms: float
    original_ratio: float

    @property
    def current_ratio(self) -> float:
        """The model's median / the current model's."""
        return self.latency.median_ms / self.current_ms


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a strategy thinks of a candidate.

    Attributes:
        decision: events.ACCEPTED, REFUSED_LATENCY or REFUSED_ACCURACY.
        reason: In words, with the numbers.
        measurement: Of the whole model; None where the price refused it.
        accuracy: After short-term training, 0..1; None where it was not trained.
    """

    decision: str
    reason: str
    measurement: Measurement | None
    accuracy: float | None

    @property
    def accepted(self) -> bool:
        """Whether the candidate becomes the current model."""
        return self.decision == ACCEPTED


class Strategy(abc.ABC):
    """Decides what is pruned; made anew when a run is resumed, and told what had been decided.

    Args:
        bench: Compiler, device, training and record.
        original: The model to start from (iteration 0), tuned and measured.
        required_accuracy: What the result needs, 0..1.

    Attributes:
        settings: The strategy's own config.
    """

    name: ClassVar[str]
    # What ranks units where config.strategy.importance is empty.
    default_importance: ClassVar[str] = "l1"

    def __init__(self, bench: Workbench, original: CurrentModel, required_accuracy: float) -> None:
        self.bench = bench
        self.original = original
        self.required_accuracy = required_accuracy
        self.settings: Any = getattr(bench.config.strategy, self.name)

    @abc.abstractmethod
    def propose(self, current: CurrentModel) -> Candidate | Stop:
        """What to try next.

        Args:
            current: The last accepted model, at first the original.

        Returns:
            A candidate, or why there is none. The same one again when a run is resumed that was
            killed before the candidate was decided on.
        """

    @abc.abstractmethod
    def judge(self, current: CurrentModel, candidate: Candidate, index: int) -> Verdict:
        """Measures and trains a candidate as far as it takes to decide.

        Args:
            current: The model that the candidate was made from.
            candidate: From propose; its model may be trained in place.
            index: The candidate's number in this run, from 0.

        Returns:
            The decision.
        """

    def accept(self, current: CurrentModel, candidate: Candidate, verdict: Verdict) -> CurrentModel:
        """Turns an accepted candidate into the current model; tunes it unless overridden."""
        return self.bench.accept(current, candidate, verdict)

    def learn(self, event: Any) -> None:  # noqa: B027 (a strategy may have nothing to learn)
        """Takes note of a journalled event, when it is written and again when a run is resumed.

        Args:
            event: One of runs.events: CandidateJudged, CountRuledOut or CandidateMeasured.
        """


def least_units(ranking: Mapping[str, tuple[int, ...]], count: int) -> dict[str, tuple[int, ...]]:
    """The least important units of each group.

    Args:
        ranking: All unit indices by group name, the least important first.
        count: Units to take from each group.

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
