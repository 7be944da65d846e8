"""Every kind of line in a run's journal, as a frozen dataclass."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from cprune_tf.devices.base import DeviceInfo
from cprune_tf.devices.latency import Latency
from cprune_tf.runs.records import Schema
from cprune_tf.runs.results import CrossCheck, ExportedFile, ModelRecord

ACCEPTED = "accepted"
REFUSED_LATENCY = "refused_latency"
REFUSED_ACCURACY = "refused_accuracy"


@dataclasses.dataclass(frozen=True)
class RunStarted:
    """A session of the run began: the first one or a resumed one.

    Attributes:
        version: Of the package.
        config_hash: Names the config.
        model: The model's name or path.
        device: What the device is and has.
        resumed: Whether the run had begun before.
    """

    kind: ClassVar[str] = "run_started"
    version: str
    config_hash: str
    model: str
    device: DeviceInfo
    resumed: bool


@dataclasses.dataclass(frozen=True)
class EnvironmentChanged:
    """The machine or the packages differ from those the run began with.

    Attributes:
        changes: One line each.
        now: The whole environment.
    """

    kind: ClassVar[str] = "environment_changed"
    changes: tuple[str, ...]
    now: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """The original was judged.

    Attributes:
        accuracy: 0..1.
    """

    kind: ClassVar[str] = "evaluated"
    accuracy: float


@dataclasses.dataclass(frozen=True)
class Baseline(ModelRecord):
    """The original was tuned and measured.

    Attributes:
        required_accuracy: What the result needs, 0..1.
        metric: "top1" or "top5".
    """

    kind: ClassVar[str] = "baseline"
    required_accuracy: float = 0.0
    metric: str = "top1"


@dataclasses.dataclass(frozen=True)
class CountRuledOut:
    """A strategy did not propose a channel count, since its price already ruled it out.

    Attributes:
        key: Of the target.
        step: Units that would have been removed from each group.
        price_ratio: Price / the current model's, priced alike.
        reason: In words, with the numbers.
    """

    kind: ClassVar[str] = "count_ruled_out"
    key: str
    step: int
    price_ratio: float
    reason: str


@dataclasses.dataclass(frozen=True)
class CandidateMeasured:
    """A candidate was timed whole, before it was trained.

    Attributes:
        index: Of the candidate.
        removed: Units by group.
        measured: Its latency.
        current_ms: The current model's median, measured beside it.
        ratio: Its median / the original's, measured beside it.
    """

    kind: ClassVar[str] = "candidate_measured"
    index: int
    removed: Mapping[str, tuple[int, ...]]
    measured: Latency
    current_ms: float
    ratio: float


@dataclasses.dataclass(frozen=True)
class CandidateJudged:
    """A candidate was accepted or refused.

    One line carries the decision and the model it leads to, so that no kill can part them.

    Attributes:
        index: Of the candidate, from 0.
        iteration: Of the model that it was made from.
        key: Of the strategy's target.
        task: The task it was aimed at; "" where a strategy aims at no single one.
        layers: Keras layers of that task.
        removed: Units removed from each group, by number.
        step: Units removed from each group of the target.
        price_ms: Predicted whole-model latency; None where it was not priced.
        current_latency_ms: The current model's latency that it was compared with.
        measured: Its whole-model latency; None where the price refused it.
        accuracy: After short-term training, 0..1; None where it was not trained.
        current_accuracy: Of the model that it was made from.
        decision: ACCEPTED, REFUSED_LATENCY or REFUSED_ACCURACY.
        reason: In words, with the numbers.
        elapsed_sec: Spent on it.
        accepted: The model it became, where accepted.
    """

    kind: ClassVar[str] = "candidate"
    index: int
    iteration: int
    key: str
    task: str
    layers: tuple[str, ...]
    removed: Mapping[str, int]
    step: int
    price_ms: float | None
    current_latency_ms: float
    measured: Latency | None
    accuracy: float | None
    current_accuracy: float
    decision: str
    reason: str
    elapsed_sec: float
    accepted: ModelRecord | None


@dataclasses.dataclass(frozen=True)
class Accepted(ModelRecord):
    """A candidate became the current model."""

    kind: ClassVar[str] = "accepted"


@dataclasses.dataclass(frozen=True)
class Stopped:
    """Pruning ended.

    Attributes:
        reason: Why.
        iteration: Of the last accepted model.
    """

    kind: ClassVar[str] = "stopped"
    reason: str
    iteration: int


@dataclasses.dataclass(frozen=True)
class LongTermTrained:
    """The result was trained.

    Attributes:
        accuracy: Of what was kept, 0..1.
        epochs: Trained; 0 where nothing was pruned.
        kept: "trained" or "as it was".
        model: The `.keras` file, relative to the run directory.
    """

    kind: ClassVar[str] = "long_term_trained"
    accuracy: float
    epochs: int
    kept: str
    model: str


@dataclasses.dataclass(frozen=True)
class Exported:
    """What the run delivers was written.

    Attributes:
        files: All of it.
    """

    kind: ClassVar[str] = "exported"
    files: tuple[ExportedFile, ...]


@dataclasses.dataclass(frozen=True)
class CrossChecked(CrossCheck):
    """The original and the result were compared on every runtime."""

    kind: ClassVar[str] = "cross_check"

    @classmethod
    def of(cls, check: CrossCheck) -> CrossChecked:
        """The event that says what a cross-check found."""
        return cls(**{f.name: getattr(check, f.name) for f in dataclasses.fields(CrossCheck)})


@dataclasses.dataclass(frozen=True)
class StageEnded:
    """A stage of the run ended.

    Attributes:
        name: Of the stage.
        elapsed_sec: In this session.
    """

    kind: ClassVar[str] = "stage"
    name: str
    elapsed_sec: float


@dataclasses.dataclass(frozen=True)
class Finished:
    """The run has nothing left to do.

    Attributes:
        elapsed_sec: Of the session that ended it.
        peak_memory_bytes: Of its main process.
    """

    kind: ClassVar[str] = "finished"
    elapsed_sec: float
    peak_memory_bytes: int


RUN_EVENTS = Schema(
    2,
    (
        RunStarted,
        EnvironmentChanged,
        Evaluated,
        Baseline,
        CountRuledOut,
        CandidateMeasured,
        CandidateJudged,
        Accepted,
        Stopped,
        LongTermTrained,
        Exported,
        CrossChecked,
        StageEnded,
        Finished,
    ),
)
"""What a run's journal holds. Format 1 had no header and fields that could be missing."""
