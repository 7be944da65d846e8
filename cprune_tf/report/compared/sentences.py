"""Writes the sentences of a comparison: which strategy is ahead, and what to keep in mind."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from cprune_tf.accuracy import Metric, capitalized
from cprune_tf.baselines.tfmot.sparse_files import SparseFiles
from cprune_tf.report import formats
from cprune_tf.report.compared import types

# A strategy that meets a target in its run may miss it by so much when all are timed again.
_TARGET_TOLERANCE = 0.02
_MAX_RELATIVE_IQR = 0.25
# Between two .tflite files of the same float32 weights.
_MAX_RELATIVE_ERROR = 1e-3


def verdict(
    rows: Sequence[types.Row], required_accuracy: float | None, emulated: bool, metric: Metric
) -> str:
    """Writes which strategy is fastest at the required accuracy, and by how much.

    Args:
        rows: The rows, the best first.
        required_accuracy: The accuracy that a result must have.
        emulated: Whether the device is emulated, so that its latencies mean nothing.
        metric: What the accuracies are.

    Returns:
        One sentence.
    """
    results = [row for row in rows if row.has_result]
    if not results:
        return "No strategy has a pruned model."
    required = f"the required {metric.word}"
    if required_accuracy is not None:
        required += f" of {metric.limit}{formats.score(metric, required_accuracy)}"
    met = [row for row in results if row.state == types.MET]
    if not met:
        known = [row for row in results if row.deciding_accuracy is not None]
        closest = ""
        if known:
            best = max(known, key=_accuracy)
            score = formats.score(metric, _accuracy(best))
            closest = f"; {best.strategy} comes closest with {score}"
        return f"No strategy meets {required}{closest}."
    if emulated:
        names = listed([row.strategy for row in met])
        return (
            f"{capitalized(required)} is met by {names}; latencies of an emulated device "
            "say nothing, so none is called the fastest."
        )
    if met[0].speedup is None:
        return "The results have not been timed against each other."
    return (
        f"{met[0].strategy} is the fastest at {required}: "
        f"{formats.factor(met[0].speedup.median)} as fast as the original{_lead(met)}."
    )


def _accuracy(row: types.Row) -> float:
    return -math.inf if row.deciding_accuracy is None else row.deciding_accuracy


def _lead(met: Sequence[types.Row]) -> str:
    first, second = met[0].latency, met[1].latency if len(met) > 1 else None
    if first is None or second is None:
        return "; no other strategy meets it"
    ratio = formats.factor(second.median_ms / first.median_ms)
    clear = "" if first.q3_ms < second.q1_ms else " (no clear difference: the quartiles overlap)"
    return f", and {ratio} as fast as {met[1].strategy}, the second{clear}"


def notes(
    rows: Sequence[types.Row],
    timing: types.Timing | None,
    config: Mapping[str, Any],
    which_images: str,
    metric: Metric,
) -> tuple[str, ...]:
    """Writes what a reader needs to know to interpret the numbers.

    Args:
        rows: The rows, the best first.
        timing: The joint measurement.
        config: The config that all runs share.
        which_images: Which images decided; "" if unknown.
        metric: What the accuracies are.

    Returns:
        Sentences.
    """
    sentences = [f"{row.strategy}: {row.remark}" for row in rows if row.remark]
    emulated = timing is not None and timing.device.emulated
    sentences += [_zeros_note(row.strategy, row.sparse, emulated) for row in rows if row.sparse]
    sentences += _target_notes(rows, timing, config.get("strategy", {}), metric.word)
    sentences += [which_images] if which_images else []
    sentences += _timing_notes(timing)
    if any(row.cost for row in rows):
        sentences.append(
            "The search times are those of pruning and of tuning the result. Runs share all "
            "measured programs, so the first one also pays for tuning the original to the end, and "
            "later ones find shapes that were measured before."
        )
    interrupted = [row.strategy for row in rows if row.cost and row.cost.num_sessions > 1]
    if interrupted:
        sentences.append(
            f"Interrupted and resumed: {listed(interrupted)}. Search times lack what was lost then."
        )
    return tuple(sentences)


def _zeros_note(strategy: str, sparse: SparseFiles, emulated: bool) -> str:
    """Says what zeros are worth where no filter is removed: bytes, and time in LiteRT."""
    dense, small = sparse.dense, sparse.sparse
    said = (
        f"{strategy} removes no filter: {formats.share(sparse.zeros)} of the weights of the "
        "pruned kernels are zero, which TVM does not make use of. Its .tflite file has "
        f"{formats.file_bytes(dense.file_bytes)} ({formats.file_bytes(dense.gzip_bytes)} with "
        f"gzip), and {formats.file_bytes(small.file_bytes)} "
        f"({formats.file_bytes(small.gzip_bytes)}) with sparse encoding"
    )
    if not emulated:
        times = [
            formats.milliseconds(one.latency.median_ms) for one in (sparse.original, dense, small)
        ]
        said += (
            f"; in LiteRT, with {formats.threads(small.latency.num_threads)}, the original takes "
            f"{times[0]}, the file without sparse encoding {times[1]}, the one with it {times[2]}"
        )
    if not sparse.max_relative_error <= _MAX_RELATIVE_ERROR:
        said += (
            f". The sparse file computes something else: outputs differ by "
            f"{sparse.max_relative_error:.2g} of the largest one"
        )
    return f"{said}."


def _target_notes(
    rows: Sequence[types.Row], timing: types.Timing | None, strategy: Mapping[str, Any], word: str
) -> list[str]:
    """Says who reached the latency target, where all strategies stop pruning."""
    original = timing.latency(types.ORIGINAL) if timing else None
    speedup, latency_ms = strategy.get("target_speedup"), strategy.get("target_latency_ms")
    if original is None or not (speedup or latency_ms):
        return []
    wanted_ms = latency_ms or original.median_ms / float(speedup or 1)
    shown = formats.milliseconds(latency_ms) if latency_ms else formats.factor(float(speedup or 1))
    limit_ms = wanted_ms * (1 + _TARGET_TOLERANCE)
    reached = [row.strategy for row in rows if row.latency and row.latency.median_ms <= limit_ms]
    return [
        f"All strategies were to stop at the target of {shown}, so what counts among those that "
        f"reached it is {word}. Reached, within 2 %, by: {listed(reached) or 'none'}."
    ]


def _timing_notes(timing: types.Timing | None) -> list[str]:
    if timing is None:
        return []
    if timing.device.emulated:
        return ["The device is emulated: latencies mean nothing, and no speed-up is given."]
    sentences = []
    if any(model.latency.conditions.throttled for model in timing.models):
        sentences.append("The device was throttled during the final measurement; let it cool down.")
    unsteady = [
        model.name
        for model in timing.models
        if model.latency.iqr_ms > _MAX_RELATIVE_IQR * model.latency.median_ms
    ]
    if unsteady:
        sentences.append(
            f"The final latency of {listed(unsteady)} is unsteady; other programs may be running."
        )
    return sentences


def listed(names: Sequence[str]) -> str:
    """Lists names: "a", "a and b", "a, b and c"."""
    *others, last = names or ("",)
    return f"{', '.join(others)} and {last}" if others else last
