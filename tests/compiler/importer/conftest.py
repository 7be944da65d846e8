"""Fixtures of the importer's tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import numpy as np
import pytest

from cprune_tf.compiler.importer import ImportedModel, import_model

from .beside_keras import (
    check_provenance,
    random_inputs,
    randomize,
    relative_errors,
    run_imported,
)


@pytest.fixture
def check_against_keras() -> Callable[..., ImportedModel]:
    """A function that imports, runs and compares a model; returns what was imported."""

    def check(
        model: keras.Model,
        inputs: Sequence[np.ndarray] | None = None,
        *,
        batch_size: int = 1,
        tolerance: float = 1e-4,
        shuffle_weights: bool = True,
    ) -> ImportedModel:
        if shuffle_weights:
            randomize(model)
        inputs = random_inputs(model, batch_size) if inputs is None else inputs
        imported = import_model(model, batch_size=batch_size)
        errors = relative_errors(model, inputs, run_imported(imported, inputs))
        assert max(errors) < tolerance, errors
        check_provenance(imported)
        return imported

    return check


@pytest.fixture
def shared_models() -> Path:
    """The folder of pretrained models beside the repository; skips where it is absent."""
    folder = Path(__file__).resolve().parents[4] / "shared" / "data" / "models"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here: real pretrained models are not part of the repository")
    return folder
