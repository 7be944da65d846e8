"""The file that says what stays of a model's layers."""

from __future__ import annotations

import json
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from cprune_tf.errors import UserError
from cprune_tf.sparse.patterns import PatternSet
from cprune_tf.sparse.projection import SparseKernel
from cprune_tf.storage import files

_LAYERS = "layers"
_ARRAYS = ("masks", "shares", "order", "chosen")


class KeptFileError(UserError, ValueError):
    """Raised if a file does not hold what stays of layers."""


def save_kept(path: pathlib.Path, kept: Mapping[str, SparseKernel]) -> None:
    """Writes what stays of each layer, whole or not at all.

    Args:
        path: The `.npz` file.
        kept: By the layers' names.

    Raises:
        StorageError: If the file cannot be written.
    """
    described = [[name, sparse.block_size] for name, sparse in kept.items()]
    arrays: dict[str, Any] = {_LAYERS: np.array(json.dumps(described))}
    for number, sparse in enumerate(kept.values()):
        values = (sparse.patterns.masks, sparse.patterns.shares, sparse.order, sparse.chosen)
        arrays |= {f"{key}_{number}": value for key, value in zip(_ARRAYS, values, strict=True)}
    with files.replacing(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **arrays)


def load_kept(path: pathlib.Path) -> dict[str, SparseKernel]:
    """Reads a file of `save_kept`.

    Args:
        path: The file.

    Returns:
        What stays of each layer.

    Raises:
        KeptFileError: If the file is missing or damaged.
    """
    kept = {}
    try:
        with path.open("rb") as stream, np.load(stream) as content:
            for number, (name, block_size) in enumerate(json.loads(str(content[_LAYERS]))):
                masks, shares, order, chosen = (content[f"{key}_{number}"] for key in _ARRAYS)
                patterns = PatternSet(masks.astype(bool), tuple(map(float, shares)))
                kept[name] = SparseKernel(
                    patterns, order.astype(np.intp), int(block_size), chosen.astype(np.intp)
                )
    except (OSError, KeyError, ValueError, TypeError, zipfile.BadZipFile) as error:
        raise KeptFileError(
            f"{path} cannot be read ({error}); expected the patterns of a model, which the "
            "strategy patdnn writes. Restore the file from a copy, or begin the run anew."
        ) from error
    return kept
