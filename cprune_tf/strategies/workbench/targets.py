"""Finds the channel groups that a task's filters belong to, and ranks their units."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from cprune_tf import graph, importance
from cprune_tf.importance.registry import Array
from cprune_tf.runtimes import RuntimeTask


@dataclasses.dataclass(frozen=True)
class Target:
    """The channel groups that are pruned when a task is pruned.

    Attributes:
        task: The task.
        groups: Names of the channel groups that the task's filters belong to, sorted.
        num_channels: Current number of filters of each group; the smallest number if they differ.
        reason: Why the task cannot be pruned; None if it can.
    """

    task: RuntimeTask
    groups: tuple[str, ...]
    num_channels: int
    reason: str | None

    @property
    def key(self) -> str:
        """The target's name in the journal; equal for tasks that prune the same groups."""
        return f"{'+'.join(self.groups)}@{self.num_channels}"


def find_target(task: RuntimeTask, channels: graph.ChannelGraph) -> Target:
    """Finds the channel groups that a task's filters belong to, and whether they may be pruned.

    All subgraphs of a task are pruned together (CPrune, section 3.2). So if one of the groups is
    protected, the task cannot be pruned.

    Args:
        task: A task of the model.
        channels: The channel groups of the same model.

    Returns:
        The target.
    """
    groups: dict[str, graph.ChannelGroup] = {}
    for subgraph in task.subgraphs:
        # There may be several groups: an attention layer makes more than one.
        subgraph_groups = [
            g for g in channels.groups if not set(g.producers).isdisjoint(subgraph.layers)
        ]
        if not subgraph_groups:
            # A depthwise convolution makes no channels: its filters belong to those of its input.
            subgraph_groups = [g for g in channels.groups if _has_kernel(g, subgraph.layers)]
        groups |= {group.name: group for group in subgraph_groups}
    names = tuple(sorted(groups))
    if not groups:
        return Target(task, (), 0, "it has no filters")
    smallest = min(group.num_channels for group in groups.values())
    for name in names:
        if groups[name].protected is not None:
            reason = f"group {name} is protected: {groups[name].protected}"
            return Target(task, names, smallest, reason)
    return Target(task, names, smallest, None)


def _has_kernel(group: graph.ChannelGroup, layers: tuple[str, ...]) -> bool:
    """Whether a kernel of one of the layers has an axis of the group's channels."""
    return any(weight.role == "kernel" and weight.layer in layers for weight in group.weights)


def removable(
    groups: tuple[str, ...],
    channels: graph.ChannelGraph,
    original: Mapping[str, int],
    max_fraction: float,
) -> int:
    """Returns how many filters may still be removed from each of some groups.

    Args:
        groups: Names of the groups.
        channels: The channel groups of the current model.
        original: Number of units of every group in the original model, by group name.
        max_fraction: Maximum fraction of a group's original units that may be removed in total.

    Returns:
        The number that all of the groups allow, at least 0.
    """
    allowances = []
    for name in groups:
        num_channels = channels[name].num_channels
        floor = max(1, original[name] - int(original[name] * max_fraction))
        allowances.append(num_channels - floor)
    return max(0, min(allowances))


def score_units(
    model: Any,
    channels: graph.ChannelGraph,
    groups: tuple[str, ...],
    *,
    method: str,
    seed: int,
    sample: Callable[[], Any] | None = None,
) -> dict[str, Array]:
    """Scores the units of some groups by importance.

    Args:
        model: The current model.
        channels: The model's channel groups.
        groups: Names of the groups to score.
        method: Name of the importance criterion, e.g. "l1"; see cprune_tf.importance.
        seed: The seed of a random criterion.
        sample: Returns batches of labelled images, for criteria that need some.

    Returns:
        float64 [num_channels] by group name; higher is more important.
    """
    data = None
    if importance.needs_data(method) and sample is not None:
        data = sample()
        model = with_loss(model, data)
    chosen = [channels[name] for name in groups]
    return importance.score_groups(model, chosen, method, data=data, seed=seed)


def with_loss(model: Any, data: Any) -> Any:
    """Returns the model, or a copy that has a loss for these labels.

    A model's own loss is used where it can compute something with the labels. A file may have been
    compiled for others: for one-hot labels, say, while a folder of images gives numbers.

    Args:
        model: A classifier.
        data: Batches of (images, labels); the first decides which loss fits.
    """
    import keras

    from cprune_tf.importance.taylor import batches
    from cprune_tf.training.losses import gives_probabilities

    images, labels = next(batches(data))
    if model.compiled and _own_loss_fits(model, images, labels):
        return model
    copy = graph.rebuild(model, {})
    from_logits = not gives_probabilities(model, images)
    one_hot = np.ndim(labels) == 2 and np.shape(labels)[1] > 1
    losses = keras.losses
    loss = losses.CategoricalCrossentropy if one_hot else losses.SparseCategoricalCrossentropy
    copy.compile(loss=loss(from_logits=from_logits))
    return copy


def _own_loss_fits(model: Any, images: Any, labels: Any) -> bool:
    """Whether a compiled model's loss is a finite number for these labels."""
    import tensorflow as tf

    try:
        outputs = model(images, training=False)
        loss = model.compute_loss(x=images, y=labels, y_pred=outputs, training=False)
        return bool(np.isfinite(float(loss)))
    except (ValueError, TypeError, tf.errors.InvalidArgumentError):
        return False
