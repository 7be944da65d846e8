"""The constants that vanished branches leave, followed from call to call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from cprune_tf.graph.absorbing import Array, Constant
from cprune_tf.graph.flat import Call, Tensor
from cprune_tf.graph.labels import Axes
from cprune_tf.graph.propagation import Propagation
from cprune_tf.graph.rules.registry import Effect, Keep
from cprune_tf.graph.vanishing import Vanishing, is_emptied

# Records a constant that is not passed on: (call that received it, reason, largest value).
Drop = Callable[[Call, str, float], None]


class BranchConstants:
    """The values of dead tensors, as if only the kernels of the removed units were zero.

    A value is an array of its tensor's rank. It has the tensor's size on the axes with channels and
    size one on the others, along which the tensor is the same everywhere.
    """

    def __init__(
        self,
        propagation: Propagation,
        keep: Keep,
        vanishing: Vanishing,
        removed: Mapping[int, Constant],
        drop: Drop,
    ) -> None:
        """Stores what the values depend on.

        Args:
            propagation: The analysed model.
            keep: The labels that remain.
            vanishing: The calls without channels.
            removed: The constants of the removed channels of each tensor, by the tensor's id; they
                must be there before the call that makes the tensor is followed.
            drop: Called with each constant that is not passed on.
        """
        self._p = propagation
        self._keep = keep
        self._vanishing = vanishing
        self._removed = removed
        self._drop = drop
        self._values: dict[int, Array] = {}

    def follow(self, position: int) -> None:
        """Finds the values of a dead call's outputs; its inputs must have been followed."""
        call, effect = self._p.flat.calls[position], self._p.effects[position]
        computed: list[Array | None] = [None] * len(call.outputs)
        replaced = all(
            id(tensor) in self._removed and is_emptied(axes, self._keep)
            for tensor, axes in zip(call.outputs, effect.outputs, strict=True)
        )
        if not replaced and all(id(t) in self._vanishing.gone for t in call.inputs):
            computed = self._computed(position)
        for tensor, axes, array in zip(call.outputs, effect.outputs, computed, strict=True):
            value = self._with_removed(effect, tensor, axes, array)
            if value is not None:
                self._values[id(tensor)] = value

    def entering(self, position: int) -> Constant | None:
        """The sum of what the dead operands of a sum would contribute to each of its channels.

        Args:
            position: The position of the sum.

        Returns:
            The constants, 0 for removed channels; None if they are not known, or not one value per
            channel.
        """
        call, axes = self._p.flat.calls[position], self._p.effects[position].outputs[0]
        channels = [axis for axis, labels in enumerate(axes) if labels is not None]
        if len(channels) != 1:
            return None
        labels = axes[channels[0]]
        assert labels is not None
        total = np.zeros(len(labels))
        for tensor in call.inputs:
            if id(tensor) not in self._vanishing.gone:
                continue
            value = self._values.get(id(tensor))
            if value is None or value.ndim != len(axes) or value.size not in (1, len(labels)):
                return None
            if value.shape[channels[0]] != value.size:
                return None
            total += value.ravel()
        return Constant(channels[0], np.where(self._keep.mask(labels), total, 0.0))

    def _computed(self, position: int) -> list[Array | None]:
        """The outputs of a call whose inputs are all dead, found by calling it on constants."""
        call, effect = self._p.flat.calls[position], self._p.effects[position]
        nothing: list[Array | None] = [None] * len(call.outputs)
        if effect.flow != "pointwise" and any(None in t.shape[1:] for t in call.inputs):
            self._drop(call, "the size of its input is not known", np.nan)
            return nothing
        if any(id(t) not in self._values for t in call.inputs):
            self._drop(call, "the values of the vanished branch are not known", np.nan)
        known = {id(t): self._values.get(id(t), np.zeros(1)) for t in call.inputs}
        values = self._called(position, known)
        largest = max(float(np.abs(value).max()) for value in known.values())
        if any(value is None for value in values) and largest > 0.0:
            self._drop(call, "its outputs would not be the same everywhere", largest)
            values = self._called(position, dict.fromkeys(known, np.zeros(1)))
        return values

    def _called(self, position: int, known: Mapping[int, Array]) -> list[Array | None]:
        """Calls a layer on constants; an output that is not the same everywhere becomes None."""
        call, effect = self._p.flat.calls[position], self._p.effects[position]
        tensors: dict[int, Any] = {}
        for tensor, axes in zip(call.inputs, self._p.arriving[position], strict=True):
            sizes = [1 if effect.flow == "pointwise" else (size or 1) for size in tensor.shape]
            pairs = zip(sizes, axes, strict=True)
            shape = [size if labels is None else len(labels) for size, labels in pairs]
            full = np.broadcast_to(known[id(tensor)], shape)
            tensors[id(tensor)] = keras.ops.convert_to_tensor(full, dtype=tensor.dtype)

        def swap(value: Any) -> Any:
            return tensors[id(value)] if isinstance(value, Tensor) else value

        args = keras.tree.map_structure(swap, call.args)
        kwargs = keras.tree.map_structure(swap, call.kwargs)
        outputs = keras.tree.flatten(call.operation(*args, **kwargs))
        arrays = [keras.ops.convert_to_numpy(keras.ops.cast(o, "float32")) for o in outputs]
        return [_reduced(a, axes) for a, axes in zip(arrays, effect.outputs, strict=True)]

    def _with_removed(
        self, effect: Effect, tensor: Tensor, axes: Axes, value: Array | None
    ) -> Array | None:
        """Replaces the values of removed channels, whose kernels are zero, by their constants."""
        touched = [axis for axis, labels in enumerate(axes) if self._keep.touches(labels)]
        if not touched:
            return value
        removed = self._removed.get(id(tensor))
        if removed is None:
            return None if self._has_removed_kernels(effect) else value
        labels = axes[removed.axis]
        assert labels is not None
        shape = [1] * len(axes)
        shape[removed.axis] = len(labels)
        kept, constants = self._keep.mask(labels).reshape(shape), removed.values.reshape(shape)
        if not kept.any():
            return constants
        return None if value is None else np.where(kept, value, constants)

    def _has_removed_kernels(self, effect: Effect) -> bool:
        """Whether a call has kernels of removed units, which count as zero."""
        return any(
            weight.role == "kernel"
            and weight.out_axis is not None
            and self._keep.touches(weight.axes[weight.out_axis])
            for weight in effect.weights.values()
        )


def _reduced(array: Any, axes: Axes) -> Array | None:
    """One value per channel; None if the values also differ along axes without channels."""
    index = tuple(slice(None) if labels is not None else slice(0, 1) for labels in axes)
    first = array[index]
    tolerance = 1e-6 * max(float(np.abs(array).max()), 1e-30)
    if not np.allclose(array, first, rtol=1e-5, atol=tolerance):
        return None
    return np.asarray(first, dtype=np.float64)
