"""Rule of the wrapper that applies a layer to every time step."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras

from cprune_tf.graph.rules.registry import (
    REGISTRY,
    Effect,
    Keep,
    LayerCall,
    no_rule_reason,
    register_rule,
    special_weights_reason,
)


@register_rule(keras.layers.TimeDistributed)
def time_distributed(call: LayerCall) -> Effect:
    """What the layer inside does, with the axis of time put back."""
    inner = call.layer.layer
    view = call.inside(inner)
    rule = REGISTRY.find(inner)
    refusal = no_rule_reason(view) if rule is None else special_weights_reason(view)
    if rule is None or refusal:
        return call.opaque(refusal)
    for axes in call.inputs:
        call.protect(axes[1], f"{call.title} takes the axis that holds these channels for time")
    effect = rule(view)
    resize = effect.resize

    def resized(keep: Keep) -> dict[str, Any]:
        record = keras.saving.serialize_keras_object(inner)
        record.pop("build_config", None)  # it would build the new layer at the old size
        record["config"].update({} if resize is None else resize(keep))
        return {"layer": record}

    return dataclasses.replace(
        effect,
        outputs=tuple((axes[0], None, *axes[1:]) for axes in effect.outputs),
        weights={f"{inner.name}/{name}": held for name, held in effect.weights.items()},
        resize=resized,
    )
