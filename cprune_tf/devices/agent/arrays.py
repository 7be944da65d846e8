"""Values for timing programs: deterministic, of ordinary magnitude, never subnormal."""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

_CACHE_LIMIT_BYTES = 256 << 20


def random_array(
    dtype: str, shape: Sequence[int], seed: int = 0, limit: int | None = None
) -> npt.NDArray[Any]:
    """Makes random values whose magnitude does not change the speed of arithmetic.

    Zeros and subnormal numbers are avoided, because some processors compute with them much faster
    or much slower. Integers of 32 bits and more may be indices, so they are all 0, always in range,
    unless their range is known.

    Args:
        dtype: A numpy type's name, e.g. "float32", "int8", "bool".
        shape: The shape of the result.
        seed: Equal seeds give equal arrays.
        limit: For integers: values are drawn from 0 to one less than this; None: see below.

    Returns:
        Floats with magnitudes in [0.1, 1) and random signs; small positive integers; True.

    Raises:
        TypeError: Numpy does not know the type.
    """
    kind = np.dtype(dtype)
    generator = np.random.default_rng(seed)
    if kind.kind == "f":
        values = generator.random(tuple(shape), dtype=np.float32) * 1.8 - 0.9
        return np.asarray(values + np.copysign(np.float32(0.1), values), dtype=kind)
    if kind.kind in "iu" and limit is not None:
        return generator.integers(0, limit, size=tuple(shape)).astype(kind)
    if kind.kind in "iu" and kind.itemsize < 4:
        return generator.integers(1, 100, size=tuple(shape)).astype(kind)
    if kind.kind == "b":
        return np.ones(tuple(shape), kind)
    return np.zeros(tuple(shape), kind)


class ArgumentBuffers:
    """Device buffers for kernels' arguments, reused by kernels with the same shapes.

    A kernel overwrites its output, so each use starts by copying the values in again; only the
    drawing of random numbers and the allocation are saved.
    """

    def __init__(self, limit_bytes: int = _CACHE_LIMIT_BYTES) -> None:
        """Starts without buffers.

        Args:
            limit_bytes: Above this size, the buffers used longest ago are given up.
        """
        self._limit_bytes = limit_bytes
        self._cache: collections.OrderedDict[Any, tuple[npt.NDArray[Any], Any]] = (
            collections.OrderedDict()
        )
        self._num_bytes = 0

    def get(
        self,
        arguments: Sequence[tuple[str, Sequence[int]]],
        tensor: Any,
        index_limits: Mapping[int, int] | None = None,
    ) -> list[Any]:
        """Returns filled buffers for one kernel.

        Args:
            arguments: (dtype, shape) of each argument.
            tensor: Function that makes a device tensor from a numpy array.
            index_limits: Numbers of integer arguments, each with the limit of its values.

        Returns:
            One device tensor for each argument; equal arguments get different buffers.
        """
        buffers = []
        for position, (dtype, shape) in enumerate(arguments):
            limit = (index_limits or {}).get(position)
            key = (position, dtype, tuple(shape), limit)
            if key not in self._cache:
                values = random_array(dtype, shape, seed=position, limit=limit)
                self._cache[key] = (values, tensor(values))
                self._num_bytes += 2 * values.nbytes
            else:
                values, buffer = self._cache[key]
                buffer.copyfrom(values)
            self._cache.move_to_end(key)
            buffers.append(self._cache[key][1])
        self._shrink(keep=len(buffers))
        return buffers

    def _shrink(self, keep: int) -> None:
        while self._num_bytes > self._limit_bytes and len(self._cache) > keep:
            _, (values, _) = self._cache.popitem(last=False)
            self._num_bytes -= 2 * values.nbytes
