"""Channel groups: which channels of which layers live and die together, and which must stay."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cprune_tf.graph import keras_internals
from cprune_tf.graph.errors import GraphError
from cprune_tf.graph.flat import flatten
from cprune_tf.graph.labels import Labels, components
from cprune_tf.graph.propagation import Propagation, propagate
from cprune_tf.graph.rules.registry import REGISTRY, Keep, RuleRegistry

Removal = Mapping[str, Sequence[int]]


@dataclass(frozen=True, eq=False)
class AxisUnits:
    """Whose every index of one axis is; all groups that share the axis share this.

    Attributes:
        groups: For each index the number of its group, -1 for none.
        units: For each index its unit in that group.
        present: The numbers of the groups on this axis.
    """

    groups: npt.NDArray[np.int32]
    units: npt.NDArray[np.int32]
    present: tuple[int, ...]

    def of(self, group: int) -> npt.NDArray[np.int64]:
        """For each index the unit of this group, -1 for another group's."""
        return np.where(self.groups == group, self.units, -1).astype(np.int64)


class _OnAxis:
    """What lies on an axis that several groups may share."""

    owners: AxisUnits
    group: int

    @property
    def units(self) -> npt.NDArray[np.int64]:
        """For each index of the axis the group's unit it belongs to, -1 for another group's."""
        return self.owners.of(self.group)


@dataclass(frozen=True, eq=False)
class Member(_OnAxis):
    """One axis on which a group's channels lie.

    Attributes:
        layer: The layer's name.
        path: Its name below nested models.
        what: "filters" (made here), "inputs" (consumed here), "channels" (passed through), or a
            weight's name.
        axis: The axis, counted in that tensor or weight.
        owners: Whose every index of the axis is.
        group: The group's number.
    """

    layer: str
    path: str
    what: str
    axis: int
    owners: AxisUnits
    group: int

    def __str__(self) -> str:
        return f"{self.layer} {self.what} {describe_indices(self.units)}"


@dataclass(frozen=True, eq=False)
class GroupWeight(_OnAxis):
    """One weight of which a group's units own slices.

    Attributes:
        layer: The layer's name.
        weight: The weight's name relative to the layer.
        role: As in `rules.registry.Weight`.
        axis: The sliced axis.
        is_output: Whether the axis counts the layer's output channels (filters), not its inputs.
        owners: Whose every index of the axis is.
        group: The group's number.
    """

    layer: str
    weight: str
    role: str
    axis: int
    is_output: bool
    owners: AxisUnits
    group: int


@dataclass(frozen=True, eq=False)
class ChannelGroup:
    """Channels that live and die together, unit by unit.

    Attributes:
        name: The first producer's layer name in topological order (with "/heads" and the like for
            an inner width of a layer).
        num_channels: Number of removable units. A unit is one filter of each producer in the
            simplest case; it may own several indices of an axis (after a flatten, in a grouped
            convolution, an attention head).
        protected: Why its units cannot be removed; None where they can.
        producers: Names of the layers that make these channels.
        followers: Names of the other layers these channels go through or into.
        members: Every axis the channels lie on, in topological order.
        weights: Every weight the units own slices of.
    """

    name: str
    num_channels: int
    protected: str | None
    producers: tuple[str, ...]
    followers: tuple[str, ...]
    members: tuple[Member, ...]
    weights: tuple[GroupWeight, ...]

    def __str__(self) -> str:
        state = f"protected: {self.protected}" if self.protected else "prunable"
        lines = [f"{self.name}: {self.num_channels} units, {state}"]
        trigger = next((m for m in self.members if m.what == "filters"), self.members[0])
        lines += [f"  {trigger}"]
        lines += [f"    => {member}" for member in self.members if member is not trigger]
        return "\n".join(lines)


