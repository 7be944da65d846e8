"""Which filters share a block: those whose kernels and patterns lie in the same places.

This is PatDNN's filter reorder (section 5.2). It may permute filters, since the channels that they
make can be permuted together with whatever reads them.
"""

from __future__ import annotations

import numpy as np

from cprune_tf.sparse.patterns import Floats, PatternSet
from cprune_tf.sparse.projection import Ints


def order_filters(
    kernel: Floats, patterns: PatternSet, kept_per_block: int, block_size: int
) -> Ints:
    """Puts filters together so that blocks keep much of their weights.

    Greedy: each block begins with the filter that has most to lose among those left, and takes
    the filter with which it keeps most in its best `kept_per_block` kernels, until it is full.

    Args:
        kernel: The weights, [height, width, inputs, outputs].
        patterns: Patterns of kernels of that size.
        kept_per_block: The number of input channels that a block reads, about.
        block_size: Filters in a block.

    Returns:
        The filters in the order in which blocks take them, [outputs].
    """
    num_inputs, num_outputs = kernel.shape[2:]
    if block_size == 1:
        return np.arange(num_outputs)
    energies = np.moveaxis(patterns.energies(kernel), 2, 0)
    kept = min(max(kept_per_block, 1), num_inputs)
    left = list(range(num_outputs))
    order: list[int] = []
    while left:
        alone = _kept_energy(energies[left], kept)
        block = [left.pop(int(alone.argmax()))]
        shared = energies[block[0]].copy()
        while left and len(block) < block_size:
            joint = _kept_energy(shared + energies[left], kept)
            block.append(left.pop(int(joint.argmax())))
            shared += energies[block[-1]]
        order += block
    return np.array(order, np.intp)


def _kept_energy(energies: Floats, kept: int) -> Floats:
    """What stays with the best patterns of the best `kept` kernels, from [n, patterns, inputs]."""
    best = energies.max(axis=1)
    return np.partition(best, best.shape[1] - kept, axis=1)[:, -kept:].sum(axis=1)
