"""Converters of weights that are calls of the graph (`cprune_tf.graph.parameters`)."""

from __future__ import annotations

from typing import Any

from tvm import relax

from cprune_tf.compiler.importer.emitter import Emitter, shape
from cprune_tf.compiler.importer.registry import register_converter
from cprune_tf.graph.parameters import ForEachSample, Parameter


@register_converter(Parameter)
def convert_parameter(emitter: Emitter, layer: Parameter, x: Any) -> Any:
    """Converts a weight: the call's input does not matter."""
    del x
    return emitter.param(layer.weight_name, layer.value)


@register_converter(ForEachSample)
def convert_for_each_sample(emitter: Emitter, layer: Any, one: Any, like: Any) -> Any:
    """Converts the repetition of one sample for each sample of the batch."""
    del layer
    return emitter.emit(relax.op.broadcast_to(one, (shape(like)[0], *shape(one)[1:])))