class ChannelGraph:
    """All channel groups of one model.

    Attributes:
        propagation: The labels that everything is derived from.
        groups: In topological order of their first producer.
    """

    def __init__(self, propagation: Propagation) -> None:
        self.propagation = propagation
        self._group_of_root, self._unit_of_root, names = _units(propagation)
        self.groups = _groups(propagation, self._group_of_root, self._unit_of_root, names)
        self._by_name = {group.name: i for i, group in enumerate(self.groups)}

    @property
    def model(self) -> Any:
        """The analysed model."""
        return self.propagation.flat.model

    @property
    def prunable(self) -> tuple[ChannelGroup, ...]:
        """The groups that are not protected."""
        return tuple(group for group in self.groups if group.protected is None)

    def __getitem__(self, name: str) -> ChannelGroup:
        """The group of this name.

        Raises:
            KeyError: Where there is none.
        """
        if name not in self._by_name:
            close = difflib.get_close_matches(name, self._by_name, n=3)
            hint = f"did you mean {', '.join(close)}?" if close else f"there are {len(self.groups)}"
            raise KeyError(f"No channel group is called {name!r}; {hint}")
        return self.groups[self._by_name[name]]

    def group_of(self, layer_name: str) -> ChannelGroup:
        """The group that a layer's output channels belong to.

        Args:
            layer_name: A layer that makes channels or passes one group's through.

        Returns:
            The group.

        Raises:
            KeyError: For an unknown layer, or one whose outputs carry no group or several.
        """
        p = self.propagation
        for production in p.productions:
            if production.name == layer_name:
                return self.groups[self._group_of_root[p.roots[production.labels[0]]]]
        group_numbers: set[int] = set()
        is_known = False
        for call, effect in zip(p.flat.calls, p.effects, strict=True):
            if call.name == layer_name:
                is_known = True
                labels = [a for axes in effect.outputs for a in axes if a is not None]
                group_numbers.update(
                    int(g) for a in labels for g in self._group_of_root[p.roots[a]]
                )
        if not is_known:
            names = sorted({call.name for call in p.flat.calls})
            close = difflib.get_close_matches(layer_name, names, n=3)
            raise KeyError(
                f"No layer is called {layer_name!r}"
                + (f"; did you mean {', '.join(close)}?" if close else "")
            )
        if len(group_numbers) != 1 or -1 in group_numbers:
            names = [self.groups[g].name for g in sorted(group_numbers) if g >= 0]
            raise KeyError(
                f"The outputs of layer {layer_name!r} belong to "
                + (f"several channel groups: {', '.join(names)}" if names else "no channel group")
            )
        return self.groups[group_numbers.pop()]

    def keep(self, removal: Removal) -> Keep:
        """Checks a removal and says what remains, for every label.

        Args:
            removal: Unit indices to remove, by group name.

        Returns:
            What remains.

        Raises:
            GraphError: For an unknown or protected group, an index out of range or given twice, or
                a removal that would leave a layer without channels.
        """
        p = self.propagation
        removed_root = np.zeros(len(p.roots), dtype=bool)
        for name, indices in removal.items():
            group = self._check(name, indices)
            chosen = np.zeros(group.num_channels, dtype=bool)
            chosen[np.asarray(indices, dtype=np.int64)] = True
            inside = self._group_of_root == self._by_name[name]
            removed_root[inside] = chosen[self._unit_of_root[inside]]
        keep = Keep(removed_root[p.roots])
        for production in p.productions:
            if not keep.count(production.labels):
                group = self.groups[self._group_of_root[p.roots[production.labels[0]]]]
                raise GraphError(
                    f"Removing these units of group '{group.name}' would leave the layer "
                    f"'{production.layer}' without channels; keep at least one of its "
                    f"{len(production.labels)}."
                )
        for call, effect in zip(p.flat.calls, p.effects, strict=True):
            for labels in (labels for axes in effect.outputs for labels in axes):
                if labels is not None and keep.touches(labels) and not keep.count(labels):
                    raise GraphError(
                        f"This removal would leave an output of '{call.name}' without channels."
                    )
        return keep

    def _check(self, name: str, indices: Sequence[int]) -> ChannelGroup:
        if name not in self._by_name:
            raise GraphError(str(self._missing(name)))
        group = self[name]
        array = np.asarray(indices)
        if array.ndim != 1 or (array.size and not np.issubdtype(array.dtype, np.integer)):
            raise GraphError(
                f"removal[{name!r}] is {indices!r}; expected a sequence of unit indices (integers)."
            )
        if array.size and group.protected:
            raise GraphError(f"The group '{name}' cannot be pruned. Protected: {group.protected}.")
        if array.size and (array.min() < 0 or array.max() >= group.num_channels):
            raise GraphError(
                f"removal[{name!r}] names units {array.min()} to {array.max()}; expected 0 to "
                f"{group.num_channels - 1}."
            )
        if len(np.unique(array)) != array.size:
            raise GraphError(f"removal[{name!r}] names a unit twice: {sorted(indices)}.")
        return group

    def _missing(self, name: str) -> str:
        close = difflib.get_close_matches(name, self._by_name, n=3)
        hint = f" Did you mean {', '.join(close)}?" if close else ""
        return f"removal names the group {name!r}, which the model does not have.{hint}"

    def __str__(self) -> str:
        return "\n".join(str(group) for group in self.groups)


