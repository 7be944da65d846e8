"""Rules of wrappers: a layer at every time step, and a layer with a normalised kernel."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras

from cprune_tf.graph.rules.registry import (
    REGISTRY,
    Effect,
    Keep,
    LayerCall,
    Weight,
    no_rule_reason,
    register_rule,
    special_weights_reason,
)


@register_rule(keras.layers.TimeDistributed)
def time_distributed(call: LayerCall) -> Effect:
    """Has the effect of the wrapped layer, with the time axis put back."""
    view = call.inside(call.layer.layer)
    if refusal := _refusal(view):
        return call.opaque(refusal)
    effect = _wrapped(view)
    for axes in call.inputs:
        call.protect(axes[1], f"{call.title} uses the axis that holds these channels as time")
    outputs = tuple((axes[0], None, *axes[1:]) for axes in effect.outputs)
    return dataclasses.replace(effect, outputs=outputs)


@register_rule(keras.layers.SpectralNormalization)
def spectral_normalization(call: LayerCall) -> Effect:
    """Has the effect of the wrapped layer; the vector beside it has one value for each filter.

    At inference the kernel is used as it is. In training it is normalised again, as it then is.
    """
    view = call.of(call.layer.layer)
    if refusal := _refusal(view):
        return call.opaque(refusal)
    effect = _wrapped(view)
    kernel = f"{call.layer.layer.name}/kernel"
    if kernel not in effect.weights:
        return call.opaque(f"{call.title} normalises a weight that is not followed")
    vector = Weight((None, effect.weights[kernel].axes[-1]))
    return dataclasses.replace(effect, weights={**effect.weights, "vector_u": vector})


def _refusal(view: LayerCall) -> str:
    """Why the call of a wrapped layer cannot be followed; "" if it can."""
    if REGISTRY.find(view.layer) is None:
        return no_rule_reason(view)
    return special_weights_reason(view)


def _wrapped(view: LayerCall) -> Effect:
    """The effect of a wrapped layer that is not refused, with the wrapper's names and config.

    Args:
        view: The call as the wrapped layer sees it.
    """
    inner = view.layer
    rule = REGISTRY.find(inner)
    assert rule is not None
    effect = rule(view)
    return dataclasses.replace(
        effect,
        weights={f"{inner.name}/{name}": weight for name, weight in effect.weights.items()},
        resize=_resized(inner, effect.resize),
    )


def _resized(
    inner: Any, resize: Callable[[Keep], dict[str, Any]] | None
) -> Callable[[Keep], dict[str, Any]]:
    def resized(keep: Keep) -> dict[str, Any]:
        record = unbuilt_record(inner)
        record["config"].update({} if resize is None else resize(keep))
        return {"layer": record}

    return resized


def unbuilt_record(layer: Any) -> dict[str, Any]:
    """A layer as it is stored in the config of another layer, without the shapes of its inputs.

    With these shapes, Keras would build the new layer and those inside it with their old sizes.
    """
    record: dict[str, Any] = _without_shapes(keras.saving.serialize_keras_object(layer))
    return record


def _without_shapes(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_shapes(v) for key, v in value.items() if key != "build_config"}
    if isinstance(value, list):
        return [_without_shapes(item) for item in value]
    return value
