"""Rules of weights that are calls of the graph (`cprune_tf.graph.parameters`)."""

from __future__ import annotations

from cprune_tf.graph.parameters import ForEachSample, Parameter
from cprune_tf.graph.rules.registry import Effect, LayerCall, Weight, register_rule


@register_rule(Parameter)
def parameter(call: LayerCall) -> Effect:
    """The last axis may count channels, as that of a scale or of a position's embedding does."""
    shape = call.layer.shape
    if not shape or shape[-1] == 1:
        return Effect(((None,) * len(shape),))
    made = call.fresh(shape[-1])
    axes = (*(None,) * (len(shape) - 1), made)
    return Effect(
        (axes,),
        {call.layer.weight_name: Weight(axes, "other", len(shape) - 1)},
        produced={"": made},
        resize=lambda keep: {"shape": (*shape[:-1], keep.count(made))},
    )


@register_rule(ForEachSample)
def for_each_sample(call: LayerCall) -> Effect:
    """The first tensor's channels stay in place."""
    return Effect((call.inputs[0],), keeps_zero=True, flow="moves")
