"""Workloads at other channel counts, computed instead of converted.

A conversion takes seconds, so a staircase cannot convert a model for each of its counts. The sizes
that depend on channel counts are found by comparing a workload with the same one of a slightly
smaller model. Each must be a fixed multiple of the channels that the workload reads or makes; which
of the two is known for every operator. Nothing is guessed: if the smaller workload cannot be
computed in this way from the larger one, the answer is None.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping, Sequence

if typing.TYPE_CHECKING:
    from cprune_tf.litert.workloads import Operator, Tensor, Workload

Counts = tuple[int, int]
"""(channels that a workload reads, channels that it makes or passes through)."""
_READS, _MAKES = 0, 1

# For operators that make channels: operand -> axis -> the side that decides its size. All other
# sizes, and all operators that are not listed, follow the channels that are made.
_READING_AXES: Mapping[str, Mapping[int, Sequence[int]]] = {
    "CONV_2D": {0: (3,), 1: (3,)},
    "FULLY_CONNECTED": {0: (0, 1, 2, 3), 1: (1,)},
    "TRANSPOSE_CONV": {1: (3,), 2: (3,)},
}


@dataclasses.dataclass(frozen=True)
class Resize:
    """Channel counts of one workload.

    Attributes:
        before: Those that the workload has.
        reduced: Those of the same workload in the slightly smaller model.
        after: Those that are wanted.
    """

    before: Counts
    reduced: Counts
    after: Counts


def resized(workload: Workload, reduced: Workload, resize: Resize) -> Workload | None:
    """Returns a workload at other channel counts.

    Args:
        workload: The workload.
        reduced: The same workload in a model with fewer channels in every group.
        resize: The channel counts of both, and those that are wanted.

    Returns:
        The workload at `resize.after`; None if that cannot be computed with certainty.
    """
    try:
        if _Resizer(reduced, resize.before, resize.reduced).resized(workload) != reduced:
            return None
        return _Resizer(reduced, resize.before, resize.after).resized(workload)
    except ValueError:  # a size that is no multiple, or workloads of different structure
        return None


@dataclasses.dataclass(frozen=True)
class _Resizer:
    reduced: Workload
    before: Counts
    after: Counts

    def resized(self, workload: Workload) -> Workload:
        reading = _reading_axes(workload)
        tensors = zip(workload.tensors, self.reduced.tensors, strict=True)
        operators = zip(workload.operators, self.reduced.operators, strict=True)
        return dataclasses.replace(
            workload,
            operators=tuple(self._operator(*pair) for pair in operators),
            tensors=tuple(
                self._tensor(*pair, reading.get(index, ())) for index, pair in enumerate(tensors)
            ),
        )

    def _tensor(self, tensor: Tensor, smaller: Tensor, reading: Sequence[int]) -> Tensor:
        shape = self._sizes(tensor.shape, smaller.shape, reading)
        values = self._sizes(tensor.values, smaller.values)
        return dataclasses.replace(tensor.with_shape(shape), values=values)

    def _operator(self, operator: Operator, smaller: Operator) -> Operator:
        options = tuple(
            (name, self._sizes(value, other) if isinstance(value, tuple) else value)
            for (name, value), (_, other) in zip(operator.options, smaller.options, strict=True)
        )
        return dataclasses.replace(operator, options=options)

    def _sizes(
        self, sizes: Sequence[int], smaller: Sequence[int], reading: Sequence[int] = ()
    ) -> tuple[int, ...]:
        """Returns sizes at the new counts; those that do not depend on counts stay.

        Args:
            sizes: The sizes at the counts `before`.
            smaller: The sizes in the smaller model.
            reading: The axes whose sizes follow the channels that are read.

        Raises:
            ValueError: If a size is no multiple of the channels.
        """
        result = []
        for axis, (size, other) in enumerate(zip(sizes, smaller, strict=True)):
            side = _READS if axis in reading else _MAKES
            before, after = (1, 1) if size == other else (self.before[side], self.after[side])
            new, rest = divmod(size * after, before)
            if rest:
                raise ValueError(f"{size} is no multiple of {self.before[side]} channels")
            result.append(new)
        return tuple(result)


def _reading_axes(workload: Workload) -> dict[int, Sequence[int]]:
    """Returns the axes whose sizes follow the channels that are read, by tensor."""
    axes: dict[int, Sequence[int]] = {}
    for operator in reversed(workload.operators):
        for operand, reading in _READING_AXES.get(operator.code, {}).items():
            axes[operator.inputs[operand]] = reading
        if operator.outputs[0] in axes:  # what a convolution reads, a padding passes through
            axes[operator.inputs[0]] = axes[operator.outputs[0]]
    return axes
