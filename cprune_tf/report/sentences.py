"""The sentences at the top of a report: how the run ended and what came out of it."""

from __future__ import annotations

from collections.abc import Sequence

from cprune_tf.report import formats, types


def status(
    finished: bool, stop_reason: str | None, num_accepted: int, num_tried: int, last_event: str
) -> str:
    """Tells how far the run came.

    Args:
        finished: Whether it came to its end.
        stop_reason: Why the loop ended, or None.
        num_accepted: Accepted candidates.
        num_tried: Candidates in all.
        last_event: The last thing it wrote.

    Returns:
        One or two sentences.
    """
    counted = f"{num_accepted} of {num_tried} candidates accepted"
    if finished:
        return f"Finished: {counted}." + (
            f" Stopped because: {stop_reason}." if stop_reason else ""
        )
    return (
        f"Not finished: {counted} so far; the last thing written is {last_event!r}. What follows "
        "is what had been measured by then; go on with --resume."
    )


def verdict(
    latencies: Sequence[types.LatencyComparison],
    accuracy_before: float | None,
    accuracy_after: float | None,
    required_accuracy: float | None,
    metric: str | None,
    emulated: bool,
    num_accepted: int,
) -> str:
    """Tells what came out, in numbers only where they were measured.

    Args:
        latencies: Before and after.
        accuracy_before: The original's.
        accuracy_after: The result's.
        required_accuracy: What it had to keep.
        metric: What accuracy means.
        emulated: Whether latencies mean nothing.
        num_accepted: Accepted candidates.

    Returns:
        One or two sentences.
    """
    if accuracy_before is None and not latencies:
        return "Nothing has been measured yet."
    if not num_accepted:
        return "No candidate has been accepted: the model still has the original's channels."
    parts = [_speed(latencies, emulated)]
    if accuracy_before is not None and accuracy_after is not None:
        parts.append(
            f"{formats.metric(metric).capitalize()} {formats.percent(accuracy_before)} → "
            f"{formats.percent(accuracy_after)}{_requirement(accuracy_after, required_accuracy)}."
        )
    return " ".join(parts)


def _speed(latencies: Sequence[types.LatencyComparison], emulated: bool) -> str:
    if emulated:
        return "Latencies were measured on an emulated device and say nothing about a real one."
    measured = [row for row in latencies if row.speedup is not None]
    if not measured:
        return "The latency after pruning is not measured."
    threads = measured[0].num_threads
    told = [_one_speed(row) for row in measured if row.num_threads == threads]
    return f"With {formats.threads(threads)}: " + ", ".join(told) + "."


def _one_speed(row: types.LatencyComparison) -> str:
    runtime = formats.runtime(row.runtime, row.processor)
    told = f"{formats.factor(row.speedup or 1.0)} as fast with {runtime}"
    if row.is_clear is False:
        return f"{told} (no clear difference)"
    return told if row.speedup is None or row.speedup >= 1 else f"{told} (slower)"


def _requirement(accuracy: float, required: float | None) -> str:
    if required is None:
        return ""
    state = "met" if accuracy >= required else "MISSED"
    return f" (required {formats.percent(required)}: {state})"
