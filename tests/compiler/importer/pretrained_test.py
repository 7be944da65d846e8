"""Real pretrained models, from beside the repository, are compared with Keras."""

from __future__ import annotations

import csv

import keras
import numpy as np
import pytest
import tensorflow as tf


class _OldDepthwiseConv2D(keras.layers.DepthwiseConv2D):
    """Reads configs of Keras 2, which have the argument `groups` that Keras 3 refuses."""

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
    scales = [name for name in imported.params if name.endswith("/scale")]
    # ResNet-32 normalises sums and shared tensors before its convolutions: nothing is folded.
    assert len(scales) == (16 if name.startswith("resnet32") else 0)


def test_same_classes_on_real_images(shared_models, check_against_keras):
    """On 16 CIFAR-10 test images, outputs equal Keras's and most classes are right."""
    cifar = shared_models.parent / "cifar10"
    grid = tf.io.decode_webp((cifar / "test_batch.webp").read_bytes(), channels=3).numpy()
    images = grid.reshape(100, 32, 100, 32, 3).transpose(0, 2, 1, 3, 4).reshape(-1, 32, 32, 3)
    images = images[:16].astype("float32")
    labels = np.load(cifar / "labels.npz")["test"][:16]
    model = load(shared_models, "resnet8_cifar10_mlperf_tiny.h5")
    check_against_keras(model, [images], batch_size=16, shuffle_weights=False)
    assert (model(images).numpy().argmax(-1) == labels.ravel()).mean() > 0.7


@pytest.mark.slow
def test_same_classes_on_photographs(shared_models, shared_photographs, check_against_keras):
    """On 16 photographs of ImageNet classes, outputs equal Keras's and most classes are right."""
    with open(shared_photographs / "index.csv") as file:
        rows = list(csv.DictReader(file))[::60][:16]
    files = [shared_photographs / "jpeg224_q95" / row["file"] for row in rows]
    images = np.stack([tf.io.decode_jpeg(path.read_bytes(), channels=3).numpy() for path in files])
    images = images.astype("float32") / 127.5 - 1
    model = load(shared_models, "mobilenet_v1_224_imagenet1001.keras")
    check_against_keras(model, [images], batch_size=16, shuffle_weights=False)
    labels = [int(row["class_index"]) + 1 for row in rows]  # Class 0 is "background".
    assert (model(images).numpy().argmax(-1) == labels).mean() > 0.5
