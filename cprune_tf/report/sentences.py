"""Writes the sentences at the top of a report: how the run ended, and its result."""

from __future__ import annotations

import math
from collections.abc import Sequence

from cprune_tf.accuracy import Metric
from cprune_tf.report import formats, types
from cprune_tf.runs.events import DataDescribed


def status(
    finished: bool, stop_reason: str | None, num_accepted: int, num_tried: int, last_event: str
) -> str:
    """Writes whether the run is finished and how many candidates it accepted.

    Args:
        finished: Whether the run is finished.
        stop_reason: Why pruning ended; None if it has not ended.
        num_accepted: Number of accepted candidates.
        num_tried: Number of all candidates.
        last_event: The kind of the last event in the journal.

    Returns:
        One to three sentences.
    """
    acceptance = f"{num_accepted} of {num_tried} candidates accepted"
    if finished:
        return f"Finished: {acceptance}." + (
            f" Stopped because: {stop_reason}." if stop_reason else ""
        )
    return (
        f"Not finished: {acceptance} so far; the last event in the journal is {last_event!r}. The "
        "report shows what had been measured by then. Continue the run with --resume."
    )


def verdict(
    latencies: Sequence[types.LatencyComparison],
    tested: types.Comparison | None,
    accuracy_before: float | None,
    accuracy_after: float | None,
    standard_error: float | None,
    required_accuracy: float | None,
    metric: Metric,
    emulated: bool,
    num_accepted: int,
    judged_as: str = "",
) -> str:
    """Writes the result of the run, with measured numbers only.

    Args:
        latencies: The latencies before and after pruning.
        tested: The accuracies on test images that decided nothing; None if there are none.
        accuracy_before: The original's accuracy on the images that decided, 0..1; None if it was
            not measured.
        accuracy_after: The result's accuracy on the images that decided, 0..1; None if it was not
            measured.
        standard_error: Of the difference between the two, 0..1; None if it is unknown.
        required_accuracy: The accuracy that the result must have, 0..1; None if unknown.
        metric: The metric of the accuracies, which may be scores of another kind.
        emulated: Whether the device is emulated, so that its latencies mean nothing.
        num_accepted: Number of accepted candidates.
        judged_as: What the result's accuracies are those of, if the original's are those of the
            float32 model; "" if both are the same.

    Returns:
        One to three sentences.
    """
    if accuracy_before is None and not latencies:
        return "Nothing has been measured yet."
    if not num_accepted:
        return "No candidate has been accepted: the model still has the original's channels."
    parts = [_speed(latencies, emulated)]
    name = metric.heading
    if tested is not None and tested.original is not None and tested.pruned is not None:
        change = _change(metric, tested.original, tested.pruned, tested.standard_error)
        parts.append(f"{name} {change} on the test {metric.items}.")
        name = f"On the validation {metric.items}, which decided,"
    if accuracy_before is not None and accuracy_after is not None:
        requirement = _requirement(metric, accuracy_after, required_accuracy)
        change = _change(metric, accuracy_before, accuracy_after, standard_error)
        parts.append(f"{name} {change}{requirement}.")
    if judged_as:
        parts.append(f"These compare the float32 original in Keras with the result as {judged_as}.")
    return " ".join(parts)


def for_litert(precision: str) -> str:
    """Writes what a run for LiteRT measured with, and why TVM is not in the report."""
    weights = {"float16": " with weights in float16", "int8": " in int8"}.get(precision, "")
    return (
        f"The run measured with LiteRT{weights} and is for LiteRT. TVM is not shown, since nothing "
        "was tuned for it."
    )


def which_images(data: DataDescribed, metric: Metric) -> str:
    """Writes which images decided, which are quoted, and how much their number can tell.

    Args:
        data: The images, or samples of another kind.
        metric: What models are judged by.

    Returns:
        A few sentences.
    """
    if not metric.is_rank:
        direction = "lower" if metric.is_minimized else "higher"
        better = f" Of {metric.label}, {direction} values are better."
        return _which_images(data, metric) + better
    fewest = min(count for count in (data.num_validation, data.num_test) if count)
    # At an accuracy of 90 %; at others it is of the same size.
    error = 100 * math.sqrt(0.9 * 0.1 / fewest)
    return (
        f"{_which_images(data, metric)} On {fewest:,} images, the standard error of an accuracy is "
        f"about {error:.1f} points. A difference between two models on the same images is known "
        "better: its standard error stands behind the ±, where it was measured."
    )


def _which_images(data: DataDescribed, metric: Metric) -> str:
    items, scores = metric.items, "accuracies" if metric.is_rank else "scores"
    if data.validation_source == "test":
        return (
            f"{data.reason} So {data.num_validation:,} of the test {items} decided which "
            f"candidates were accepted, and {scores} are quoted on the other {data.num_test:,}, "
            "which were looked at once, at the end."
        )
    if data.num_validation:
        return (
            f"{data.num_validation:,} validation {items} decided which candidates were accepted. "
            f"The {data.num_test:,} test {items} were looked at once, at the end."
        )
    return (
        f"The {data.num_test:,} {items} that {scores} are quoted on also decided which candidates "
        f"were accepted, so the result's {metric.word} is slightly optimistic."
    )


def _change(metric: Metric, before: float, after: float, standard_error: float | None) -> str:
    change = f"{formats.score(metric, before)} → {formats.score(metric, after)}"
    if standard_error is None:
        return change
    return f"{change} ({formats.change_with_error(metric, after - before, standard_error)})"


def _speed(latencies: Sequence[types.LatencyComparison], emulated: bool) -> str:
    if emulated:
        return "Latencies were measured on an emulated device and say nothing about a real one."
    measured = [row for row in latencies if row.speedup is not None]
    if not measured:
        return "The latency after pruning was not measured."
    threads = measured[0].num_threads
    speeds = [_speed_of_runtime(row) for row in measured if row.num_threads == threads]
    return f"With {formats.threads(threads)}: " + ", ".join(speeds) + "."


def _speed_of_runtime(row: types.LatencyComparison) -> str:
    runtime = formats.runtime(row.runtime, row.processor)
    speed = f"{formats.factor(row.speedup or 1.0)} as fast with {runtime}"
    if row.is_clear is False:
        return f"{speed} (no clear difference)"
    return speed if row.speedup is None or row.speedup >= 1 else f"{speed} (slower)"


def _requirement(metric: Metric, accuracy: float, required: float | None) -> str:
    if required is None:
        return ""
    state = "met" if accuracy >= required else "MISSED"
    return f" (required {metric.limit}{formats.score(metric, required)}: {state})"
