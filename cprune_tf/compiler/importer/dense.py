"""Converters of dense layers, Einstein sums and embeddings."""

from __future__ import annotations

from typing import Any

import keras
from tvm import relax

from cprune_tf.compiler.importer.activation import apply_activation
from cprune_tf.compiler.importer.convolution import add_bias_and_activation
from cprune_tf.compiler.importer.emitter import Emitter, as_float, dtype
from cprune_tf.compiler.importer.registry import UnsupportedOperationError, register_converter
from cprune_tf.graph.fused_layers import fold_kernel_and_bias, layer_bias


@register_converter(keras.layers.Dense)
def convert_dense(emitter: Emitter, layer: Any, x: Any) -> Any:
    """Converts a matrix product over the last axis with a kernel (in, out)."""
    kernel, bias = fold_kernel_and_bias(
        layer.kernel, layer_bias(layer), emitter.absorbed.batch_norm, -1
    )
    y = emitter.emit(relax.op.matmul(as_float(emitter, x), emitter.param("kernel", kernel)))
    return add_bias_and_activation(emitter, layer, y, bias)


@register_converter(keras.layers.EinsumDense)
def convert_einsum_dense(emitter: Emitter, layer: Any, x: Any) -> Any:
    """Converts an Einstein sum of the input and the kernel."""
    if "." in layer.equation:
        raise UnsupportedOperationError(
            f"equation is {layer.equation!r}; expected one without an ellipsis"
        )
    operands = [x, emitter.param("kernel", layer.kernel)]
    y = emitter.emit(relax.op.einsum(operands, layer.equation))
    if layer.bias is not None:
        y = emitter.emit(relax.op.add(y, emitter.param("bias", layer.bias)))
    return apply_activation(emitter, layer.activation, y)


@register_converter(keras.layers.Embedding)
def convert_embedding(emitter: Emitter, layer: Any, x: Any) -> Any:
    """Converts the lookup of table rows; an index beyond the table yields the nearest row.

    Without the limit, compiled code would read memory outside of the table.
    """
    if layer.mask_zero:
        raise UnsupportedOperationError(
            "mask_zero=True creates a mask, which is not supported; expected mask_zero=False"
        )
    if not dtype(x).startswith("int"):
        x = emitter.emit(relax.op.astype(x, "int32"))
    table = emitter.param("embeddings", layer.embeddings)
    return emitter.emit(relax.op.take(table, x, axis=0, mode="clip"))
