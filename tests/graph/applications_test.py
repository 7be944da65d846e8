"""Every architecture of keras.applications: pruned, rebuilt, compared, saved, converted."""

from __future__ import annotations

import gc
import math

import keras
import pytest

from benchmarks import zoo

# One of each family whose coupling differs, small enough for every run.
REPRESENTATIVE = ["MobileNetV2", "MobileNetV3Small", "EfficientNetV2B0", "ResNet50V2", "VGG16"]


def _assert_right(found: zoo.Checks) -> None:
    assert found.prunable_groups == found.groups - 1
    assert all("reaches the model's output" in why for why in found.protected.values())
    assert found.lost_layers == []
    assert found.masked_error < 1e-4
    assert found.params_pruned < 0.75 * found.params
    assert found.loaded_error < 1e-6


@pytest.mark.parametrize("name", REPRESENTATIVE)
def test_a_representative_architecture(name: str) -> None:
    _assert_right(zoo.check(name, convert=False))


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo.names())
def test_every_architecture(name: str) -> None:
    found = zoo.check(name)
    _assert_right(found)
    assert not math.isnan(found.tflite_error) and found.tflite_error < 1e-4
    keras.backend.clear_session()
    gc.collect()