def analyze(
    model: Any, protect: Sequence[str] = (), *, registry: RuleRegistry = REGISTRY
) -> ChannelGraph:
    """Finds the channel groups of a model.

    Args:
        model: A functional or built Sequential Keras 3 model; nested models are looked into.
        protect: fnmatch patterns of layer names ("head*") or paths ("backbone/*") whose channels
            stay.
        registry: The layer rules; the default holds Keras's layers and what was registered.

    Returns:
        The groups.

    Raises:
        GraphError: For a model that has no graph (subclassed, unbuilt, Keras 2) or a pattern that
            matches nothing.
    """
    return ChannelGraph(propagate(flatten(model), protect, registry))


def describe_indices(units: npt.NDArray[np.int64]) -> str:
    """Says compactly where a group's units lie on an axis: "[16:48]", "[0:64] x 49"."""
    held = np.flatnonzero(units >= 0)
    if not held.size:
        return "[]"
    runs = np.split(held, np.flatnonzero(np.diff(held) != 1) + 1)
    text = ", ".join(f"{run[0]}:{run[-1] + 1}" for run in runs[:4])
    if len(runs) > 4:
        text += f", ... ({len(runs)} runs)"
    per_unit = held.size / len(np.unique(units[held]))
    return f"[{text}]" + (f", {per_unit:g} indices a unit" if per_unit != 1 else "")


def _units(p: Propagation) -> tuple[Labels, Labels, list[str]]:
    """Numbers groups and their units.

    Returns:
        For each root the group it is in (-1: none) and its unit there, and the groups' names.
    """
    ties = [(p.roots[m.labels[1:]], p.roots[m.labels[:-1]]) for m in p.productions]
    linked = components(len(p.roots), ties)
    group_of, unit_of = (np.full(len(p.roots), -1, dtype=np.int64) for _ in range(2))
    number: dict[int, int] = {}
    sizes: list[int] = []
    names: list[str] = []
    for production in p.productions:
        roots = p.roots[production.labels]
        key = int(linked[roots[0]])
        if key not in number:
            number[key] = len(names)
            names.append(production.name)
            sizes.append(0)
        group = number[key]
        new = roots[group_of[roots] < 0]
        new = new[np.sort(np.unique(new, return_index=True)[1])]
        group_of[new] = group
        unit_of[new] = np.arange(sizes[group], sizes[group] + len(new))
        sizes[group] += len(new)
    return group_of, unit_of, names


