"""Summarizes the patterns of a run: what stays of each layer, and in how many bytes."""

from __future__ import annotations

from collections.abc import Sequence

from cprune_tf.report import types
from cprune_tf.runs.events import PatternsTrained
from cprune_tf.runs.results import ExportedFile, PatternLayer

_FLOAT_BYTES = 4
# Of a column or a row pointer.
_INDEX_BYTES = 4
_SUFFIXES = (".keras", ".tflite")


def summarize(
    event: PatternsTrained, files: Sequence[ExportedFile], is_delivered: bool
) -> types.Patterns:
    """Summarizes the training towards patterns.

    Args:
        event: What was trained.
        files: The exported files; empty if there are none yet.
        is_delivered: Whether the run's result, so far or in the end, has the patterns.

    Returns:
        The summary. The bytes of weights in a form are those of the sparse layers alone: float32;
        CSR with indices of 32 bits, and one row for each filter; FKW as `sparse.to_fkw` stores it.
    """
    layers = tuple(_layer(layer) for layer in event.layers)
    dense = sum(layer.num_kernels * layer.height * layer.width for layer in event.layers)
    storage = [
        types.Stored("sparse layers, dense", dense * _FLOAT_BYTES),
        types.Stored("sparse layers, CSR", sum(map(_csr_bytes, event.layers))),
        types.Stored("sparse layers, FKW", sum(layer.fkw_bytes for layer in event.layers)),
    ]
    storage += [
        types.Stored(file.path, file.bytes) for file in files if file.path.endswith(_SUFFIXES)
    ]
    return types.Patterns(
        method=event.method,
        is_delivered=is_delivered,
        num_epochs=event.num_epochs,
        epochs=event.epochs,
        drawn=event.patterns,
        layers=layers,
        storage=tuple(storage),
    )


def _layer(layer: PatternLayer) -> types.SparseLayer:
    size = layer.num_kernels * layer.height * layer.width
    return types.SparseLayer(
        layer=layer.name,
        kernel=f"{layer.height} × {layer.width}",
        block_size=layer.block_size,
        num_kernels=layer.num_kernels,
        num_kept=layer.num_kept,
        rate=layer.num_kernels / max(layer.num_kept, 1),
        num_patterns=layer.num_patterns,
        density=layer.num_weights / size,
    )


def _csr_bytes(layer: PatternLayer) -> int:
    pointers = layer.num_outputs + 1
    return layer.num_weights * (_FLOAT_BYTES + _INDEX_BYTES) + pointers * _INDEX_BYTES
