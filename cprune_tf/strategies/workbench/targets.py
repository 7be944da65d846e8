"""From a task to the channel groups that it stands for, and to the units that go first."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from cprune_tf import graph, importance
from cprune_tf.importance.registry import Array
from cprune_tf.runtimes import RuntimeTask


@dataclasses.dataclass(frozen=True)
class Target:
    """What pruning a task means for the model.

    Attributes:
        task: The task.
        groups: Names of the channel groups that its filters belong to, sorted.
        num_channels: Filters of each group now; the smallest where they differ.
        reason: Why it cannot be pruned; None where it can.
    """

    task: RuntimeTask
    groups: tuple[str, ...]
    num_channels: int
    reason: str | None

    @property
    def key(self) -> str:
        """Names it in the journal. Tasks that prune the same groups are the same target."""
        return f"{'+'.join(self.groups)}@{self.num_channels}"


def find_target(task: RuntimeTask, channels: graph.ChannelGraph) -> Target:
    """Which channel groups a task's filters belong to, and whether they may go.

    Subgraphs of one task are pruned together (CPrune, section 3.2), so one protected group
    protects the task.

    Args:
        task: A task of the model that `channels` was found in.
        channels: Its channel groups.

    Returns:
        The target.
    """
    groups: dict[str, graph.ChannelGroup] = {}
    for subgraph in task.subgraphs:
        # An attention layer makes several groups.
        own = [g for g in channels.groups if not set(g.producers).isdisjoint(subgraph.layers)]
        if not own:
            # A depthwise convolution makes no channels: its filters are those of its input.
            own = [g for g in channels.groups if _passes_filters(g, subgraph.layers)]
        groups |= {group.name: group for group in own}
    names = tuple(sorted(groups))
    if not groups:
        return Target(task, (), 0, "it has no filters")
    smallest = min(group.num_channels for group in groups.values())
    for name in names:
        if groups[name].protected is not None:
            reason = f"group {name} is protected: {groups[name].protected}"
            return Target(task, names, smallest, reason)
    return Target(task, names, smallest, None)


def _passes_filters(group: graph.ChannelGroup, layers: tuple[str, ...]) -> bool:
    return any(weight.role == "kernel" and weight.layer in layers for weight in group.weights)


def removable(
    groups: tuple[str, ...],
    channels: graph.ChannelGraph,
    original: Mapping[str, int],
    max_fraction: float,
) -> int:
    """How many filters may still go from each of some groups.

    Args:
        groups: Names.
        channels: Groups of the current model.
        original: Number of units of every group in the original model.
        max_fraction: Of the original units that may be removed in all.

    Returns:
        The smallest remaining allowance, at least 0.
    """
    allowances = []
    for name in groups:
        now = channels[name].num_channels
        floor = max(1, original[name] - int(original[name] * max_fraction))
        allowances.append(now - floor)
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
        channels: Its groups.
        groups: Names of the groups to score.
        method: See cprune_tf.importance.
        seed: For method "random".
        sample: Gives batches of labelled images, for criteria that need some.

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
    """Returns the model, or where it was never compiled, a copy that has a loss.

    Args:
        model: A classifier.
        data: Batches of (images, labels); the first decides whether the outputs are logits.
    """
    if model.compiled:
        return model
    import keras

    from cprune_tf.importance.taylor import batches
    from cprune_tf.training.losses import gives_probabilities

    copy = graph.rebuild(model, {})
    images, _ = next(batches(data))
    from_logits = not gives_probabilities(model, images)
    copy.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits))
    return copy
