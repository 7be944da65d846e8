"""Cuts arrays into batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt


def in_batches(
    batch_size: int, *arrays: npt.NDArray[Any]
) -> Iterator[tuple[npt.NDArray[Any], ...]]:
    """Cuts arrays along their first axis, all at the same places.

    Args:
        batch_size: Items in each batch; the last one may have fewer.
        *arrays: Arrays of equal length, [number of items, ...].

    Yields:
        One view of each array, [at most batch_size, ...].

    Raises:
        ValueError: The arrays differ in length.
    """
    lengths = {len(array) for array in arrays}
    if len(lengths) > 1:
        raise ValueError(f"The arrays have the lengths {sorted(lengths)}; expected equal ones.")
    for start in range(0, lengths.pop(), batch_size):
        yield tuple(np.asarray(array[start : start + batch_size]) for array in arrays)
