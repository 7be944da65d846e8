"""Small models that the graph tests share, and how two models are compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

layers = keras.layers


def randomise(model: Any, seed: int = 0) -> Any:
    """Gives biases and normalisations values that show when they are lost or mixed up."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        name = weight.path.rsplit("/", 1)[-1]
        if "variance" in name or name in ("gamma", "scale"):
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
        elif name in ("bias", "beta", "moving_mean", "alpha"):
            weight.assign(rng.normal(0.0, 0.3, weight.shape))
    return model


def random_inputs(model: Any, seed: int = 0, batch: int = 2) -> Any:
    rng = np.random.default_rng(seed)
    values = []
    for tensor in model.inputs:
        shape = [batch] + [8 if size is None else size for size in tensor.shape[1:]]
        if "int" in tensor.dtype:
            values.append(rng.integers(0, 5, shape).astype(tensor.dtype))
        else:
            values.append(rng.normal(size=shape).astype("float32"))
    return values[0] if len(values) == 1 else values


def outputs(model: Any, inputs: Any) -> list[np.ndarray]:
    return [np.asarray(value) for value in keras.tree.flatten(model(inputs, training=False))]


def relative_error(actual: Any, expected: Any, inputs: Any) -> float:
    """Largest difference of two models' outputs, relative to the largest output."""
    worst = 0.0
    pairs = zip(outputs(actual, inputs), outputs(expected, inputs), strict=True)
    for a, b in pairs:
        assert a.shape == b.shape
        assert np.isfinite(b).all()
        worst = max(worst, float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-6)))
    return worst


def choose(graph: Any, fraction: float = 0.3, seed: int = 0) -> dict[str, list[int]]:
    """A random removal of a fraction of every prunable group, at least one unit."""
    rng = np.random.default_rng(seed)
    removal = {}
    for group in graph.prunable:
        count = min(max(1, int(group.num_channels * fraction)), group.num_channels - 1)
        removal[group.name] = sorted(
            int(i) for i in rng.choice(group.num_channels, count, replace=False)
        )
    return removal


def functional(shape: tuple[int | None, ...], build: Callable[[Any], Any]) -> Any:
    inputs = keras.Input(shape, name="image")
    return randomise(keras.Model(inputs, build(inputs)))
