"""FKW: the compact form of a convolution's weights that keep kernels and patterns.

Filter-kernel-weight storage (PatDNN, Niu et al., ASPLOS 2020, section 5.3), with blocks of filters
in the place of filters. A block's kernels lie one after the other, those of one pattern together.
For each kernel there is one index, its input channel; its pattern follows from how many kernels of
each pattern the block has. A compressed sparse row, in comparison, needs one index for each weight.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np
import numpy.typing as npt

from cprune_tf.sparse.patterns import MAX_KERNEL_SIZE, Floats

# The sizes of blocks that are looked for. More filters than these do not fit into registers.
BLOCK_SIZES = (8, 4, 2, 1)
# What loading an input costs beside the multiplications that it takes part in, one for each filter.
_LOAD_COST = 1.0
_MAX_PATTERNS = 255
_MAX_CHANNELS = 2**16 - 1


class FkwError(ValueError):
    """Arrays that are no weights in FKW form."""


@dataclasses.dataclass(frozen=True, eq=False)
class FkwKernel:
    """Weights of a convolution in FKW form.

    Attributes:
        shape: The shape of the dense weights: (height, width, inputs, outputs).
        entries: The entries of each pattern, as positions in a flat kernel, uint8 [patterns,
            entries]. A pattern with fewer entries repeats its last one, with weights of 0.
        reorder: The filter at each place of each block, uint16 [num_blocks, block_size]; `outputs`
            at the places that no filter needs, whose weights are 0.
        offset: The number of a block's first kernel, and that of all kernels at the end, uint32
            [num_blocks + 1].
        stride: How many kernels of each pattern a block has, uint16 [num_blocks, patterns].
        index: The input channel of each kernel, uint16 [num_kernels].
        weight: The weights, float32 [num_kernels, entries, block_size].
    """

    shape: tuple[int, int, int, int]
    entries: npt.NDArray[np.uint8]
    reorder: npt.NDArray[np.uint16]
    offset: npt.NDArray[np.uint32]
    stride: npt.NDArray[np.uint16]
    index: npt.NDArray[np.uint16]
    weight: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        """Refuses arrays that do not belong together.

        Raises:
            FkwError: If a shape is wrong, or an index is out of range.
        """
        height, width, inputs, outputs = self.shape
        places = self.reorder.size
        rules = {
            "entries of a kernel": self.entries.ndim == 2
            and bool((self.entries < height * width).all()),
            "one place for each filter": self.reorder.ndim == 2
            and bool((self.reorder <= outputs).all())
            and sorted(self.reorder[self.reorder < outputs]) == list(range(outputs)),
            "offsets that rise from 0 to the number of kernels": len(self.offset)
            == self.num_blocks + 1
            and self.offset[0] == 0
            and self.offset[-1] == len(self.index)
            and bool((self.sizes >= 0).all()),
            "as many kernels of all patterns as a block has": self.stride.shape
            == (self.num_blocks, len(self.entries))
            and np.array_equal(self.stride.sum(axis=1), self.sizes),
            "input channels of the layer": self.index.ndim == 1
            and bool((self.index < inputs).all()),
            "finite weights of every kernel": self.weight.shape
            == (len(self.index), self.entries.shape[-1], self.block_size)
            and bool(np.isfinite(self.weight).all()),
        }
        broken = [rule for rule, holds in rules.items() if not holds]
        if broken:
            raise FkwError(
                f"The FKW data of a layer of shape {self.shape} with {places} places are corrupt; "
                f"expected {broken[0]}. Make them anew from the weights."
            )

    @property
    def num_blocks(self) -> int:
        """The number of blocks."""
        return len(self.reorder)

    @property
    def block_size(self) -> int:
        """Filters in a block."""
        return int(self.reorder.shape[-1])

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """The number of kernels of each block, [num_blocks]."""
        offset = self.offset.astype(np.int64)
        return offset[1:] - offset[:-1]

    @functools.cached_property
    def pattern(self) -> npt.NDArray[np.uint8]:
        """The pattern of each kernel, [num_kernels]."""
        numbers = np.tile(np.arange(len(self.entries)), self.num_blocks)
        return np.repeat(numbers, self.stride.ravel()).astype(np.uint8)

    @property
    def index_bytes(self) -> int:
        """The bytes of everything but the weights."""
        parts = (self.entries, self.reorder, self.offset, self.stride, self.index)
        return sum(part.nbytes for part in parts)

    @property
    def total_bytes(self) -> int:
        """The bytes of all arrays."""
        return self.index_bytes + self.weight.nbytes

    def dense(self) -> npt.NDArray[np.float32]:
        """The weights with their zeros, [height, width, inputs, outputs]."""
        height, width, inputs, outputs = self.shape
        flat = np.zeros((height * width, inputs, outputs + 1), np.float32)
        block = np.repeat(np.arange(self.num_blocks), self.sizes)
        places = (
            self.entries[self.pattern][:, :, np.newaxis],
            self.index[:, np.newaxis, np.newaxis],
            self.reorder[block][:, np.newaxis, :],
        )
        np.add.at(flat, places, self.weight)  # repeated entries add zeros
        return flat[..., :outputs].reshape(self.shape)


def to_fkw(kernel: Floats) -> FkwKernel | None:
    """Finds the kernels, patterns and blocks of weights by their zeros.

    Filters whose zeros lie in the same places can share a block. The size of a block is the one
    with the least work: a kernel of B filters costs B multiplications and one load for each entry.

    Args:
        kernel: The weights with their zeros, [height, width, inputs, outputs].

    Returns:
        The weights in FKW form; None if they are all 0, or have too many patterns or channels.
    """
    height, width, inputs, outputs = kernel.shape
    if height * width > MAX_KERNEL_SIZE or max(inputs, outputs) > _MAX_CHANNELS:
        return None
    # One number says which entries of a kernel stay: [inputs, outputs].
    bits = 1 << np.arange(height * width, dtype=np.int64)
    flat = np.asarray(kernel, np.float32).reshape(height * width, inputs, outputs)
    codes = np.tensordot(bits, flat != 0, 1)
    patterns = np.setdiff1d(codes, [0])
    if not 1 <= len(patterns) <= _MAX_PATTERNS:
        return None
    blocks = _blocks(codes)
    numbers = np.searchsorted(patterns, codes)
    entries = _entries(patterns, height * width)
    repeated = _repeated(entries)
    index, weight, stride = [], [], np.zeros((len(blocks), len(patterns)), np.uint16)
    for number, filters in enumerate(blocks):
        used = [place for place in filters if place < outputs]
        (channels,) = np.nonzero(codes[:, used[0]])
        kinds = numbers[channels, used[0]]
        order = np.argsort(kinds, kind="stable")
        channels, kinds = channels[order], kinds[order]
        stride[number] = np.bincount(kinds, minlength=len(patterns))
        values = np.zeros((len(channels), entries.shape[1], len(filters)), np.float32)
        own = flat[:, channels][:, :, used]
        values[..., : len(used)] = own[entries[kinds].T, np.arange(len(channels))].swapaxes(0, 1)
        values[repeated[kinds]] = 0
        index.append(channels)
        weight.append(values)
    return FkwKernel(
        (height, width, inputs, outputs),
        entries,
        np.array(blocks, np.uint16),
        np.concatenate([[0], np.cumsum([len(part) for part in index])]).astype(np.uint32),
        stride,
        np.concatenate(index).astype(np.uint16),
        np.concatenate(weight),
    )


def _blocks(codes: npt.NDArray[np.int64]) -> list[list[int]]:
    """Puts filters with zeros in the same places together; blocks with most kernels come first.

    Args:
        codes: Which entries stay of each kernel, [inputs, outputs].
    """
    num_outputs = codes.shape[1]
    groups: dict[bytes, list[int]] = {}
    for number in range(num_outputs):
        groups.setdefault(codes[:, number].tobytes(), []).append(number)
    counts = np.count_nonzero(codes, axis=0)

    def cost(size: int) -> float:
        return sum(
            math.ceil(len(group) / size) * int(counts[group[0]]) * (size + _LOAD_COST)
            for group in groups.values()
        )

    size = min(BLOCK_SIZES, key=cost)
    blocks = [
        group[start : start + size]
        for group in groups.values()
        for start in range(0, len(group), size)
    ]
    blocks.sort(key=lambda block: -int(counts[block[0]]))
    return [[*block, *[num_outputs] * (size - len(block))] for block in blocks]


def _entries(patterns: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.uint8]:
    """The positions of each pattern's entries, [patterns, entries]."""
    positions = [[place for place in range(size) if code >> place & 1] for code in patterns]
    most = max(map(len, positions))
    return np.array([[*own, *own[-1:] * (most - len(own))] for own in positions], np.uint8)


def _repeated(entries: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Which entries only fill a pattern up, [patterns, entries]."""
    same = entries[:, 1:] == entries[:, :-1]
    return np.pad(same, ((0, 0), (1, 0)))