def _groups(
    p: Propagation, group_of: Labels, unit_of: Labels, names: list[str]
) -> tuple[ChannelGroup, ...]:
    owners = _Owners(p, group_of, unit_of)
    members = _collect_members(p, owners, len(names))
    weights = _collect_weights(p, owners, len(names))
    is_root = p.roots == np.arange(len(p.roots))
    counts = np.bincount(group_of[is_root & (group_of >= 0)], minlength=len(names))
    why = np.full(len(names), len(p.reasons), dtype=np.int64)
    held = (group_of >= 0) & (p.reason >= 0)
    np.minimum.at(why, group_of[held], p.reason[held])
    makers: list[dict[str, None]] = [{} for _ in names]
    for production in p.productions:
        makers[group_of[p.roots[production.labels[0]]]][production.layer] = None
    groups = []
    for i, name in enumerate(names):
        reason = p.reasons[why[i]] if why[i] < len(p.reasons) else None
        if reason is None and counts[i] == 1:
            reason = "has only one unit"
        followers = dict.fromkeys(m.layer for m in members[i] if m.layer not in makers[i])
        groups.append(
            ChannelGroup(
                name,
                int(counts[i]),
                reason,
                tuple(makers[i]),
                tuple(followers),
                tuple(members[i]),
                tuple(weights[i]),
            )
        )
    return tuple(groups)


class _Owners:
    """Makes the AxisUnits of label arrays, one for each array."""

    def __init__(self, p: Propagation, group_of: Labels, unit_of: Labels) -> None:
        self._roots = p.roots
        self._group_of, self._unit_of = group_of.astype(np.int32), unit_of.astype(np.int32)
        self._known: dict[int, AxisUnits] = {}

    def __call__(self, labels: Labels) -> AxisUnits:
        """Whose each of these labels is; `labels` must stay alive."""
        if id(labels) not in self._known:
            roots = self._roots[labels]
            groups = self._group_of[roots]
            present = tuple(int(group) for group in np.unique(groups) if group >= 0)
            self._known[id(labels)] = AxisUnits(groups, self._unit_of[roots], present)
        return self._known[id(labels)]


def _collect_members(p: Propagation, owners: _Owners, count: int) -> list[list[Member]]:
    members: list[list[Member]] = [[] for _ in range(count)]
    for call, effect, arriving in zip(p.flat.calls, p.effects, p.arriving, strict=True):
        produced_ids = {id(labels) for labels in effect.produced.values()}
        leaving_ids = {id(a) for axes in effect.outputs for a in axes if a is not None}
        sides = [("inputs", axes) for axes in arriving]
        sides += [
            ("filters" if produced_ids & leaving_ids else "channels", axes)
            for axes in effect.outputs
        ]
        for what, axes in sides:
            for axis, labels in enumerate(axes):
                if labels is None or (what == "inputs" and id(labels) in leaving_ids):
                    continue
                kind = (
                    "filters" if id(labels) in produced_ids else what.replace("filters", "channels")
                )
                held = owners(labels)
                for group in held.present:
                    members[group].append(Member(call.name, call.path, kind, axis, held, group))
        for suffix, labels in effect.produced.items():
            if suffix:
                held = owners(labels)
                for group in held.present:
                    members[group].append(Member(call.name, call.path, suffix, 0, held, group))
    return members


def _collect_weights(p: Propagation, owners: _Owners, count: int) -> list[list[GroupWeight]]:
    weights: list[list[GroupWeight]] = [[] for _ in range(count)]
    operations = p.flat.layers()
    for layer, held in p.weights.items():
        present = set(keras_internals.relative_weight_names(operations[layer])) if held else set()
        for name, weight in held.items():
            for axis, labels in enumerate(weight.axes):
                if labels is None or name not in present:
                    continue
                axis_units, is_output = owners(labels), axis == weight.out_axis
                for group in axis_units.present:
                    weights[group].append(
                        GroupWeight(layer, name, weight.role, axis, is_output, axis_units, group)
                    )
    return weights
