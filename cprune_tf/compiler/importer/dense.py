"""Converters of dense layers."""

from __future__ import annotations

from typing import Any

import keras
from tvm import relax

from cprune_tf.compiler.importer.convolution import add_bias_and_activation
from cprune_tf.compiler.importer.emitter import Emitter
from cprune_tf.compiler.importer.folding import fold_kernel_and_bias
from cprune_tf.compiler.importer.registry import register_converter


@register_converter(keras.layers.Dense)
def convert_dense(emitter: Emitter, layer: Any, x: Any) -> Any:
    """Matrix product with the (in, out) kernel over the last axis."""
    kernel, bias = fold_kernel_and_bias(
        layer.kernel, layer.bias if layer.use_bias else None, emitter.absorbed.batch_norm, 1
    )
    y = emitter.emit(relax.op.matmul(x, emitter.param("kernel", kernel)))
    return add_bias_and_activation(emitter, layer, y, bias)
