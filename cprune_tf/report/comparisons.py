"""Compares latency, accuracy, parameters, MACs and file sizes before and after pruning."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from cprune_tf.report import formats, types
from cprune_tf.report.cross_check import LatencyKey
from cprune_tf.runs.results import ExportedFile

ORIGINAL, PRUNED = "original", "pruned"
RUNTIME_ORDER = ("keras", "tvm", "litert")
FILE_KINDS = {".tflite": ".tflite file", ".so": "TVM library", ".tar": "TVM library"}


def latencies(
    measured: Mapping[LatencyKey, types.Latency],
    original: types.Iteration | None,
    pruned: types.Iteration | None,
    emulated: bool,
    runtime: str,
) -> tuple[types.LatencyComparison, ...]:
    """Compares whole-model latencies.

    Args:
        measured: The latencies of the cross-check, which were timed interleaved.
        original: The original model, with the latency that was measured during the run.
        pruned: The last accepted model, with the latency that was measured during the run.
        emulated: Whether the device is emulated; then no speed-up is given.
        runtime: The label of what measured during the run; see `runs.results.file_label`.

    Returns:
        One comparison for each runtime and number of threads; the number that the model was tuned
        for comes first, and of its rows the one of `runtime`. Without a cross-check, one comparison
        of the latencies that were measured during the run.
    """
    num_threads = original.latency.num_threads if original else None
    rows = sorted(
        {key[1:] for key in measured}, key=lambda row: _row_order(row, num_threads, runtime)
    )
    rows_compared = [
        _compare(
            name,
            threads,
            measured.get((ORIGINAL, name, threads)),
            measured.get((PRUNED, name, threads)),
            emulated,
            True,
        )
        for name, threads in rows
    ]
    if not rows_compared and original:
        before, after = original.latency, pruned.latency if pruned else None
        rows_compared.append(_compare(runtime, before.num_threads, before, after, emulated, False))
    return tuple(rows_compared)


def _row_order(row: tuple[str, int], num_threads: int | None, first: str) -> tuple[Any, ...]:
    runtime, threads = row
    return (threads != num_threads, threads, _runtime_order(runtime, first))


def _runtime_order(runtime: str, first: str) -> tuple[bool, int, str]:
    known = runtime.partition(" ")[0]
    place = RUNTIME_ORDER.index(known) if known in RUNTIME_ORDER else len(RUNTIME_ORDER)
    return (runtime != first, place, runtime)


def _compare(
    runtime: str,
    threads: int,
    original: types.Latency | None,
    pruned: types.Latency | None,
    emulated: bool,
    interleaved: bool,
) -> types.LatencyComparison:
    speedup, is_clear = None, None
    if original and pruned and not emulated:
        speedup = original.median_ms / pruned.median_ms
        is_clear = _quartiles_apart(original, pruned)
    latency = original or pruned
    processor = latency.processor if latency else ""
    return types.LatencyComparison(
        runtime, threads, original, pruned, speedup, is_clear, interleaved, processor
    )


def _quartiles_apart(a: types.Latency, b: types.Latency) -> bool:
    return a.q3_ms < b.q1_ms or b.q3_ms < a.q1_ms


def accuracies(
    checks: Sequence[types.RuntimeCheck],
    decided_original: float | None,
    decided_pruned: float | None,
    decided_error: float | None,
    has_validation: bool,
    judge: str = "keras",
) -> tuple[types.Comparison, ...]:
    """Compares accuracies on each runtime.

    Args:
        checks: The checks of the cross-check, made on the test images.
        decided_original: The original's accuracy (0..1) on the images that decided.
        decided_pruned: The result's accuracy (0..1) on the images that decided.
        decided_error: The standard error of their difference.
        has_validation: Whether validation images decided, not the test images.
        judge: What gave the accuracies that decided: "keras", or the label of a file.

    Returns:
        One comparison for each runtime, the judge first, all on the test images; then, if
        validation images decided, one on these.
    """
    table: dict[tuple[str, str], float | None] = {
        (check.runtime, check.deployment): check.accuracy
        for check in checks
        if check.accuracy is not None
    }
    decided = judge
    if has_validation:
        decided = formats.VALIDATION if judge == "keras" else f"{formats.VALIDATION} {judge}"
    table.setdefault((decided, ORIGINAL), decided_original)
    table.setdefault((decided, PRUNED), decided_pruned)
    errors = {check.runtime: check.standard_error for check in checks if check.deployment == PRUNED}
    errors.setdefault(decided, decided_error)
    runtimes = sorted({name for name, _ in table}, key=lambda name: _runtime_order(name, judge))
    return tuple(
        dataclasses.replace(
            compare(runtime, table.get((runtime, ORIGINAL)), table.get((runtime, PRUNED))),
            standard_error=errors.get(runtime),
        )
        for runtime in runtimes
    )


def compare(name: str, original: float | None, pruned: float | None) -> types.Comparison:
    """Compares one quantity before and after pruning."""
    if original is None or pruned is None:
        return types.Comparison(name, original, pruned, None, None)
    ratio = pruned / original if original > 0 else None
    return types.Comparison(name, original, pruned, ratio, pruned - original)


def sizes(
    original: types.Iteration | None,
    pruned: types.Iteration | None,
    file_bytes: Mapping[tuple[str, str], int],
) -> tuple[types.Comparison, ...]:
    """Compares parameters, MACs and file sizes.

    Args:
        original: The original model.
        pruned: The last accepted model.
        file_bytes: File sizes in bytes by (kind of file, "original" or "pruned").

    Returns:
        "parameters", "MACs", then one comparison for each kind of file, in bytes.
    """
    comparisons = [
        compare(
            "parameters",
            original.params if original else None,
            pruned.params if pruned else None,
        ),
        compare("MACs", original.macs if original else None, pruned.macs if pruned else None),
    ]
    for kind in dict.fromkeys(kind for kind, _ in file_bytes):
        before, after = file_bytes.get((kind, ORIGINAL)), file_bytes.get((kind, PRUNED))
        comparisons.append(compare(kind, before, after))
    return tuple(comparisons)


def file_sizes(
    keras_files: Mapping[str, int | None],
    exported: Sequence[ExportedFile],
    checks: Sequence[types.RuntimeCheck],
) -> dict[tuple[str, str], int]:
    """Collects the file sizes of both models, by kind of file.

    Args:
        keras_files: Sizes of the `.keras` files in bytes, by "original" or "pruned"; None if the
            file does not exist.
        exported: The exported files. Files named "original.*" belong to the original, files named
            "final.*" or "pruned.*" to the result.
        checks: The checks of the cross-check, with the sizes of the files that were run. These
            sizes take precedence.

    Returns:
        Sizes in bytes by (kind of file, "original" or "pruned").
    """
    stems = {ORIGINAL: ORIGINAL, "final": PRUNED, PRUNED: PRUNED}
    sizes_by_kind = {(".keras file", which): size for which, size in keras_files.items() if size}
    for file in exported:
        path = pathlib.PurePosixPath(file.path)
        if path.stem in stems:
            kind = FILE_KINDS.get(path.suffix, f"{path.suffix} file")
            sizes_by_kind[kind, stems[path.stem]] = file.bytes
    for check in checks:
        runtime, _, precision = check.runtime.partition(" ")
        kind = {"litert": FILE_KINDS[".tflite"], "tvm": FILE_KINDS[".so"]}.get(runtime, "")
        kind += f", {precision}" if precision else ""
        if kind and check.file_bytes is not None:
            sizes_by_kind[kind, check.deployment] = check.file_bytes
    return sizes_by_kind


def size_of(root: pathlib.Path, relative: str) -> int | None:
    """Returns a file's size in bytes; None if it does not exist."""
    path = root / relative
    return path.stat().st_size if path.is_file() else None
