"""Euclidean projections of a convolution's weights on what a sparse layer can hold.

The filters of a layer are divided into blocks of B. All filters of a block keep the same kernels
(connections to input channels) and, of each, the entries of the same pattern. B = 1 is PatDNN's
form; larger blocks use each input value that was loaded for B filters.

The projections are exact: the squared distance is the sum over kernels of what is removed, so
every kernel takes the pattern that keeps most, and the kernels that keep most stay.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import numpy.typing as npt

from cprune_tf.sparse.patterns import Bools, Floats, PatternSet

Ints = npt.NDArray[np.intp]

REMOVED = -1


@dataclasses.dataclass(frozen=True, eq=False)
class SparseKernel:
    """What stays of a layer's weights.

    Attributes:
        patterns: The patterns.
        order: The filters in the order in which blocks take them, [outputs].
        block_size: Filters in a block; the last block may have fewer.
        chosen: The number of the pattern that a block keeps of its kernels for an input channel,
            or REMOVED, [inputs, num_blocks].
    """

    patterns: PatternSet
    order: Ints
    block_size: int
    chosen: Ints

    @property
    def density(self) -> float:
        """The share of the weights that stays, 0..1."""
        return float(self.mask().mean())

    def by_filter(self) -> Ints:
        """The number of each kernel's pattern, or REMOVED, [inputs, outputs]."""
        by_filter = np.empty((self.chosen.shape[0], len(self.order)), np.intp)
        by_filter[:, self.order] = self.chosen[:, block_numbers(len(self.order), self.block_size)]
        return by_filter

    def mask(self) -> Bools:
        """Which weights stay, [height, width, inputs, outputs]."""
        size = math.prod(self.patterns.kernel_size)
        masks = np.vstack([self.patterns.masks.reshape(len(self.patterns), size), np.zeros(size)])
        by_filter = self.by_filter()
        # REMOVED is the last row: no entry at all.
        whole = masks[by_filter].astype(bool)
        return np.moveaxis(whole, -1, 0).reshape(*self.patterns.kernel_size, *by_filter.shape)


def project(
    kernel: Floats,
    patterns: PatternSet,
    num_kept: int,
    *,
    block_size: int = 1,
    order: Ints | None = None,
    balanced: bool = False,
) -> SparseKernel:
    """Projects weights on patterns and connectivity at once.

    Args:
        kernel: The weights, [height, width, inputs, outputs].
        patterns: Patterns of kernels of that size.
        num_kept: The number of pairs of an input channel and a block that stay.
        block_size: Filters in a block.
        order: The filters in the order in which blocks take them, [outputs]; None: as they are.
        balanced: Whether all blocks keep equally many pairs. Then a compiled loop has the same
            length for all of them, and threads have equally much to do.

    Returns:
        What stays. Of kernels that keep equally much, the earlier input channels stay.

    Raises:
        ValueError: If the shapes or numbers do not fit.
    """
    energies, order = _pattern_energies(kernel, patterns, block_size, order)
    best, values = energies.argmax(axis=0), energies.max(axis=0)
    if not 1 <= num_kept <= values.size:
        raise ValueError(f"{num_kept} kernels are to stay; expected 1 to {values.size}.")
    kept = (_largest_of_each_block if balanced else _largest)(values, num_kept)
    return SparseKernel(patterns, order, block_size, np.where(kept, best, REMOVED))


def project_on_patterns(
    kernel: Floats, patterns: PatternSet, *, block_size: int = 1, order: Ints | None = None
) -> SparseKernel:
    """Projects weights on patterns alone: every kernel stays (the Z of PatDNN's ADMM).

    Args:
        kernel: See `project`.
        patterns: See `project`.
        block_size: See `project`.
        order: See `project`.

    Returns:
        What stays.
    """
    energies, order = _pattern_energies(kernel, patterns, block_size, order)
    return SparseKernel(patterns, order, block_size, energies.argmax(axis=0))


def project_on_connectivity(
    kernel: Floats,
    num_kept: int,
    *,
    block_size: int = 1,
    order: Ints | None = None,
    balanced: bool = False,
) -> SparseKernel:
    """Projects weights on connectivity alone: kernels stay whole or go (the Y of PatDNN's ADMM).

    Args:
        kernel: See `project`.
        num_kept: See `project`.
        block_size: See `project`.
        order: See `project`.
        balanced: See `project`.

    Returns:
        What stays, with one pattern that has all entries.
    """
    whole = PatternSet(np.ones((1, *kernel.shape[:2]), bool), (1.0,))
    return project(kernel, whole, num_kept, block_size=block_size, order=order, balanced=balanced)


def num_kept_at(rate: float, num_inputs: int, num_outputs: int, block_size: int = 1) -> int:
    """The number of pairs of an input channel and a block that stay at a rate of connectivity.

    Args:
        rate: All pairs / those that stay, 1 or more; PatDNN's default is 3.6.
        num_inputs: Input channels of the layer.
        num_outputs: Filters of the layer.
        block_size: Filters in a block.

    Returns:
        The number, at least 1.
    """
    if rate < 1:
        raise ValueError(f"The rate of connectivity is {rate:g}; expected 1 or more.")
    num_blocks = math.ceil(num_outputs / block_size)
    return max(1, round(num_inputs * num_blocks / rate))


def block_numbers(num_outputs: int, block_size: int) -> Ints:
    """The block of the filter at each place of the order, [num_outputs]."""
    return np.arange(num_outputs) // block_size


def _pattern_energies(
    kernel: Floats, patterns: PatternSet, block_size: int, order: Ints | None
) -> tuple[npt.NDArray[np.float64], Ints]:
    """What each pattern keeps of each block's kernels, squared: [patterns, inputs, num_blocks]."""
    if kernel.ndim != 4 or kernel.shape[:2] != patterns.kernel_size:
        raise ValueError(
            f"The weights have the shape {kernel.shape}; expected [height, width, inputs, outputs] "
            f"with kernels of {' x '.join(map(str, patterns.kernel_size))}, as the patterns."
        )
    num_outputs = kernel.shape[3]
    order = np.arange(num_outputs) if order is None else np.asarray(order, np.intp)
    if block_size < 1 or sorted(order) != list(range(num_outputs)):
        raise ValueError(
            f"Blocks of {block_size} filters in an order of {len(order)}; expected blocks of one "
            f"or more, and each of the {num_outputs} filters once."
        )
    energies = patterns.energies(kernel)[..., order]
    return np.add.reduceat(energies, np.arange(0, num_outputs, block_size), axis=2), order


def _largest(values: npt.NDArray[np.float64], count: int) -> Bools:
    """Where the `count` largest values stand; of equal ones, the first."""
    chosen = np.argsort(-values, axis=None, kind="stable")[:count]
    found = np.zeros(values.size, bool)
    found[chosen] = True
    return found.reshape(values.shape)


def _largest_of_each_block(values: npt.NDArray[np.float64], count: int) -> Bools:
    """Where the largest values of each column stand, equally many in each and about `count`."""
    num_inputs, num_blocks = values.shape
    each = min(max(round(count / num_blocks), 1), num_inputs)
    chosen = np.argsort(-values, axis=0, kind="stable")[:each]
    found = np.zeros(values.shape, bool)
    np.put_along_axis(found, chosen, True, axis=0)
    return found
