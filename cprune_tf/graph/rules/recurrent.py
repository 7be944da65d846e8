"""Rule of recurrent layers, which consume channels; their own units are not pruned."""

from __future__ import annotations

from typing import Any

import keras

from cprune_tf.graph import keras_internals
from cprune_tf.graph.rules.registry import Effect, LayerCall, Weight, register_rule
from cprune_tf.graph.rules.wrappers import unbuilt_record

_CELLS = (keras.layers.SimpleRNNCell, keras.layers.LSTMCell, keras.layers.GRUCell)


@register_rule(
    keras.layers.SimpleRNN,
    keras.layers.LSTM,
    keras.layers.GRU,
    keras.layers.RNN,
    keras.layers.Bidirectional,
)
def recurrent(call: LayerCall) -> Effect:
    """The kernels of the cells that read the input lose the rows of removed channels."""
    layer: Any = call.layer
    both = isinstance(layer, keras.layers.Bidirectional)
    layers = [layer.forward_layer, layer.backward_layer] if both else [layer]
    cells = [_first_cell(inner.cell) for inner in layers]
    if any(type(cell) not in _CELLS for cell in cells):
        return call.opaque(f"{call.title} has a cell of a kind that is not followed")
    if len(call.inputs) != 1:
        return call.opaque(f"{call.title} takes states beside its input")
    *leading, arriving = call.inputs[0]
    for labels in leading:
        call.protect(labels, f"{call.title} uses the axis that holds these channels as time")
    kernels = {id(cell.kernel) for cell in cells}
    names = zip(keras_internals.relative_weight_names(layer), layer.weights, strict=True)
    weights = {
        name: Weight((arriving, None), "kernel") for name, value in names if id(value) in kernels
    }
    outputs = tuple((None,) * len(shape) for shape in call.output_shapes)
    return Effect(outputs, weights, resize=lambda keep: _unbuilt(layer))


def _unbuilt(layer: Any) -> dict[str, Any]:
    """The layers or cells inside a layer's config, which are built anew for fewer channels."""
    if isinstance(layer, keras.layers.Bidirectional):
        return {
            "layer": unbuilt_record(layer.forward_layer),
            "backward_layer": unbuilt_record(layer.backward_layer),
        }
    return {"cell": unbuilt_record(layer.cell)} if type(layer) is keras.layers.RNN else {}


def _first_cell(cell: Any) -> Any:
    return cell.cells[0] if type(cell) is keras.layers.StackedRNNCells else cell
