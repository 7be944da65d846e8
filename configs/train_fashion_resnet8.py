"""Trains the embedded ResNet-8 on the embedded Fashion-MNIST subset; see cprune_tf/cli/train.py."""

from __future__ import annotations

import dataclasses

import ml_collections

from cprune_tf.config import DataConfig, FitConfig


def get_config() -> ml_collections.ConfigDict:
    data = DataConfig(name="fashion_mnist_subset", batch_size=128)
    fit = FitConfig(epochs=40, learning_rate=0.1, weight_decay=5e-4, schedule="cosine")
    return ml_collections.ConfigDict(
        {
            "model": "resnet8",
            "seed": 0,
            "data": dataclasses.asdict(data),
            "training": {"long_term": dataclasses.asdict(fit), "distribute": ""},
        }
    )
