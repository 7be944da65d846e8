"""Patterns: which entries of a kernel stay (PatDNN, Niu et al., ASPLOS 2020, section 4.1).

A kernel is the part of a convolution's weights between one input channel and one filter. Its
natural pattern keeps the centre and the largest of the other entries. A pattern set holds the
natural patterns that most kernels of a model have: with few patterns, a compiler can write a loop
without branches for each.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Bools = npt.NDArray[np.bool_]

# A pattern is one number of 64 bits while patterns are counted.
MAX_KERNEL_SIZE = 63


@dataclasses.dataclass(frozen=True, eq=False)
class PatternSet:
    """Patterns of kernels of one size, the most frequent first.

    Attributes:
        masks: Which entries stay, [num_patterns, height, width]; equally many in all patterns.
        shares: The share of the kernels whose natural pattern it is, for each pattern.
    """

    masks: Bools
    shares: tuple[float, ...]

    @property
    def kernel_size(self) -> tuple[int, int]:
        """(height, width) of a kernel."""
        return self.masks.shape[1], self.masks.shape[2]

    @property
    def num_entries(self) -> int:
        """The number of entries that a pattern keeps."""
        return int(self.masks[0].sum())

    def __len__(self) -> int:
        """The number of patterns."""
        return len(self.masks)

    def energies(self, kernel: Floats) -> npt.NDArray[np.float64]:
        """Computes the sum of squares that each pattern keeps of each kernel.

        Args:
            kernel: Weights of kernels of this size, [height, width, inputs, outputs].

        Returns:
            [num_patterns, inputs, outputs].
        """
        return np.tensordot(self.masks.astype(np.float64), np.square(kernel, dtype=np.float64), 2)


def default_num_entries(height: int, width: int, entries_of_nine: int = 4) -> int:
    """The number of entries that stay of a kernel: 4 of 3x3, the same share of other sizes.

    Args:
        height: The kernel's height.
        width: The kernel's width.
        entries_of_nine: What stays of 3x3.

    Returns:
        The share rounded up; at 4 of 9: 1 of 1x1, 2 of 1x3 and 3x1, 12 of 5x5.
    """
    return math.ceil(height * width * entries_of_nine / 9)


def natural_patterns(
    kernels: Iterable[Floats], num_patterns: int = 8, num_entries: int = 0
) -> PatternSet:
    """Finds the patterns that most kernels of a model have.

    Args:
        kernels: Weights of convolutions with kernels of one size, [height, width, inputs, outputs]
            each.
        num_patterns: The number of patterns; fewer if the model has fewer.
        num_entries: The number of entries that a pattern keeps; 0: see `default_num_entries`.

    Returns:
        The patterns. Of two that are equally frequent, the one that keeps earlier entries (in the
        order of memory) comes first.

    Raises:
        ValueError: If there are no kernels, they differ in size, or a number is out of range.
    """
    rows = []
    sizes = set()
    for kernel in kernels:
        sizes.add(kernel.shape[:2])
        rows.append(np.abs(kernel).reshape(math.prod(kernel.shape[:2]), -1).T)
    if len(sizes) != 1:
        raise ValueError(
            f"The kernels have the sizes {sorted(sizes)}; expected one size: one pattern set is "
            "for kernels of one size."
        )
    ((height, width),) = sizes
    size = height * width
    num_entries = num_entries or default_num_entries(height, width)
    if not (1 <= num_entries <= size <= MAX_KERNEL_SIZE and num_patterns >= 1):
        raise ValueError(
            f"{num_patterns} patterns of {num_entries} entries of {height} x {width}; expected at "
            f"least one pattern, and 1 to {size} entries of a kernel of at most {MAX_KERNEL_SIZE}."
        )
    natural = _natural_masks(np.concatenate(rows), num_entries, _centre(height, width))
    # The first entry is the highest bit, so that a larger number keeps earlier entries.
    weights = 1 << np.arange(size - 1, -1, -1, dtype=np.int64)
    codes, counts = np.unique(natural @ weights, return_counts=True)
    best = np.lexsort((-codes, -counts))[:num_patterns]
    masks = (codes[best, np.newaxis] & weights) != 0
    shares = tuple(float(count) / len(natural) for count in counts[best])
    return PatternSet(masks.reshape(-1, height, width), shares)


def _centre(height: int, width: int) -> int:
    return (height - 1) // 2 * width + (width - 1) // 2


def _natural_masks(magnitudes: Floats, num_entries: int, centre: int) -> Bools:
    """The natural pattern of each kernel, [num_kernels, size], from magnitudes of that shape."""
    ranked = magnitudes.copy()
    ranked[:, centre] = np.inf
    kept = np.argsort(-ranked, axis=1, kind="stable")[:, :num_entries]
    masks = np.zeros(magnitudes.shape, bool)
    np.put_along_axis(masks, kept, True, axis=1)
    return masks
