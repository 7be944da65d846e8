"""Converters of attention layers."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from tvm import relax

from cprune_tf.compiler.importer.emitter import Emitter, dtype, scalar, shape
from cprune_tf.compiler.importer.registry import UnsupportedOperationError, register_converter
from cprune_tf.graph.fused_layers import to_numpy

_op = relax.op
# The score of a position that must be ignored. It is far below any other score, but finite, so that
# the softmax of a row without any allowed position is not NaN.
_IGNORED_SCORE = -1e30


def _causal(queries: int, keys: int) -> Any:
    """Creates a boolean mask [queries, keys] in which query i may attend to keys 0..i."""
    return relax.const(np.tril(np.ones((queries, keys), bool)))


def _apply_mask(emitter: Emitter, scores: Any, mask: Any) -> Any:
    """Replaces the scores of positions that the mask excludes; a mask may be None."""
    if mask is None:
        return scores
    # A mask [batch, queries, keys] applies to all heads, so it gets an axis for them.
    while len(shape(mask)) < len(shape(scores)):
        mask = emitter.emit(_op.expand_dims(mask, 1))
    if dtype(mask) != "bool":
        mask = emitter.emit(_op.astype(mask, "bool"))
    return emitter.emit(_op.where(mask, scores, scalar(_IGNORED_SCORE, scores)))


def _attend(
    emitter: Emitter, query: Any, key: Any, value: Any, *, mask: Any, is_causal: bool
) -> tuple[Any, Any]:
    """Computes softmax(query key^T) value over the last two axes.

    Returns:
        The result, and the softmax.
    """
    rank = len(shape(key))
    order = [*range(rank - 2), rank - 1, rank - 2]
    scores = emitter.emit(_op.matmul(query, _op.permute_dims(key, order)))
    if is_causal:
        allowed = _causal(shape(scores)[-2], shape(scores)[-1])
        scores = emitter.emit(_op.where(allowed, scores, scalar(_IGNORED_SCORE, scores)))
    scores = _apply_mask(emitter, scores, mask)
    weights = emitter.emit(_op.nn.softmax(scores, axis=rank - 1))
    return emitter.emit(_op.matmul(weights, value)), weights


def _project(emitter: Emitter, x: Any, dense: Any, role: str, factor: float = 1.0) -> Any:
    """Projects [batch, steps, dim] to [batch, heads, steps, size] with one matrix product.

    The kernel and the bias are multiplied by `factor`.
    """
    dim, heads, size = dense.kernel.shape
    kernel = to_numpy(dense.kernel).reshape(dim, heads * size) * factor
    y = emitter.emit(_op.matmul(x, emitter.param(f"{role}/kernel", kernel)))
    if dense.bias is not None:
        bias = to_numpy(dense.bias).reshape(-1) * factor
        y = emitter.emit(_op.add(y, emitter.param(f"{role}/bias", bias)))
    batch, steps, _ = shape(x)
    y = emitter.emit(_op.reshape(y, (batch, steps, heads, size)))
    return emitter.emit(_op.permute_dims(y, [0, 2, 1, 3]))


def _check_multi_head(layer: Any, query: Any, value: Any, settings: dict[str, Any]) -> None:
    if len(shape(query)) != 3 or len(shape(value)) != 3:
        raise UnsupportedOperationError(
            f"inputs have the shapes {shape(query)} and {shape(value)}; "
            "expected (batch, steps, channels)"
        )
    for setting in ("use_gate", "sliding_window"):
        if settings.get(setting):
            raise UnsupportedOperationError(f"{setting}={settings[setting]!r}; expected none")
    if len(layer.output_dense.kernel.shape) != 3:
        raise UnsupportedOperationError("output_shape has several axes; expected one")


@register_converter(keras.layers.MultiHeadAttention)
def convert_multi_head_attention(
    emitter: Emitter,
    layer: Any,
    query: Any,
    value: Any,
    key: Any = None,
    query_mask: Any = None,
    value_mask: Any = None,
    key_mask: Any = None,
    attention_mask: Any = None,
    return_attention_scores: bool = False,
    training: Any = None,
    use_causal_mask: bool = False,
) -> Any:
    """Converts the projections, the scaled dot-product attention and the output projection."""
    if any(mask is not None for mask in (query_mask, value_mask, key_mask)):
        raise UnsupportedOperationError("a query, value or key mask is passed; expected none")
    settings = layer.get_config()
    _check_multi_head(layer, query, value, settings)
    # The scale is multiplied into the query's weights, which saves an operator.
    factor = 1.0 / math.sqrt(settings["key_dim"])
    context, weights = _attend(
        emitter,
        _project(emitter, query, layer.query_dense, "query", factor),
        _project(emitter, value if key is None else key, layer.key_dense, "key"),
        _project(emitter, value, layer.value_dense, "value"),
        mask=attention_mask,
        is_causal=use_causal_mask,
    )
    batch, heads, steps, size = shape(context)
    context = emitter.emit(_op.permute_dims(context, [0, 2, 1, 3]))
    context = emitter.emit(_op.reshape(context, (batch, steps, heads * size)))
    dense = layer.output_dense
    kernel = to_numpy(dense.kernel).reshape(heads * size, -1)
    y = emitter.emit(_op.matmul(context, emitter.param("attention_output/kernel", kernel)))
    if dense.bias is not None:
        y = emitter.emit(_op.add(y, emitter.param("attention_output/bias", dense.bias)))
    return (y, weights) if return_attention_scores else y


@register_converter(keras.layers.Attention)
def convert_attention(
    emitter: Emitter,
    layer: Any,
    inputs: Any,
    mask: Any = None,
    training: Any = None,
    return_attention_scores: bool = False,
    use_causal_mask: bool = False,
) -> Any:
    """Converts dot-product attention of [query, value] or [query, value, key]."""
    if layer.score_mode != "dot":
        raise UnsupportedOperationError(f"score_mode is {layer.score_mode!r}; expected 'dot'")
    if mask is not None and any(part is not None for part in mask):
        raise UnsupportedOperationError("a mask is passed; expected none")
    query, value = inputs[:2]
    key = inputs[2] if len(inputs) > 2 else value
    if layer.scale is not None:
        query = emitter.emit(_op.multiply(query, emitter.param("scale", layer.scale)))
    y, weights = _attend(emitter, query, key, value, mask=None, is_causal=use_causal_mask)
    return (y, weights) if return_attention_scores else y
