"""Data, loader and evaluation together give the accuracies that are known of published models."""

from __future__ import annotations

import functools
import pathlib

import pytest

from cprune_tf.config import DataConfig
from cprune_tf.data import load
from cprune_tf.models import load_model
from cprune_tf.training import evaluate

from . import cifar10_webp

# All training images, none set apart for validation.
WholeConfig = functools.partial(DataConfig, validation_fraction=0.0)

_SHARED = pathlib.Path(__file__).parents[3] / "shared" / "data" / "models"
_requires_models = pytest.mark.skipif(not _SHARED.is_dir(), reason="no models in ../shared/data")

_IMAGENET_STD = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))


@_requires_models
@cifar10_webp.requires_cifar10
@pytest.mark.parametrize(
    ("name", "mean_std", "accuracy"),
    [
        ("resnet8_cifar10_mlperf_tiny.h5", ((0.0,), (1.0,)), 0.8719),
        pytest.param("resnet20_cifar10.h5", _IMAGENET_STD, 0.9173, marks=pytest.mark.slow),
        pytest.param(
            "resnet32_cifar10.h5",
            ((125.307, 122.95, 113.865), (62.9932, 62.0887, 66.7048)),
            0.9231,
            marks=pytest.mark.slow,
        ),
        pytest.param("resnet56_cifar10.h5", _IMAGENET_STD, 0.9339, marks=pytest.mark.slow),
    ],
)
def test_pretrained_models_have_their_known_accuracy(name, mean_std, accuracy):
    config = WholeConfig(name=f"{cifar10_webp.__name__}:load", mean=mean_std[0], std=mean_std[1])
    data = load(config, input_shape=(32, 32, 3), num_classes=10)
    assert evaluate(load_model(_SHARED / name), data) == pytest.approx(accuracy, abs=2e-4)
