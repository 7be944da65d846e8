"""The events of a run's journal: one frozen dataclass for each kind of line."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from cprune_tf.accuracy import Evaluation, PairedDifference
from cprune_tf.devices.base import DeviceInfo
from cprune_tf.devices.latency import Latency
from cprune_tf.runs.records import Schema
from cprune_tf.runs.results import (
    CrossCheck,
    DrawnPattern,
    ExportedFile,
    ModelRecord,
    PatternEpoch,
    PatternLayer,
)

ACCEPTED = "accepted"
REFUSED_LATENCY = "refused_latency"
REFUSED_ACCURACY = "refused_accuracy"


@dataclasses.dataclass(frozen=True)
class RunStarted:
    """A session of the run began: the first one or a resumed one.

    Attributes:
        version: The version of this package.
        config_hash: A short name of the config; see `directory.config_hash`.
        model: The model's name or path.
        device: The device's hardware and software.
        resumed: Whether an earlier session had begun the run.
    """

    kind: ClassVar[str] = "run_started"
    version: str
    config_hash: str
    model: str
    device: DeviceInfo
    resumed: bool


@dataclasses.dataclass(frozen=True)
class EnvironmentChanged:
    """The machine or the packages differ from those of the last session.

    Attributes:
        changes: One line of text for each field that changed.
        now: The whole environment of this session; see `environment.describe_environment`.
    """

    kind: ClassVar[str] = "environment_changed"
    changes: tuple[str, ...]
    now: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class DataDescribed:
    """The data that the run trains with, is decided by and is quoted on.

    Attributes:
        name: Where they come from.
        num_train: Number of training images; None if the source does not tell.
        num_validation: Number of images that decide which candidates are accepted; 0 if the test
            images decide.
        num_test: Number of images that the accuracies of the cross-check are quoted on.
        validation_source: Where the validation images come from: "train", "test" or "given"; "" if
            there are none.
        reason: Why they come from there, with the numbers; "" if it needs no reason.
    """

    kind: ClassVar[str] = "data"
    name: str
    num_train: int | None
    num_validation: int
    num_test: int
    validation_source: str = ""
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """The original model was evaluated.

    Attributes:
        accuracy: The original model's accuracy, 0..1.
        num_images: Number of images that decide; 0 if the caller's own function evaluates.
        hits: Which of them the original classifies right, as `accuracy.pack_hits` packs it; "" if
            the caller's own function evaluates.
    """

    kind: ClassVar[str] = "evaluated"
    accuracy: float
    num_images: int = 0
    hits: str = ""


@dataclasses.dataclass(frozen=True)
class Baseline(ModelRecord):
    """The original model was tuned and measured.

    Attributes:
        required_accuracy: The accuracy that the result must have, 0..1, or the score.
        metric: The name of the metric that all accuracies are of; see `accuracy.Metric`.
        is_minimized: Whether the metric is minimised. What the journal calls accuracies are then
            its negatives, in all events, so that higher is better everywhere.
    """

    kind: ClassVar[str] = "baseline"
    required_accuracy: float = 0.0
    metric: str = "top1"
    is_minimized: bool = False


@dataclasses.dataclass(frozen=True)
class CountRuledOut:
    """A strategy did not propose a channel count: its price or a staircase ruled it out.

    Attributes:
        key: The key of the strategy's target.
        step: Number of units that would have been removed from each group of the target.
        price_ratio: The predicted latency / that of the current model, or of a larger count on the
            staircase; both predicted in the same way.
        reason: Why the count was ruled out, with the numbers.
    """

    kind: ClassVar[str] = "count_ruled_out"
    key: str
    step: int
    price_ratio: float
    reason: str


@dataclasses.dataclass(frozen=True)
class CandidatePlanned:
    """A strategy worked out what to remove, at some expense.

    Attributes:
        index: The candidate's number, from 0.
        attempt: Counts the plans for this candidate, from 0: a plan may turn out to be wrong, or
            one of several.
        key: The key of the strategy's target.
        removed: Indices of the units to remove, by channel group; empty if nothing that helps can
            be removed.
        ratio: The planned latency of the tasks / that of the current model's tasks.
        reason: How the plan was found, with the numbers.
    """

    kind: ClassVar[str] = "candidate_planned"
    index: int
    attempt: int
    key: str
    removed: Mapping[str, tuple[int, ...]]
    ratio: float
    reason: str


@dataclasses.dataclass(frozen=True)
class ProposalTrained:
    """A strategy trained one of several plans, to choose the candidate among them.

    Attributes:
        index: The candidate's number, from 0.
        key: The key of the plan; see CandidatePlanned.
        accuracy: Accuracy after short-term training, 0..1.
        paired: Its difference from the original's; None if the caller's own function evaluates.
    """

    kind: ClassVar[str] = "proposal_trained"
    index: int
    key: str
    accuracy: float
    paired: PairedDifference | None = None

    @property
    def evaluation(self) -> Evaluation:
        """The accuracy, which rests on all images that decide."""
        return Evaluation.whole(self.accuracy, self.paired)


@dataclasses.dataclass(frozen=True)
class CandidateMeasured:
    """A candidate's whole-model latency was measured, before the candidate was trained.

    Attributes:
        index: The candidate's number, from 0.
        removed: Indices of the removed units, by channel group.
        measured: The candidate's latency.
        current_ms: The current model's median latency, measured side by side with the candidate.
        ratio: The candidate's median latency / the original's, measured side by side.
    """

    kind: ClassVar[str] = "candidate_measured"
    index: int
    removed: Mapping[str, tuple[int, ...]]
    measured: Latency
    current_ms: float
    ratio: float


@dataclasses.dataclass(frozen=True)
class SoftStarted:
    """A candidate was made from weights that a soft start had prepared for its removal.

    Attributes:
        index: The candidate's number, from 0.
        epochs: Number of epochs of the soft start.
        num_units: Number of units that the penalty pressed towards zero, all groups together.
        norm_ratio: The median over these units of: norm after the soft start / norm before it.
        weights: The `.keras` file of the candidate before it was trained further, relative to the
            run directory; the next soft start replaces it.
    """

    kind: ClassVar[str] = "soft_started"
    index: int
    epochs: int
    num_units: int
    norm_ratio: float
    weights: str

    def __str__(self) -> str:
        epochs = f"{self.epochs} epoch{'' if self.epochs == 1 else 's'}"
        return (
            f"after a soft start of {epochs}: the norms of {self.num_units} units fell to "
            f"{self.norm_ratio:.1%}"
        )


@dataclasses.dataclass(frozen=True)
class PatternsTrained:
    """A candidate was trained towards patterns and projected on them.

    Attributes:
        index: The candidate's number, from 0.
        method: How it was trained: "admm", "one_shot" or "straight_through".
        num_epochs: Number of epochs of that training.
        epochs: What the epochs told; empty where the method tells nothing.
        patterns: The patterns, those of each kernel size together, the most frequent first.
        layers: What stays of each sparse layer.
        kept: The file that says which weights stay, relative to the run directory.
        weights: The `.keras` file of the candidate after the projection, relative to the run
            directory.
    """

    kind: ClassVar[str] = "patterns_trained"
    index: int
    method: str
    num_epochs: int
    epochs: tuple[PatternEpoch, ...]
    patterns: tuple[DrawnPattern, ...]
    layers: tuple[PatternLayer, ...]
    kept: str
    weights: str

    def __str__(self) -> str:
        kernels = sum(layer.num_kernels for layer in self.layers)
        size = sum(layer.num_kernels * layer.height * layer.width for layer in self.layers)
        kept = sum(layer.num_kept for layer in self.layers) / kernels
        weights = sum(layer.num_weights for layer in self.layers) / size
        return (
            f"{len(self.patterns)} patterns in {len(self.layers)} layers, which keep {kept:.1%} of "
            f"their kernels and {weights:.1%} of their weights"
        )


@dataclasses.dataclass(frozen=True)
class CandidateJudged:
    """A candidate was accepted or refused.

    One line holds both the decision and the model that it leads to, so that a killed process cannot
    leave one without the other.

    Attributes:
        index: The candidate's number, from 0.
        iteration: The iteration of the model that the candidate was made from.
        key: The key of the strategy's target.
        task: The task that the strategy aimed at; "" if it did not aim at a single task.
        layers: Keras layers of that task.
        removed: Number of removed units by channel group.
        step: Number of units removed from each group of the target.
        price_ms: Predicted whole-model latency; None if the candidate was not priced.
        current_latency_ms: The latency of the current model that the candidate was compared with.
        measured: The candidate's whole-model latency; None if the price ruled it out.
        accuracy: Accuracy after short-term training, 0..1; None if the candidate was not trained.
            If it was refused before all images were evaluated, an estimate.
        current_accuracy: Accuracy of the model that the candidate was made from, 0..1.
        decision: ACCEPTED, REFUSED_LATENCY or REFUSED_ACCURACY.
        reason: Why the candidate was accepted or refused, with the numbers.
        elapsed_sec: Time spent on the candidate.
        accepted: The model that the candidate became; None if it was refused.
        paired: The difference of the accuracy from the original's, on the images that were
            evaluated; None if the candidate was not trained, or if the caller's own function
            evaluates.
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
    paired: PairedDifference | None = None


