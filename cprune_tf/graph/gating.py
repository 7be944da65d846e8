"""Gates on branches: one copy of a model in which any branch that may vanish can be switched off.

A gate multiplies a tensor that a sum reads. At 0, the sum receives zeros, as in a model whose
branch vanished (`rebuild(..., fold_constants=False)`; `cprune_tf.graph.vanishing` defines it).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from cprune_tf.graph.channel_graph import ChannelGraph
from cprune_tf.graph.flat import Call
from cprune_tf.graph.replaying import copy_weights, make_operation, replay


@keras.saving.register_keras_serializable(package="cprune_tf")
class Gate(keras.layers.Layer):
    """Multiplies its inputs by one number, 1 at first.

    Attributes:
        gate: The variable.
    """

    def build(self, input_shape: Any) -> None:
        """Makes the variable."""
        self.gate = self.add_weight(shape=(), initializer="ones", trainable=False, name="gate")

    def call(self, inputs: Any) -> Any:
        """Returns the inputs times the gate."""
        return inputs * keras.ops.cast(self.gate, inputs.dtype)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns the input's shape."""
        return input_shape


def gated_model(
    channels: ChannelGraph, names: Sequence[str]
) -> tuple[Any, Mapping[str, tuple[str, ...]]]:
    """Copies a model and puts gates where the branches of some groups are added.

    Args:
        channels: The channel groups of the model.
        names: Groups that may vanish; see `ChannelGraph.removable_whole`.

    Returns:
        A functional keras.Model with equal weights and outputs, not compiled; and for each group
        the names of the gates that must close for its branch to be gone.
    """
    flat = channels.propagation.flat
    read: dict[str, set[int]] = {}
    for name in names:
        vanishing = channels.vanishing((name,))
        operands = {id(t) for position in vanishing.sums for t in flat.calls[position].inputs}
        read[name] = operands & vanishing.gone
    gated = set().union(*read.values())
    gate_of: dict[int, str] = {}
    copies: dict[str, Any] = {}

    def make(call: Call) -> Any:
        copies[call.name] = make_operation(call, {})
        return copies[call.name]

    def invoke(position: int, operation: Any, args: Any, kwargs: Any) -> Any:
        values = keras.tree.flatten(operation(*args, **kwargs))
        for index, tensor in enumerate(flat.calls[position].outputs):
            if id(tensor) in gated:
                gate_of[id(tensor)] = f"cprune_gate_{len(gate_of)}"
                values[index] = Gate(name=gate_of[id(tensor)])(values[index])
        return values

    model = replay(flat, make, invoke)
    for call in {call.name: call for call in reversed(flat.calls)}.values():
        copy_weights(call, copies[call.name], {}, None)
    return model, {
        name: tuple(sorted(gate_of[tensor] for tensor in tensors)) for name, tensors in read.items()
    }
