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
    compile_imported,
    random_inputs,
    randomize,
    relative_errors,
)


@pytest.fixture
def check_against_keras() -> Callable[..., ImportedModel]:
    """A function that imports a model, compares its outputs with Keras and returns the import.

    It takes any number of sets of inputs. Without any, it uses one set of random inputs.
    """

    def check(
        model: keras.Model,
        *input_sets: Sequence[np.ndarray],
        batch_size: int = 1,
        tolerance: float = 1e-4,
        shuffle_weights: bool = True,
    ) -> ImportedModel:
        if shuffle_weights:
            randomize(model)
        input_sets = input_sets or (random_inputs(model, batch_size),)
        imported = import_model(model, batch_size=batch_size)
        run = compile_imported(imported)
        for inputs in input_sets:
            errors = relative_errors(model, inputs, run(inputs))
            assert max(errors) < tolerance, errors
        check_provenance(imported, model)
        return imported

    return check


@pytest.fixture
def shared_models() -> Path:
    """The folder of pretrained models beside the repository; skips the test if it is absent."""
    return _shared_folder("models")


@pytest.fixture
def shared_photographs() -> Path:
    """The folder of photographs beside the repository; skips the test if it is absent."""
    return _shared_folder("imagenet_sample")


def _shared_folder(name: str) -> Path:
    folder = Path(__file__).resolve().parents[4] / "shared" / "data" / name
    if not folder.is_dir():
        pytest.skip(f"{folder} does not exist: real models and images are not in the repository")
    return folder
