"""Rules of layers that multiply by a matrix or look up a row: Dense, Embedding."""

from __future__ import annotations

from typing import Any

import keras

from cprune_tf.graph.rules.common import check_activation
from cprune_tf.graph.rules.registry import Effect, LayerCall, Weight, register_rule


@register_rule(keras.layers.Dense)
def dense(call: LayerCall) -> Effect:
    """Units are made here, inputs are the last axis; all other axes pass through."""
    layer: Any = call.layer
    *leading, arriving = call.inputs[0]
    made = call.fresh(layer.units)
    check_activation(call, made)
    for labels in leading:
        check_activation(call, labels)
    weights = {
        "kernel": Weight((arriving, made), "kernel", 1),
        "bias": Weight((made,), "bias", 0),
    }
    return Effect(
        ((*leading, made),), weights, {"": made}, lambda keep: {"units": keep.count(made)}
    )


@register_rule(keras.layers.Embedding)
def embedding(call: LayerCall) -> Effect:
    """The width of the embedding is made here; the vocabulary is the model's interface."""
    layer: Any = call.layer
    made = call.fresh(layer.output_dim)
    call.protect_all(call.inputs[0], f"{call.title} reads them as row numbers")
    return Effect(
        ((*(None,) * len(call.inputs[0]), made),),
        {"embeddings": Weight((None, made), "kernel", 1)},
        {"": made},
        lambda keep: {"output_dim": keep.count(made)},
    )
