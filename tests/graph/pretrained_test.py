"""Real pretrained models on real images: pruning nothing changes nothing."""

from __future__ import annotations

import pathlib
from typing import Any

import keras
import numpy as np
import pytest

from cprune_tf.graph import analyze, mask, rebuild
from cprune_tf.importance import score

DATA = pathlib.Path(__file__).parents[3] / "shared" / "data"
pytestmark = pytest.mark.skipif(
    not DATA.exists(), reason=f"the real models and images are not at {DATA}"
)

_RGB = (np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225]))
MODELS = {
    "resnet8_cifar10_mlperf_tiny.h5": lambda x: x,
    "resnet20_cifar10.h5": lambda x: (x / 255 - _RGB[0]) / _RGB[1],
    "resnet56_cifar10.h5": lambda x: (x / 255 - _RGB[0]) / _RGB[1],
}


@pytest.fixture(scope="module")
def images() -> tuple[Any, Any]:
    import tensorflow as tf

    data = (DATA / "cifar10" / "test_batch.webp").read_bytes()
    grid = tf.io.decode_webp(data, channels=3).numpy()
    x = grid.reshape(100, 32, 100, 32, 3).transpose(0, 2, 1, 3, 4).reshape(10000, 32, 32, 3)
    labels = np.load(DATA / "cifar10" / "labels.npz")["test"]
    return x[:250].astype("float32"), labels[:250]


def _logits(model: Any, x: Any) -> Any:
    return model.predict(x, batch_size=250, verbose=0)


@pytest.mark.parametrize(
    "name",
    [name if "56" not in name else pytest.param(name, marks=pytest.mark.slow) for name in MODELS],
)
def test_accuracy_survives(name: str, images: tuple[Any, Any]) -> None:
    model = keras.models.load_model(DATA / "models" / name, compile=False)
    x, labels = MODELS[name](images[0]).astype("float32"), images[1]
    reference = _logits(model, x)
    accuracy = (reference.argmax(1) == labels).mean()
    assert accuracy > 0.84

    untouched = _logits(rebuild(model, {}), x)
    np.testing.assert_array_equal(untouched.argmax(1), reference.argmax(1))

    graph = analyze(model)
    removal = {}
    for group in graph.prunable:
        order = np.argsort(score(model, group, "l1"))
        removal[group.name] = order[: max(1, group.num_channels // 10)].tolist()
    small = _logits(rebuild(model, removal, fold_constants=False), x)
    masked = _logits(mask(model, removal), x)
    np.testing.assert_allclose(small, masked, rtol=1e-4, atol=1e-4 * np.abs(masked).max())
    assert (small.argmax(1) == labels).mean() == (masked.argmax(1) == labels).mean()
