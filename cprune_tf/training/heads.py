"""What each output of a model gives, and the loss and metric that fit it and its labels.

A model that nobody compiled is compiled here, so that it is trained, scored and judged for its
importance in the same way as a model that its owner compiled.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from cprune_tf import graph
from cprune_tf.accuracy import Metric
from cprune_tf.data.interface import Interface, Port
from cprune_tf.graph.heads import LINEAR, output_activations
from cprune_tf.training.compiled import by_output
from cprune_tf.training.errors import TrainingError
from cprune_tf.training.scoring import LOSS

SIGMOID, SOFTMAX, LOGITS, VALUES = "sigmoid", "softmax", "logits", "values"
_MEAN_IO_U = "mean_io_u"
# Parts of the names of metrics that compare probabilities, most of them with 0.5.
_OF_PROBABILITIES = ("acc", "auc", "precision", "recall", "iou", "io_u", "f1", "crossentropy")


@dataclasses.dataclass(frozen=True, eq=False)
class Head:
    """One output of a model.

    Attributes:
        port: Its name and shape.
        kind: "sigmoid"; "softmax" or "logits" of classes on the last axis; "values" of any other
            kind.
        labels: Its labels, [n, ...]; None if it has none, and so no loss.
        has_indices: Whether the labels are the numbers of classes, without an axis for them.
    """

    port: Port
    kind: str
    labels: np.ndarray | None
    has_indices: bool

    @property
    def is_unclear(self) -> bool:
        """Whether one unit without a sigmoid has labels of 0 and 1: a number, or a logit?"""
        return (
            self.kind == VALUES
            and self.labels is not None
            and _classes(self.port) == 1
            and bool(np.isin(self.labels, (0, 1)).all())
        )

    def loss(self) -> keras.losses.Loss | None:
        """Returns the loss that fits; None without labels.

        Raises:
            TrainingError: If none fits the labels.
        """
        if self.labels is None:
            return None
        low, high = float(self.labels.min()), float(self.labels.max())
        if self.has_indices and self.kind in (SOFTMAX, LOGITS):
            if low < 0 or high >= _classes(self.port):
                raise TrainingError(
                    f"The labels of the output {self.port} reach from {low:g} to {high:g}; "
                    f"expected classes from 0 to {_classes(self.port) - 1}. Compile the model with "
                    "a loss that ignores the others: "
                    "keras.losses.SparseCategoricalCrossentropy(ignore_class=...)."
                )
            return keras.losses.SparseCategoricalCrossentropy(from_logits=self.kind == LOGITS)
        if not _has_shape(self.labels, self.port):
            raise TrainingError(
                f"The output {self.port} has labels of {list(self.labels.shape[1:])} for each "
                "sample; expected the output's shape, or the same without the last axis for the "
                "numbers of classes. Compile the model with a loss that takes such labels."
            )
        if self.kind in (SOFTMAX, LOGITS):
            return keras.losses.CategoricalCrossentropy(from_logits=self.kind == LOGITS)
        if self.kind == VALUES:
            return keras.losses.MeanSquaredError()
        if low < 0 or high > 1:
            raise TrainingError(
                f"The output {self.port} is a sigmoid's, and its labels reach from {low:g} to "
                f"{high:g}; expected 0 to 1."
            )
        return keras.losses.BinaryCrossentropy()


def heads_of(model: keras.Model, interface: Interface, labels: Any) -> tuple[Head, ...]:
    """Finds out what each output gives.

    Args:
        model: A functional or built Sequential model.
        interface: What it takes and gives.
        labels: Some or all of them, nested as its losses take them: [n, ...].

    Returns:
        One for each output, in the model's order.
    """
    given = by_output(interface, labels)
    return tuple(
        _head(port, activation, None if one is None else np.asarray(one))
        for port, activation, one in zip(
            interface.outputs, output_activations(model), given, strict=True
        )
    )


def _head(port: Port, activation: str, labels: np.ndarray | None) -> Head:
    has_indices = (
        labels is not None
        and _classes(port) > 1
        and labels.shape[1:] in (port.shape[:-1], (*port.shape[:-1], 1))
        and bool((labels == np.round(labels)).all())
    )
    kind = VALUES
    if activation in (SIGMOID, SOFTMAX):
        kind = activation
    elif activation == LINEAR and (has_indices or _are_one_hot(labels, port)):
        kind = LOGITS
    return Head(port, kind, labels, has_indices)


def _classes(port: Port) -> int:
    return (port.shape[-1] or 0) if port.shape else 0


def _has_shape(labels: np.ndarray, port: Port) -> bool:
    """Whether labels have an output's shape; Keras adds or takes away a last axis of one."""
    return any(
        given == port.shape or (*given, 1) == port.shape or given == (*port.shape, 1)
        for given in [labels.shape[1:]]
    )


