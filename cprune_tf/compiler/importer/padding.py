"""TensorFlow's padding rules as explicit numbers of elements."""

from __future__ import annotations

from collections.abc import Sequence


def same_padding(size: int, kernel: int, stride: int, dilation: int = 1) -> tuple[int, int]:
    """Returns the elements that padding="same" adds to one axis; an odd element is added after it.

    Args:
        size: Extent of the axis.
        kernel: Extent of a window without dilation.
        stride: Step between windows.
        dilation: Step within a window.

    Returns:
        Numbers of elements (before, after).
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
    """Returns the elements that a Keras padding mode adds to every spatial axis.

    Args:
        mode: "valid", "same" or "causal"; a causal padding is entirely before the axis.
        sizes: Spatial extents of the input.
        kernel: Window extents without dilation.
        strides: Steps between windows.
        dilation: Steps within a window; None for 1 on every axis.

    Returns:
        Numbers of elements (before, after) of each axis.

    Raises:
        ValueError: The mode is none of these.
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
    """Turns [(before, after), ...] into TVM's order: first all befores, then all afters."""
    return [before for before, _ in padding] + [after for _, after in padding]
