"""The contents of a comparison of strategies. All its forms show these fields only.

A number that was not measured is None, never a guess. Accuracies are fractions (0..1). Fields with
times have their unit in the name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from cprune_tf.accuracy import Metric
from cprune_tf.baselines.tfmot.sparse_files import SparseFiles
from cprune_tf.devices.base import DeviceInfo
from cprune_tf.devices.latency import Latency

# The name of the original among the timed models.
ORIGINAL = "original"

# The states of a row. Only the first two have a pruned model.
MET = "met"
MISSED = "missed"
UNPRUNED = "unpruned"
FAILED = "failed"


@dataclasses.dataclass(frozen=True)
class TimedModel:
    """One model of the joint measurement.

    Attributes:
        name: ORIGINAL, or the strategy that made the model.
        digest: A hash of the library that was timed.
        latency: The latency of one call.
    """

    name: str
    digest: str
    latency: Latency


@dataclasses.dataclass(frozen=True)
class Timing:
    """The joint measurement: all models timed in turn in one call, at the end.

    Attributes:
        device: The device that the models ran on.
        time: When the measurement ended, in ISO format.
        models: The timed models.
    """

    device: DeviceInfo
    time: str
    models: tuple[TimedModel, ...]

    def latency(self, name: str) -> Latency | None:
        """Returns the latency of a model; None if it was not timed."""
        return next((model.latency for model in self.models if model.name == name), None)

    def covers(self, digests: Mapping[str, str]) -> bool:
        """Returns whether all these libraries, given as hashes by name, were timed together."""
        return digests.items() <= {model.name: model.digest for model in self.models}.items()


@dataclasses.dataclass(frozen=True)
class Speedup:
    """How many times as fast as the original a model is, from the joint measurement.

    Attributes:
        median: Median of the original / median of the model.
        low: Lower quartile of the original / upper quartile of the model.
        high: Upper quartile of the original / lower quartile of the model.
    """

    median: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class AcceptedModel:
    """A model that a run accepted on its way, before long-term training.

    Attributes:
        number: The model's number in its run.
        speedup: The original's latency / the model's, measured side by side during the run.
        accuracy: Accuracy on the images that decide, 0..1.
    """

    number: int
    speedup: float
    accuracy: float


@dataclasses.dataclass(frozen=True)
class SearchCost:
    """What a strategy's result cost.

    Attributes:
        search_sec: Time spent on pruning, with all trainings of candidates, and on tuning the
            result.
        prune_sec: The part of it that the stage "Prune" took.
        tune_sec: The part of it that the stage "Tune the result" took.
        num_candidates: Number of candidates that were decided on.
        num_trained: Number of models that were trained for a short time; a soft start counts as
            one more.
        num_sessions: How many times the run was started or resumed.
    """

    search_sec: float
    prune_sec: float
    tune_sec: float
    num_candidates: int
    num_trained: int
    num_sessions: int


@dataclasses.dataclass(frozen=True)
class Original:
    """The model before pruning.

    Attributes:
        deciding_accuracy: Accuracy on the images that decide.
        test_accuracy: Accuracy on the test images.
        latency: The latency in the joint measurement.
        params: Number of parameters.
    """

    deciding_accuracy: float | None
    test_accuracy: float | None
    latency: Latency | None
    params: int | None


@dataclasses.dataclass(frozen=True)
class Row:
    """One strategy.

    Attributes:
        strategy: The strategy's name.
        state: MET or MISSED: there is a result, which has the required accuracy or not; UNPRUNED:
            the run delivers the original; FAILED: the run has no result.
        remark: Why there is no pruned model; "" if there is one.
        deciding_accuracy: The result's accuracy on the images that decide.
        test_accuracy: The result's accuracy on the test images.
        latency: The result's latency in the joint measurement.
        speedup: None without a latency, or on an emulated device.
        params: The result's number of parameters.
        cost: What the search cost; None if the run has no result.
        accepted: The models that were accepted on the way, without the original and the result.
        folder: The run's directory, relative to that of the comparison.
        sparse: What the zeros among the result's weights are worth in LiteRT; None if the strategy
            removes filters instead.
    """

    strategy: str
    state: str
    remark: str
    deciding_accuracy: float | None
    test_accuracy: float | None
    latency: Latency | None
    speedup: Speedup | None
    params: int | None
    cost: SearchCost | None
    accepted: tuple[AcceptedModel, ...]
    folder: str
    sparse: SparseFiles | None = None

    @property
    def has_result(self) -> bool:
        """Whether there is a pruned model."""
        return self.state in (MET, MISSED)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A comparison of strategies, built from their run directories and the joint measurement.

    Attributes:
        title: Name of the pruned model.
        verdict: The sentence to read first.
        notes: Sentences that a reader needs to know to interpret the numbers.
        metric: The name of the metric that all accuracies are of, "top1" for example; None if
            unknown.
        is_minimized: Whether the metric is minimised. All accuracies are its negatives then.
        required_accuracy: The accuracy that a result must have on the images that decide.
        device_name: A readable name of the device; None if unknown.
        emulated: Whether the device is emulated, so that its latencies mean nothing.
        original: The model before pruning.
        rows: The strategies: those that met the requirement first, the fastest of them at the top.
        timing: The joint measurement; None if there was nothing to time.
        config: The config that all runs share, without the name of the strategy.
    """

    title: str
    verdict: str
    notes: tuple[str, ...]
    metric: str | None
    is_minimized: bool
    required_accuracy: float | None
    device_name: str | None
    emulated: bool
    original: Original
    rows: tuple[Row, ...]
    timing: Timing | None
    config: dict[str, Any]

    @property
    def judged_by(self) -> Metric:
        """The metric that all accuracies are of; "accuracy" if no run measured the original."""
        return Metric(self.metric or "accuracy", self.is_minimized)