def _are_one_hot(labels: np.ndarray | None, port: Port) -> bool:
    if labels is None or labels.shape[1:] != port.shape or _classes(port) < 2:
        return False
    return bool(np.isin(labels, (0, 1)).all() and (labels.sum(axis=-1) == 1).all())


def compiled_by_heads(
    model: keras.Model, interface: Interface, metric: Metric | None, labels: Any
) -> tuple[keras.Model, str]:
    """Makes a copy of a model that is compiled with the losses that fit its outputs.

    Args:
        model: The model; it is not changed.
        interface: What it takes and gives.
        metric: What models are judged by; None: by something that is none of Keras's metrics.
        labels: All that decide, nested by the outputs' names or in their order.

    Returns:
        The copy, and a sentence that says what it is trained with.

    Raises:
        TrainingError: If there is no such metric, or no loss for the labels.
    """
    heads = heads_of(model, interface, labels)
    losses = {head.port.name: head.loss() for head in heads if head.labels is not None}
    if not losses:
        raise TrainingError(
            f"None of the labels belongs to one of the outputs of {model.name!r}; expected labels "
            f"for some of {', '.join(head.port.name for head in heads)}, in their order or by name."
        )
    metrics = {} if metric is None else _metrics(metric.name, heads)
    twin = graph.functional_twin(model)
    is_single = len(heads) == 1
    # An optimizer without a state, which a saved copy would lack.
    twin.compile(
        "sgd",
        loss=next(iter(losses.values())) if is_single else losses,
        metrics=next(iter(metrics.values()), None) if is_single else metrics,
    )
    named = [f"{name!r} by {loss.name.replace('_', ' ')}" for name, loss in losses.items() if loss]
    unclear = "".join(
        f" The labels of {head.port.name!r} are 0 and 1, but without a sigmoid it is taken for a "
        "number; compile the model if it gives logits."
        for head in heads
        if head.is_unclear
    )
    trained = f"The model is not compiled. config.training trains {', '.join(named)}."
    return twin, trained + unclear


def _metrics(name: str, heads: Sequence[Head]) -> dict[str, list[keras.metrics.Metric]]:
    """The metrics by output that make a model report a value of the given name."""
    if name == LOSS:
        return {}
    if len(heads) == 1:
        return {heads[0].port.name: [_metric(name, heads[0])]}
    for head in heads:
        prefix = f"{head.port.name}_"
        if name.startswith(prefix) and head.labels is not None:
            return {head.port.name: [_metric(name.removeprefix(prefix), head)]}
    examples = [
        f"{head.port.name}_{'mean_absolute_error' if head.kind == VALUES else 'accuracy'}"
        for head in heads
    ]
    raise TrainingError(
        f"config.strategy.metric is {name!r}; expected one of an output with labels, whose name "
        f"comes first, e.g. {', '.join(examples)}; or 'loss'."
    )


def _metric(name: str, head: Head) -> keras.metrics.Metric | str:
    if head.is_unclear and any(part in name for part in _OF_PROBABILITIES):
        raise TrainingError(
            f"config.strategy.metric is {name!r}, which compares probabilities; the output "
            f"{head.port} has labels of 0 and 1 and does not end in a sigmoid, so nobody can tell "
            "whether it gives logits. Let it end in a sigmoid, or compile the model with "
            "keras.losses.BinaryCrossentropy(from_logits=True) and a metric with a threshold of 0."
        )
    if name in ("accuracy", "acc"):
        return name  # Keras chooses the kind by the shapes.
    if name == _MEAN_IO_U:
        if head.kind == SIGMOID:
            return keras.metrics.BinaryIoU(name=name)
        return keras.metrics.MeanIoU(
            max(_classes(head.port), 2),
            name=name,
            sparse_y_true=head.has_indices,
            sparse_y_pred=False,
        )
    try:
        found = keras.metrics.get(name)
        if not isinstance(found, keras.metrics.Metric):
            return keras.metrics.MeanMetricWrapper(found, name=name)
        made: keras.metrics.Metric = type(found).from_config({**found.get_config(), "name": name})
    except (ValueError, TypeError) as error:  # unknown, or one that needs arguments
        raise TrainingError(
            f"config.strategy.metric is {name!r}, and the model is not compiled; expected 'loss', "
            "'accuracy', 'mean_io_u', or the name of another metric of Keras that needs no "
            "arguments, e.g. 'mean_absolute_error' or 'auc'. Or compile the model with a metric of "
            "this name, and save it so."
        ) from error
    return made
