"""Before and after: latency, accuracy, parameters, MACs, bytes."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from cprune_tf.report import fields, types
from cprune_tf.report.cross_check import LatencyKey

ORIGINAL, PRUNED = "original", "pruned"
RUNTIME_ORDER = ("keras", "tvm", "litert")
FILE_KINDS = {".tflite": ".tflite file", ".so": "TVM library", ".tar": "TVM library"}


def latencies(
    measured: Mapping[LatencyKey, types.Latency],
    original: types.Iteration | None,
    pruned: types.Iteration | None,
    emulated: bool,
    num_threads: int | None,
) -> tuple[types.LatencyComparison, ...]:
    """Compares whole-model latencies.

    Args:
        measured: Those of the cross-check, timed turn by turn.
        original: The first model, as measured during the run.
        pruned: The last accepted one, as measured during the run.
        emulated: Whether latencies mean nothing: no speed-up is given then.
        num_threads: Threads the model was tuned for; those come first.

    Returns:
        One comparison for each runtime and thread count. Without a cross-check, the one that
        the run itself has made.
    """
    rows = sorted({key[1:] for key in measured}, key=lambda row: _row_order(row, num_threads))
    found = [
        _compare(
            runtime,
            threads,
            measured.get((ORIGINAL, runtime, threads)),
            measured.get((PRUNED, runtime, threads)),
            emulated,
            True,
        )
        for runtime, threads in rows
    ]
    before = original.latency if original else None
    after = pruned.latency if pruned else None
    if not found and (before or after):
        threads = before.num_threads if before else after.num_threads if after else None
        found.append(_compare("tvm", threads or num_threads, before, after, emulated, False))
    return tuple(found)


def _row_order(row: tuple[str, int | None], num_threads: int | None) -> tuple[Any, ...]:
    runtime, threads = row
    return (threads != num_threads, threads or 0, _runtime_order(runtime))


def _runtime_order(runtime: str) -> tuple[int, str]:
    known = runtime in RUNTIME_ORDER
    return (RUNTIME_ORDER.index(runtime) if known else len(RUNTIME_ORDER), runtime)


def _compare(
    runtime: str,
    threads: int | None,
    original: types.Latency | None,
    pruned: types.Latency | None,
    emulated: bool,
    interleaved: bool,
) -> types.LatencyComparison:
    speedup, is_clear = None, None
    if original and pruned and not emulated and pruned.median_ms > 0:
        speedup = original.median_ms / pruned.median_ms
        is_clear = _apart(original, pruned)
    measured = original or pruned
    processor = measured.processor if measured else ""
    return types.LatencyComparison(
        runtime, threads, original, pruned, speedup, is_clear, interleaved, processor
    )


def _apart(a: types.Latency, b: types.Latency) -> bool | None:
    if a.q1_ms is None or a.q3_ms is None or b.q1_ms is None or b.q3_ms is None:
        return None
    return a.q3_ms < b.q1_ms or b.q3_ms < a.q1_ms


def accuracies(
    checks: Sequence[types.RuntimeCheck], keras_original: float | None, keras_pruned: float | None
) -> tuple[types.Comparison, ...]:
    """Compares accuracies on each runtime.

    Args:
        checks: Those of the cross-check.
        keras_original: The first model's by the run's own evaluation; used where the cross-check
            has none for Keras.
        keras_pruned: The result's, likewise.

    Returns:
        One comparison for each runtime, Keras first.
    """
    table = {(check.runtime, check.deployment): check.accuracy for check in checks}
    table.setdefault(("keras", ORIGINAL), keras_original)
    table.setdefault(("keras", PRUNED), keras_pruned)
    runtimes = sorted({runtime for runtime, _ in table}, key=_runtime_order)
    return tuple(
        compare(runtime, table.get((runtime, ORIGINAL)), table.get((runtime, PRUNED)))
        for runtime in runtimes
    )


def compare(name: str, original: float | None, pruned: float | None) -> types.Comparison:
    """Compares one quantity before and after."""
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
        original: The first model.
        pruned: The last accepted one.
        file_bytes: Sizes by kind of file and "original" or "pruned".

    Returns:
        "parameters", "MACs", then one comparison for each kind of file, in bytes.
    """
    found = [
        compare("parameters", _get(original, "params"), _get(pruned, "params")),
        compare("MACs", _get(original, "macs"), _get(pruned, "macs")),
    ]
    for kind in dict.fromkeys(kind for kind, _ in file_bytes):
        before, after = file_bytes.get((kind, ORIGINAL)), file_bytes.get((kind, PRUNED))
        found.append(compare(kind, before, after))
    return tuple(found)


def _get(model: types.Iteration | None, name: str) -> float | None:
    return getattr(model, name) if model else None


def file_sizes(
    keras_files: Mapping[str, int | None],
    exported: Sequence[types.ExportedFile],
    checks: Sequence[types.RuntimeCheck],
) -> dict[tuple[str, str], int]:
    """Finds the sizes of the same kind of file of both models.

    Args:
        keras_files: "original" and "pruned" to the size of their `.keras` files.
        exported: What was exported; files named "original.*" are the first model's, "final.*" and
            "pruned.*" the result's.
        checks: Those of the cross-check, which know what they have run.

    Returns:
        Bytes by kind of file and "original" or "pruned".
    """
    stems = {ORIGINAL: ORIGINAL, "final": PRUNED, PRUNED: PRUNED}
    found = {(".keras file", which): size for which, size in keras_files.items() if size}
    for file in exported:
        path = pathlib.PurePosixPath(file.path)
        if path.stem in stems and file.bytes is not None:
            kind = FILE_KINDS.get(path.suffix, f"{path.suffix} file")
            found[kind, stems[path.stem]] = file.bytes
    for check in checks:
        kind = {"litert": FILE_KINDS[".tflite"], "tvm": FILE_KINDS[".so"]}.get(check.runtime, "")
        if kind and check.file_bytes is not None:
            found[kind, check.deployment] = check.file_bytes
    return found


def size_of(root: pathlib.Path, relative: str) -> int | None:
    """A file's size in bytes; None where it is not there."""
    path = root / relative
    return path.stat().st_size if path.is_file() else None


def exported_files(root: pathlib.Path, event: Mapping[str, Any]) -> tuple[types.ExportedFile, ...]:
    """The files of an "exported" event, with their sizes."""
    found = []
    for file in fields.mappings(event, "files"):
        path = fields.text(file, "path") or ""
        size = fields.integer(file, "bytes")
        name = fields.text(file, "name") or path or "(unnamed)"
        found.append(types.ExportedFile(name, path, size_of(root, path) if size is None else size))
    return tuple(found)
