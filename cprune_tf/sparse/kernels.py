"""The kernels of a model's layers, and zeros in them that no training undoes."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from cprune_tf.sparse.projection import SparseKernel


class Zeros(keras.constraints.Constraint):
    """Sets the weights that a mask leaves out to zero after every step.

    Args:
        mask: Which weights stay, of the kernel's shape.
        own: The constraint that the kernel has beside; None: it has none.
    """

    def __init__(self, mask: np.ndarray, own: Any = None) -> None:
        self._mask = tf.constant(mask, tf.float32)
        self._own = own

    def __call__(self, kernel: Any) -> tf.Tensor:
        """Returns the kernel with its zeros."""
        return (kernel if self._own is None else self._own(kernel)) * self._mask


def hold_zeros(model: keras.Model, kept: Mapping[str, SparseKernel]) -> None:
    """Sets what does not stay to zero, and lets no optimizer of Keras change that.

    Args:
        model: Changed in place.
        kept: What stays of each layer.

    Raises:
        ValueError: If a layer is missing or its kernel has another shape.
    """
    for name, sparse in kept.items():
        kernel, mask = kernel_of(model, name), sparse.mask()
        if tuple(kernel.shape) != mask.shape:
            raise ValueError(
                f"The kernel of {name!r} has the shape {tuple(kernel.shape)}; expected "
                f"{mask.shape}, as what is to stay of it."
            )
        kernel.assign(np.asarray(kernel) * mask)
        kernel.constraint = Zeros(mask, kernel.constraint)


@contextlib.contextmanager
def keep_zeros(model: keras.Model, kept: Mapping[str, SparseKernel]) -> Iterator[None]:
    """Lets any training inside the block leave the zeros of a projected model alone.

    Args:
        model: The model; its training function is made anew.
        kept: What stays of each layer, from `Admm.finish`.
    """
    kernels = {name: kernel_of(model, name) for name in kept}
    own = {name: kernel.constraint for name, kernel in kernels.items()}
    hold_zeros(model, kept)
    model.train_function = None
    try:
        yield
    finally:
        for name, kernel in kernels.items():
            kernel.constraint = own[name]
        model.train_function = None


def fingerprint(kept: Mapping[str, SparseKernel]) -> str:
    """A name of what stays: equal for equal layers and masks; "" if there are no layers."""
    digest = hashlib.sha256()
    for name, sparse in sorted(kept.items()):
        digest.update(f"{name} {sparse.mask().shape} ".encode())
        digest.update(np.packbits(sparse.mask()).tobytes())
    return digest.hexdigest() if kept else ""


def kernel_of(model: keras.Model, name: str) -> Any:
    """Finds the variable of a convolution's weights.

    Args:
        model: The model; layers of nested models are not looked at.
        name: The layer's name.

    Returns:
        The variable, [height, width, inputs, outputs].

    Raises:
        ValueError: If there is no such layer, or its kernel has another shape.
    """
    layer = next((layer for layer in model.layers if layer.name == name), None)
    kernel = getattr(layer, "kernel", None)
    if kernel is None or len(kernel.shape) != 4:
        shape = "no kernel" if kernel is None else f"a kernel of shape {tuple(kernel.shape)}"
        found = "there is no such layer" if layer is None else f"it has {shape}"
        raise ValueError(
            f"The layer {name!r} cannot be trained for patterns: {found}; expected a convolution "
            "with a kernel [height, width, inputs, outputs]."
        )
    return kernel
