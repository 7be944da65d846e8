"""Real pretrained models, beside the repository, against Keras."""

from __future__ import annotations

import keras
import numpy as np
import pytest


class _OldDepthwiseConv2D(keras.layers.DepthwiseConv2D):
    """Keras 2 files carry a setting that Keras 3 refuses."""

    @classmethod
    def from_config(cls, config):
        config.pop("groups", None)
        return keras.layers.DepthwiseConv2D(**config)


def load(folder, name):
    return keras.models.load_model(
        folder / name, compile=False, custom_objects={"DepthwiseConv2D": _OldDepthwiseConv2D}
    )


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("resnet8_cifar10_mlperf_tiny.h5", 0.0, 255.0),
        ("resnet20_cifar10.h5", -2.0, 2.0),
        ("mobilenet_v1_025_vww96_mlperf_tiny.h5", 0.0, 1.0),
        ("autoencoder_ad_mlperf_tiny.h5", -2.0, 2.0),
        pytest.param("resnet32_cifar10.h5", -2.0, 2.0, marks=pytest.mark.slow),
        pytest.param("resnet56_cifar10.h5", -2.0, 2.0, marks=pytest.mark.slow),
        pytest.param("mobilenet_v1_224_imagenet1001.keras", -1.0, 1.0, marks=pytest.mark.slow),
    ],
)
def test_same_outputs_as_keras(name, low, high, shared_models, check_against_keras):
    model = load(shared_models, name)
    shape = (1, *model.inputs[0].shape[1:])
    values = np.random.default_rng(0).uniform(low, high, shape).astype("float32")
    imported = check_against_keras(model, [values], shuffle_weights=False)
    normalized = [
        layer.name
        for layer in model.layers
        if isinstance(layer, keras.layers.BatchNormalization)
        and f"{layer.name}/scale" in imported.params
    ]
    assert not normalized, "batch norms that were not folded"