@dataclasses.dataclass(frozen=True)
class Accepted(ModelRecord):
    """A candidate became the current model."""

    kind: ClassVar[str] = "accepted"


@dataclasses.dataclass(frozen=True)
class Stopped:
    """Pruning ended.

    Attributes:
        reason: Why pruning ended.
        iteration: The iteration of the last accepted model.
    """

    kind: ClassVar[str] = "stopped"
    reason: str
    iteration: int


@dataclasses.dataclass(frozen=True)
class LongTermTrained:
    """An accepted model was trained for long; the last one that was is the result.

    Attributes:
        accuracy: Accuracy of the model that was kept, 0..1.
        epochs: Number of epochs that were planned; 0 if nothing was pruned.
        kept: Which weights were kept: "trained", or "as it was" if nothing was pruned or training
            lowered the accuracy.
        model: The `.keras` file of the kept model, relative to the run directory.
        iteration: The accepted model that was trained; 0 for the original, which is not trained.
            -1 in the journal of an older run: the last accepted one.
        paired: The difference of the accuracy from the original's; None for the original itself, or
            if the caller's own function evaluates.
    """

    kind: ClassVar[str] = "long_term_trained"
    accuracy: float
    epochs: int
    kept: str
    model: str
    iteration: int = -1
    paired: PairedDifference | None = None

    @property
    def evaluation(self) -> Evaluation:
        """The accuracy, which rests on all images that decide."""
        return Evaluation.whole(self.accuracy, self.paired)


