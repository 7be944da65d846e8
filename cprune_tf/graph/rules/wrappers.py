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
    """Has the effect of the wrapped layer, with the time axis put back."""
    inner = call.layer.layer
    view = call.inside(inner)
    rule = REGISTRY.find(inner)
    refusal = no_rule_reason(view) if rule is None else special_weights_reason(view)
    if rule is None or refusal:
        return call.opaque(refusal)
    for axes in call.inputs:
        call.protect(axes[1], f"{call.title} uses the axis that holds these channels as time")
    effect = rule(view)
    resize = effect.resize

    def resized(keep: Keep) -> dict[str, Any]:
        record = keras.saving.serialize_keras_object(inner)
        record.pop("build_config", None)  # which would build the new layer with its old size
        record["config"].update({} if resize is None else resize(keep))
        return {"layer": record}

    return dataclasses.replace(
        effect,
        outputs=tuple((axes[0], None, *axes[1:]) for axes in effect.outputs),
        weights={f"{inner.name}/{name}": weight for name, weight in effect.weights.items()},
        resize=resized,
    )
