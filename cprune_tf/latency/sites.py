"""Finds which channel counts decide the shape of each subgraph of a model.

A *site* is one subgraph of the model, as a runtime divides it, together with the channel groups on
its input and its output. Sites that differ only in the two channel counts form a *family*: a
latency measured at one site of a family holds for all others at the same counts.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from typing import Any

from cprune_tf.graph import ChannelGraph
from cprune_tf.runtimes import RuntimeModel, RuntimeTask

Units = Mapping[str, int]
Counts = tuple[int, int]
SiteKey = tuple[tuple[str, ...], str, int]


@dataclasses.dataclass(frozen=True)
class Extent:
    """Number of channels on one side of a subgraph, as a function of the groups' units.

    Attributes:
        constant: Number of channels that belong to no group.
        per_unit: (group, number of channels that each of the group's units owns on this side).
    """

    constant: int
    per_unit: tuple[tuple[str, float], ...]

    def count(self, units: Units) -> int:
        """Returns the number of channels, given the number of units of every group."""
        return self.constant + round(sum(owned * units[group] for group, owned in self.per_unit))

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups that the number of channels depends on."""
        return tuple(group for group, _ in self.per_unit)


@dataclasses.dataclass(frozen=True)
class Site:
    """One subgraph and the channel counts that decide its shape.

    Attributes:
        key: Identifies the subgraph in the same model, whatever its channel counts.
        layers: The Keras layers that the subgraph computes.
        anchor: The layer that does the work.
        family: The subgraph's operators and shapes, with "*" for channel counts.
        inputs: Channels that the anchor reads.
        outputs: Channels that the anchor makes or passes through.
        makes_channels: Whether the work grows with inputs x outputs (a dense kernel). Otherwise it
            grows with the channels alone (depthwise, pooling).
        flops_per_work: FLOPs per unit of that work; see `flops`.
    """

    key: SiteKey
    layers: tuple[str, ...]
    anchor: str
    family: str
    inputs: Extent
    outputs: Extent
    makes_channels: bool
    flops_per_work: float

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups that the subgraph's shape depends on."""
        return tuple(dict.fromkeys((*self.inputs.groups, *self.outputs.groups)))

    def counts(self, units: Units) -> Counts:
        """Returns (input channels, output channels), given the units of every group."""
        return self.inputs.count(units), self.outputs.count(units)

    def flops(self, counts: Counts) -> float:
        """Returns the FLOPs of one call; the epilogue's are assumed to grow like the anchor's."""
        return self.flops_per_work * _work(counts, self.makes_channels)


def current_units(channels: ChannelGraph) -> dict[str, int]:
    """Returns the number of units of every group."""
    return {group.name: group.num_channels for group in channels.groups}


def tasks_by_site(prepared: RuntimeModel) -> dict[SiteKey, RuntimeTask]:
    """Finds the task of every subgraph.

    Args:
        prepared: A model as its runtime sees it.

    Returns:
        Site keys to the runtime's tasks. The same model with other counts has the same keys.
    """
    task_at: dict[SiteKey, RuntimeTask] = {}
    occurrences: Counter[tuple[tuple[str, ...], str]] = Counter()
    for task in prepared.tasks:
        for subgraph in task.subgraphs:
            name = (subgraph.layers, task.kind)
            task_at[(*name, occurrences[name])] = task
            occurrences[name] += 1
    return task_at


def find_sites(
    prepared: RuntimeModel, reduced: RuntimeModel, channels: ChannelGraph
) -> tuple[Site, ...]:
    """Finds the channel counts that every subgraph's shape depends on.

    Args:
        prepared: The model as its runtime sees it.
        reduced: The same model with fewer units in every prunable group. The extents that differ
            between the two models are those that channel counts decide.
        channels: The channel groups of the model.

    Returns:
        One site for each subgraph.

    Raises:
        ValueError: If the two models do not have the same subgraphs.
    """
    task_at, reduced_at = tasks_by_site(prepared), tasks_by_site(reduced)
    if task_at.keys() != reduced_at.keys():
        differing = sorted(map(str, task_at.keys() ^ reduced_at.keys()))
        raise ValueError(
            f"The model's subgraphs changed with its channel counts: {differing[:4]}; expected "
            "the same subgraphs with other shapes. Rebuild the model without folding constants."
        )
    units = current_units(channels)
    return tuple(
        _site(key, task, reduced_at[key], channels, units) for key, task in task_at.items()
    )


def _site(
    key: SiteKey, task: RuntimeTask, reduced: RuntimeTask, channels: ChannelGraph, units: Units
) -> Site:
    layers = key[0]
    anchor = _anchor(layers, channels)
    makes_channels = any(anchor in group.producers for group in channels.groups)
    outputs = _extent(anchor, ("filters", "channels"), channels)
    inputs = _extent(anchor, ("inputs",), channels)
    if not makes_channels:
        # A layer that passes its channels through has equally many on both sides.
        inputs = outputs = outputs if outputs.per_unit else inputs
    counts = inputs.count(units), outputs.count(units)
    per_work = task.flops / _work(counts, makes_channels)
    family = _family(task, reduced, channels.model, anchor)
    return Site(key, layers, anchor, family, inputs, outputs, makes_channels, per_work)


def _work(counts: Counts, makes_channels: bool) -> int:
    return max(1, counts[0]) * max(1, counts[1]) if makes_channels else max(1, counts[1])


def _anchor(layers: tuple[str, ...], channels: ChannelGraph) -> str:
    kernels = {
        weight.layer
        for group in channels.groups
        for weight in group.weights
        if weight.role == "kernel"
    }
    return next((layer for layer in layers if layer in kernels), layers[0] if layers else "")


def _extent(layer: str, sides: tuple[str, ...], channels: ChannelGraph) -> Extent:
    per_unit = []
    constant = 0
    for group in channels.groups:
        members = [m for m in group.members if m.layer == layer and m.what in sides]
        if members:
            owned = sum(int((member.units >= 0).sum()) for member in members)
            per_unit.append((group.name, owned / group.num_channels))
    if not per_unit:
        constant = 1
    return Extent(constant, tuple(per_unit))


def _family(task: RuntimeTask, reduced: RuntimeTask, model: Any, anchor: str) -> str:
    """Writes a task's kind and shapes, with "*" for every extent that depends on the counts."""
    shapes = []
    pairs = zip(task.argument_shapes, reduced.argument_shapes, strict=True)
    for (dtype, shape), (_, smaller) in pairs:
        extents = [str(a) if a == b else "*" for a, b in zip(shape, smaller, strict=True)]
        shapes.append(f"{'x'.join(extents)}{'' if dtype == 'float32' else f':{dtype}'}")
    return f"{task.kind}({', '.join(shapes)}){_unseen_in_shapes(model, anchor)}"


def _unseen_in_shapes(model: Any, anchor: str) -> str:
    """Writes the attributes by which workloads of the same shapes differ."""
    layer = next((layer for layer in model.layers if layer.name == anchor), None)
    words = []
    for name in ("dilation_rate", "groups"):
        value = getattr(layer, name, 1)
        if value not in (1, (1,), (1, 1)):
            words.append(f" {name}={value}")
    return "".join(words)
