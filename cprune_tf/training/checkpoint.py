"""Keeps what a training has learned after each epoch, so that a killed one goes on from there."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
import zipfile
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from cprune_tf.config import FitConfig
from cprune_tf.storage import files

_FINGERPRINT, _PROGRESS = "fingerprint", "progress"


def fingerprint(model: keras.Model, config: FitConfig, seed: int, *others: keras.Model) -> str:
    """A name of a training: two trainings with the same name would do the same.

    Args:
        model: The model before the training.
        config: Of the training.
        seed: Of the training.
        *others: Further models that the training depends on, such as a teacher.

    Returns:
        Hexadecimal digits that depend on every weight, field and the seed.
    """
    digest = hashlib.sha256(json.dumps([dataclasses.asdict(config), seed]).encode())
    for one in (model, *others):
        for weight in one.get_weights():
            digest.update(str((weight.dtype.str, weight.shape)).encode())
            digest.update(np.ascontiguousarray(weight).tobytes())
    return digest.hexdigest()


class Checkpoint:
    """One file with the state of a training; whole or absent at any time.

    Args:
        path: The file; None: nothing is kept.
        name: The training's fingerprint. A file of another training is ignored, and replaced.
        variables: What the training changes, always in the same order.
    """

    def __init__(
        self,
        path: pathlib.Path | None,
        name: str,
        variables: Sequence[keras.Variable | tf.Variable],
    ) -> None:
        self._path = path
        self._name = name
        self._variables = variables

    def restore(self) -> list[dict[str, Any]]:
        """Sets the variables to what they were after the last completed epoch.

        Returns:
            What `save` was given: the completed epochs. Empty if there is no file of this training;
            nothing is changed then.
        """
        if self._path is None or not self._path.exists():
            return []
        try:
            with self._path.open("rb") as stream, np.load(stream) as content:
                if str(content[_FINGERPRINT]) != self._name:
                    return []
                values = [content[f"variable_{i}"] for i in range(len(self._variables))]
                epochs: list[dict[str, Any]] = json.loads(str(content[_PROGRESS]))
        except (OSError, KeyError, ValueError, zipfile.BadZipFile):
            # Such a file saves time and decides nothing: without it the training starts again.
            return []
        for variable, value in zip(self._variables, values, strict=True):
            variable.assign(value)
        return epochs

    def save(self, epochs: Sequence[dict[str, Any]]) -> None:
        """Writes the variables.

        Args:
            epochs: The completed epochs, in plain values.

        Raises:
            StorageError: If the file cannot be written.
        """
        if self._path is None:
            return
        arrays: dict[str, Any] = {
            f"variable_{i}": np.asarray(variable) for i, variable in enumerate(self._variables)
        }
        arrays |= {_FINGERPRINT: np.array(self._name), _PROGRESS: np.array(json.dumps(epochs))}
        with files.replacing(self._path) as temporary, temporary.open("wb") as stream:
            np.savez(stream, **arrays)
