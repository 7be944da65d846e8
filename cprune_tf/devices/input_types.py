"""Arrays in the types that models take: numbers become the nearest integers, never cut off."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def to_type(array: npt.NDArray[Any], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Converts an array; for integers and truth values, numbers become the nearest ones.

    Args:
        array: Numbers of any type.
        dtype: The type to return.

    Returns:
        The array itself if it has this type.
    """
    wanted = np.dtype(dtype)
    if wanted.kind in "iub" and array.dtype.kind not in "iub":
        low, high = (0, 1) if wanted.kind == "b" else (np.iinfo(wanted).min, np.iinfo(wanted).max)
        array = np.clip(np.rint(array), low, high)
    return array.astype(wanted, copy=False)