@dataclasses.dataclass(frozen=True)
class Exported:
    """The files that the run delivers were written.

    Attributes:
        files: All delivered files.
    """

    kind: ClassVar[str] = "exported"
    files: tuple[ExportedFile, ...]


@dataclasses.dataclass(frozen=True)
class CrossChecked(CrossCheck):
    """The original and the result were compared on every runtime."""

    kind: ClassVar[str] = "cross_check"

    @classmethod
    def of(cls, check: CrossCheck) -> CrossChecked:
        """Returns the event with the results of a cross-check."""
        return cls(**{f.name: getattr(check, f.name) for f in dataclasses.fields(CrossCheck)})


@dataclasses.dataclass(frozen=True)
class StageEnded:
    """A stage of the run ended.

    Attributes:
        name: The stage's name.
        elapsed_sec: Time spent on the stage in this session.
    """

    kind: ClassVar[str] = "stage"
    name: str
    elapsed_sec: float


@dataclasses.dataclass(frozen=True)
class Finished:
    """The run has nothing left to do.

    Attributes:
        elapsed_sec: Duration of the session that finished the run.
        peak_memory_bytes: Peak memory of that session's main process.
    """

    kind: ClassVar[str] = "finished"
    elapsed_sec: float
    peak_memory_bytes: int


RUN_EVENTS = Schema(
    3,
    (
        RunStarted,
        EnvironmentChanged,
        DataDescribed,
        Evaluated,
        Baseline,
        CountRuledOut,
        CandidatePlanned,
        ProposalTrained,
        CandidateMeasured,
        SoftStarted,
        PatternsTrained,
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
"""The events of a run's journal. In format 1, there was no header and fields could be missing;
in format 2, models were not compared with the original image by image."""
