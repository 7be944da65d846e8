"""Labels: which channel is which, through the whole graph.

Every index of every channel axis, of a tensor or of a weight, carries a label (an integer). A
layer that makes channels (a convolution's filters) makes new labels; every other operation says
how the labels of its inputs arrive in its outputs: its index map. A concatenation concatenates
the label arrays, a flatten repeats them, a depthwise convolution with multiplier m repeats each m
times. If two channels must live and die together (an addition), their labels are tied. Read
forward, the label arrays say where a channel goes. Read backward (which indices hold this label?),
they say what must be removed with it. So one mechanism serves all operations, and a wrong offset
shows at once, because the same arrays cut the weights of both neighbours.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.sparse.csgraph

Labels = npt.NDArray[np.int64]
# One entry per axis, the batch axis first; None for an axis that carries no channels.
Axes = tuple[Labels | None, ...]


class LabelSpace:
    """Makes labels, collects ties and protections, and resolves them at the end."""

    def __init__(self) -> None:
        self.size = 0
        self._ties: list[tuple[Labels, Labels]] = []
        self._protections: list[tuple[Labels, str]] = []

    def fresh(self, count: int) -> Labels:
        """Makes `count` new labels."""
        labels = np.arange(self.size, self.size + count, dtype=np.int64)
        self.size += count
        return labels

    def tie(self, first: Labels, second: Labels) -> None:
        """Declares that first[i] and second[i] are one channel, for all i (arrays broadcast)."""
        a, b = np.broadcast_arrays(first, second)
        if a is not b:
            self._ties.append((a.ravel(), b.ravel()))

    def protect(self, labels: Labels, reason: str, *, first: bool = False) -> None:
        """Declares that these labels can never be removed.

        Args:
            labels: The protected labels.
            reason: Why they are protected, as the user reads it.
            first: Whether this reason takes precedence over all others that apply.
        """
        position = 0 if first else len(self._protections)
        self._protections.insert(position, (labels.ravel(), reason))

    def roots(self) -> Labels:
        """For each label, the smallest label it is tied to, directly or through others."""
        return components(self.size, self._ties)

    def protected(self, roots: Labels) -> tuple[Labels, tuple[str, ...]]:
        """Returns which labels are protected, and why.

        Args:
            roots: The root of each label, as returned by `roots`.

        Returns:
            For each label, the number of the first reason that protects its root, or -1 if there is
            none; and the reasons.
        """
        number = np.full(self.size, -1, dtype=np.int64)
        for position in range(len(self._protections) - 1, -1, -1):
            number[roots[self._protections[position][0]]] = position
        return number[roots], tuple(reason for _, reason in self._protections)


def components(size: int, ties: list[tuple[Labels, Labels]]) -> Labels:
    """The smallest label that each label is tied to, directly or through others.

    Args:
        size: Number of labels.
        ties: Pairs of equally long label arrays.

    Returns:
        For each label, the smallest label of its connected component, [size].
    """
    if not ties:
        return np.arange(size, dtype=np.int64)
    rows = np.concatenate([first for first, _ in ties])
    columns = np.concatenate([second for _, second in ties])
    edges = scipy.sparse.coo_array((np.ones(len(rows)), (rows, columns)), shape=(size, size))
    _, component = scipy.sparse.csgraph.connected_components(edges, directed=False)
    # Components are numbered from 0 without gaps, so this is the first label of each.
    smallest = np.unique(component, return_index=True)[1]
    return np.asarray(smallest[component], dtype=np.int64)
