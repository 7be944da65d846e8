"""TensorFlow's padding rules as explicit numbers."""

from __future__ import annotations

from collections.abc import Sequence


def same_padding(size: int, kernel: int, stride: int, dilation: int = 1) -> tuple[int, int]:
    """What padding="same" adds before and after one axis; the odd element goes after.

    Args:
        size: The axis's extent.
        kernel: Window extent, undilated.
        stride: Step between windows.
        dilation: Step within a window.

    Returns:
        Elements (before, after).
    """
    window = (kernel - 1) * dilation + 1
    num_windows = -(-size // stride)
    total = max((num_windows - 1) * stride + window - size, 0)
    return total // 2, total - total // 2


def resolve_padding(
    mode: str,
    sizes: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilation: Sequence[int] | None = None,
) -> list[tuple[int, int]]:
    """The elements (before, after) that a Keras padding mode adds to every spatial axis.

    Args:
        mode: "valid", "same" or "causal" (all of it before).
        sizes: Spatial extents of the input.
        kernel: Window extents.
        strides: Window steps.
        dilation: Steps within a window; None for 1 everywhere.
    """
    dilation = dilation or [1] * len(sizes)
    if mode == "valid":
        return [(0, 0)] * len(sizes)
    if mode == "causal":
        return [((k - 1) * d, 0) for k, d in zip(kernel, dilation, strict=True)]
    if mode == "same":
        return [same_padding(*axis) for axis in zip(sizes, kernel, strides, dilation, strict=True)]
    raise ValueError(f"padding is {mode!r}; expected 'valid', 'same' or 'causal'.")


def tvm_order(padding: Sequence[tuple[int, int]]) -> list[int]:
    """[(before, after), ...] as TVM wants it: all befores, then all afters."""
    return [before for before, _ in padding] + [after for _, after in padding]
