"""Scores by any metric that a model was compiled with, of outputs from wherever they come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from cprune_tf import graph
from cprune_tf.accuracy import Metric
from cprune_tf.data.interface import Interface, batched
from cprune_tf.graph import keras_internals
from cprune_tf.training.compiled import data_loss
from cprune_tf.training.describing import describe
from cprune_tf.training.errors import TrainingError

LOSS = "loss"
_BATCH_SIZE = 64
_NUM_PROBES = 2


class Scorer:
    """Judges outputs by one of the metrics that the original was compiled with.

    Args:
        model: The original, compiled; it is not changed.
        interface: What it takes and gives, as do all models that are judged.
        metric: Which of its metrics, or "loss".
        labels: Some that the metric will get, nested as the model's metrics take them.

    Raises:
        TrainingError: If the model has no such metric, or it cannot be computed from the labels.
    """

    def __init__(
        self, model: keras.Model, interface: Interface, metric: Metric, labels: Any
    ) -> None:
        if not getattr(model, "compiled", False):
            raise TrainingError(
                f"config.strategy.metric is {metric.name!r}, and the model {model.name!r} is not "
                "compiled; expected a model that was compiled with this metric: "
                "model.compile(optimizer=..., loss=..., metrics=[...])."
            )
        self.metric = metric
        self._interface = interface
        self._compiled = graph.functional_twin(model)
        few = keras.tree.map_structure(lambda array: array[:_NUM_PROBES], labels)
        self._check(few)

    def of_model(self, model: keras.Model, inputs: Sequence[np.ndarray], labels: Any) -> float:
        """Scores a model; see `of_outputs`.

        Args:
            model: The model.
            inputs: One array for each of its inputs, [n, ...].
            labels: As for `of_outputs`.
        """
        return self.of_outputs(outputs_of(self._interface, model, inputs), labels)

    def of_outputs(self, outputs: Sequence[np.ndarray], labels: Any) -> float:
        """Scores outputs.

        Args:
            outputs: One array for each output of the model, [n, ...].
            labels: [n, ...], nested as the model's metrics take them.

        Returns:
            The score, of which higher is better: the negative of a metric that is minimised.

        Raises:
            TrainingError: If the outputs or the metric's value are not finite.
        """
        if not all(np.isfinite(array).all() for array in outputs):
            raise TrainingError(
                f"The outputs hold NaN or infinite numbers, so their {self.metric.label} means "
                "nothing. The model's weights are damaged: train with a lower rate."
            )
        value = self._value(outputs, labels)
        if not np.isfinite(value):
            raise TrainingError(
                f"The metric {self.metric.name!r} is {value} on the given data; expected a finite "
                "number. Check the labels, or choose another metric."
            )
        return self.metric.score(value)

    def _value(self, outputs: Sequence[np.ndarray], labels: Any) -> float:
        model, count = self._compiled, len(outputs[0])
        structure = keras_internals.output_structure(model)
        model.reset_metrics()
        total, results = 0.0, {}
        for start in range(0, count, _BATCH_SIZE):
            end = min(start + _BATCH_SIZE, count)
            predicted = keras.tree.pack_sequence_as(
                structure, [keras.ops.convert_to_tensor(array[start:end]) for array in outputs]
            )
            expected = keras.tree.map_structure(
                lambda array, start=start, end=end: keras.ops.convert_to_tensor(array[start:end]),
                labels,
            )
            if self.metric.name == LOSS:
                total += float(data_loss(model, expected, predicted)) * (end - start)
            else:
                results = model.compute_metrics(None, expected, predicted)
        if self.metric.name == LOSS:
            return total / count
        return float(results[self.metric.name])

    def _check(self, labels: Any) -> None:
        """Computes the metric once on what comes of zeros, so that it cannot fail late."""
        name, model = self.metric.name, self._compiled
        count = len(keras.tree.flatten(labels)[0])
        inputs = [
            np.zeros((count, *map(int, filter(None, port.shape))), port.dtype)
            for port in self._interface.inputs
        ]
        try:
            outputs = outputs_of(self._interface, model, inputs)
            self._value(outputs, labels)
        except KeyError as error:
            known = sorted(set(model.get_metrics_result()) | {LOSS})
            raise TrainingError(
                f"config.strategy.metric is {name!r}; expected one of those that {model.name!r} "
                f"was compiled with: {', '.join(known)}."
            ) from error
        except Exception as error:  # a metric is the caller's code and may raise anything
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
            raise TrainingError(
                f"The metric {name!r} of {model.name!r} cannot be computed from labels "
                f"{describe(labels)}: {reason} Compile the model with metrics that fit the labels."
            ) from error


def outputs_of(
    interface: Interface, model: keras.Model, inputs: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """Computes all outputs of a model in inference mode.

    Args:
        interface: What the model takes and gives.
        model: The model.
        inputs: One array for each of its inputs, [n, ...].

    Returns:
        One array for each output, [n, ...].
    """
    return batched(interface, lambda batch: model(batch, training=False), inputs, _BATCH_SIZE)
