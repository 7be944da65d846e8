"""Channel groups: which channels of which layers live and die together, and which must stay."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Collection, Mapping, Sequence
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
from cprune_tf.graph.vanishing import Vanishing, find_vanishing

Removal = Mapping[str, Sequence[int]]

_ONE_UNIT = "has only one unit"


@dataclass(frozen=True, eq=False)
class AxisUnits:
    """The group and unit that each index of one axis belongs to.

    All groups that lie on the axis share one AxisUnits.

    Attributes:
        groups: For each index of the axis, the number of its group; -1 if it belongs to none.
        units: For each index of the axis, its unit in that group.
        present: The numbers of the groups on this axis.
    """

    groups: npt.NDArray[np.int32]
    units: npt.NDArray[np.int32]
    present: tuple[int, ...]

    def of(self, group: int) -> npt.NDArray[np.int64]:
        """For each index, its unit in the given group; -1 if it belongs to another group."""
        return np.where(self.groups == group, self.units, -1).astype(np.int64)


class _OnAxis:
    """A part of a group that lies on an axis, which other groups may share."""

    owners: AxisUnits
    group: int

    @property
    def units(self) -> npt.NDArray[np.int64]:
        """For each index of the axis, its unit in the group; -1 if it belongs to another group."""
        return self.owners.of(self.group)


@dataclass(frozen=True, eq=False)
class Member(_OnAxis):
    """One axis on which a group's channels lie.

    Attributes:
        layer: The layer's name.
        path: The layer's name with the names of the nested models around it.
        what: "filters" (the layer makes the channels), "inputs" (it consumes them), "channels" (it
            passes them through), or a weight's name.
        axis: The number of the axis in that tensor or weight.
        owners: The group and unit that each index of the axis belongs to.
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
        role: The weight's role, as in `rules.registry.Weight`.
        axis: The number of the sliced axis.
        is_output: Whether the axis counts the layer's output channels (filters), not its inputs.
        owners: The group and unit that each index of the axis belongs to.
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
        num_channels: Number of removable units. In the simplest case, a unit is one filter of each
            producer; it may own several indices of an axis (after a flatten, in a grouped
            convolution, in an attention head).
        protected: Why the units cannot be removed; None if they can.
        producers: Names of the layers that make these channels.
        followers: Names of the other layers these channels go through or into.
        members: All axes on which the channels lie, in topological order.
        weights: All weights of which the units own slices.
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
        propagation: The labels from which the groups are derived.
        groups: The channel groups, in topological order of their first producers.
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

    @functools.cached_property
    def removable_whole(self) -> tuple[ChannelGroup, ...]:
        """The groups of which all units may be removed, because the branch they lie in may vanish.

        `cprune_tf.graph.vanishing` defines them. A group of one unit can be among them: it is
        protected only in that it cannot be made narrower.
        """
        return tuple(
            group
            for group in self.groups
            if group.protected in (None, _ONE_UNIT) and not self.vanishing((group.name,)).refusal
        )

    def vanishing(self, names: Collection[str]) -> Vanishing:
        """Finds what disappears if some groups, protected or not, lose all their units."""
        roots = self.propagation.roots
        is_gone = np.isin(self._group_of_root, [self._by_name[name] for name in names])
        return find_vanishing(self.propagation, Keep(is_gone[roots]))

    def __getitem__(self, name: str) -> ChannelGroup:
        """The group of this name.

        Raises:
            KeyError: There is no such group.
        """
        if name not in self._by_name:
            close = difflib.get_close_matches(name, self._by_name, n=3)
            hint = f"did you mean {', '.join(close)}?" if close else f"there are {len(self.groups)}"
            raise KeyError(f"No channel group is called {name!r}; {hint}")
        return self.groups[self._by_name[name]]

    def group_of(self, layer_name: str) -> ChannelGroup:
        """The group that a layer's output channels belong to.

        Args:
            layer_name: The name of a layer that makes the channels of one group or passes them on.

        Returns:
            The group.

        Raises:
            KeyError: The layer is unknown, or its outputs carry no group or more than one.
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
        """Checks a removal and returns which labels remain.

        Args:
            removal: Unit indices to remove, by group name.

        Returns:
            The labels that remain.

        Raises:
            GraphError: A group is unknown or protected, an index is out of range or appears twice,
                or the removal would leave a layer without channels that cannot vanish.
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
        if refusal := find_vanishing(p, keep).refusal:
            self._refuse(keep, refusal)
        return keep

    def _refuse(self, keep: Keep, refusal: str) -> None:
        """Raises the GraphError of a removal that leaves too little."""
        p = self.propagation
        for production in p.productions:
            if not keep.count(production.labels):
                group = self.groups[self._group_of_root[p.roots[production.labels[0]]]]
                raise GraphError(
                    f"Removing these units of group '{group.name}' would leave the layer "
                    f"'{production.layer}' without channels; keep at least one of its "
                    f"{len(production.labels)}. The layer cannot vanish: {refusal}."
                )
        raise GraphError(f"This removal would leave a tensor without channels: {refusal}.")

    def _check(self, name: str, indices: Sequence[int]) -> ChannelGroup:
        if name not in self._by_name:
            raise GraphError(str(self._missing(name)))
        group = self[name]
        array = np.asarray(indices)
        if array.ndim != 1 or (array.size and not np.issubdtype(array.dtype, np.integer)):
            raise GraphError(
                f"removal[{name!r}] is {indices!r}; expected a sequence of unit indices (integers)."
            )
        is_single = group.protected == _ONE_UNIT and group in self.removable_whole
        if array.size and group.protected and not is_single:
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
        model: A functional or built Sequential Keras 3 model; nested models are inlined.
        protect: fnmatch patterns of layer names ("head*") or paths ("backbone/*") whose channels
            must stay.
        registry: The layer rules; the default holds the rules of Keras's layers and all rules that
            the user registered.

    Returns:
        The channel groups.

    Raises:
        GraphError: The model has no graph (subclassed, unbuilt, Keras 2), or a pattern matches no
            layer.
    """
    return ChannelGraph(propagate(flatten(model), protect, registry))


def describe_indices(units: npt.NDArray[np.int64]) -> str:
    """Describes compactly where a group's units lie on an axis.

    Args:
        units: For each index of the axis, its unit in the group; -1 if it belongs to another group.

    Returns:
        The runs of indices, e.g. "[16:48]" or "[0:3136], 49 indices a unit".
    """
    indices = np.flatnonzero(units >= 0)
    if not indices.size:
        return "[]"
    runs = np.split(indices, np.flatnonzero(np.diff(indices) != 1) + 1)
    text = ", ".join(f"{run[0]}:{run[-1] + 1}" for run in runs[:4])
    if len(runs) > 4:
        text += f", ... ({len(runs)} runs)"
    per_unit = indices.size / len(np.unique(units[indices]))
    return f"[{text}]" + (f", {per_unit:g} indices a unit" if per_unit != 1 else "")


def _units(p: Propagation) -> tuple[Labels, Labels, list[str]]:
    """Numbers groups and their units.

    Returns:
        For each root, the number of its group (-1 if it has none) and its unit in that group; and
        the names of the groups.
    """
    ties = [(p.roots[m.labels[1:]], p.roots[m.labels[:-1]]) for m in p.productions]
    component = components(len(p.roots), ties)
    group_of, unit_of = (np.full(len(p.roots), -1, dtype=np.int64) for _ in range(2))
    number_of_component: dict[int, int] = {}
    sizes: list[int] = []
    names: list[str] = []
    for production in p.productions:
        roots = p.roots[production.labels]
        key = int(component[roots[0]])
        if key not in number_of_component:
            number_of_component[key] = len(names)
            names.append(production.name)
            sizes.append(0)
        group = number_of_component[key]
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
    # A group is protected for the first reason that applies to any of its channels.
    first_reason = np.full(len(names), len(p.reasons), dtype=np.int64)
    is_protected = (group_of >= 0) & (p.reason >= 0)
    np.minimum.at(first_reason, group_of[is_protected], p.reason[is_protected])
    makers: list[dict[str, None]] = [{} for _ in names]
    for production in p.productions:
        makers[group_of[p.roots[production.labels[0]]]][production.layer] = None
    groups = []
    for i, name in enumerate(names):
        reason = p.reasons[first_reason[i]] if first_reason[i] < len(p.reasons) else None
        if reason is None and counts[i] == 1:
            reason = _ONE_UNIT
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
    """Makes the AxisUnits of label arrays, and reuses it when an array comes again."""

    def __init__(self, p: Propagation, group_of: Labels, unit_of: Labels) -> None:
        self._roots = p.roots
        self._group_of, self._unit_of = group_of.astype(np.int32), unit_of.astype(np.int32)
        self._cache: dict[int, AxisUnits] = {}

    def __call__(self, labels: Labels) -> AxisUnits:
        """Returns the group and unit of each label.

        The array must stay alive, because the cache knows it by its id.
        """
        if id(labels) not in self._cache:
            roots = self._roots[labels]
            groups = self._group_of[roots]
            present = tuple(int(group) for group in np.unique(groups) if group >= 0)
            self._cache[id(labels)] = AxisUnits(groups, self._unit_of[roots], present)
        return self._cache[id(labels)]


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
                axis_units = owners(labels)
                for group in axis_units.present:
                    members[group].append(
                        Member(call.name, call.path, kind, axis, axis_units, group)
                    )
        for suffix, labels in effect.produced.items():
            if suffix:
                axis_units = owners(labels)
                for group in axis_units.present:
                    members[group].append(
                        Member(call.name, call.path, suffix, 0, axis_units, group)
                    )
    return members


def _collect_weights(p: Propagation, owners: _Owners, count: int) -> list[list[GroupWeight]]:
    weights: list[list[GroupWeight]] = [[] for _ in range(count)]
    operations = p.flat.layers()
    for layer, layer_weights in p.weights.items():
        # A rule also lists optional weights (a bias) that this layer may lack.
        present = (
            set(keras_internals.relative_weight_names(operations[layer]))
            if layer_weights
            else set()
        )
        for name, weight in layer_weights.items():
            for axis, labels in enumerate(weight.axes):
                if labels is None or name not in present:
                    continue
                axis_units, is_output = owners(labels), axis == weight.out_axis
                for group in axis_units.present:
                    weights[group].append(
                        GroupWeight(layer, name, weight.role, axis, is_output, axis_units, group)
                    )
    return weights
