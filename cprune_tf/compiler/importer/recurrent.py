"""Converters of recurrent layers, unrolled over their time steps.

The product with the inputs is one matrix product for all steps. What a step adds to it depends on
the step before, so every step has operators of its own. They are the same for all steps, so the
tuner sees them as one task.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from tvm import relax

from cprune_tf.compiler.importer.activation import apply_activation
from cprune_tf.compiler.importer.emitter import Emitter, scalar, shape
from cprune_tf.compiler.importer.registry import UnsupportedOperationError, register_converter
from cprune_tf.graph.fused_layers import to_numpy

_op = relax.op

States = tuple[Any, ...]
# Computes one step from the emitter, the cell, the role of its parameters, the inputs times the
# kernel [batch, gates * units] and the states [batch, units]; returns the new states, of which the
# first is the output.
Step = Callable[[Emitter, Any, str, Any, States], States]


def _recurrent(emitter: Emitter, cell: Any, role: str, state: Any) -> Any:
    """Multiplies a state with the recurrent kernel."""
    kernel = emitter.param(f"{role}recurrent_kernel", cell.recurrent_kernel)
    return emitter.emit(_op.matmul(state, kernel))


def _parts(emitter: Emitter, x: Any, count: int) -> list[Any]:
    """Splits the last axis into equal parts."""
    parts = emitter.emit(_op.split(x, count, axis=len(shape(x)) - 1))
    return [emitter.emit(relax.TupleGetItem(parts, index)) for index in range(count)]


def _simple_step(emitter: Emitter, cell: Any, role: str, x: Any, states: States) -> States:
    y = emitter.emit(_op.add(x, _recurrent(emitter, cell, role, states[0])))
    return (apply_activation(emitter, cell.activation, y),)


def _lstm_step(emitter: Emitter, cell: Any, role: str, x: Any, states: States) -> States:
    output, carry = states
    gates = emitter.emit(_op.add(x, _recurrent(emitter, cell, role, output)))
    arriving, forgetting, candidate, leaving = _parts(emitter, gates, 4)
    arriving, forgetting, leaving = (
        apply_activation(emitter, cell.recurrent_activation, gate)
        for gate in (arriving, forgetting, leaving)
    )
    candidate = apply_activation(emitter, cell.activation, candidate)
    kept = _op.multiply(forgetting, carry)
    carry = emitter.emit(_op.add(kept, _op.multiply(arriving, candidate)))
    shown = apply_activation(emitter, cell.activation, carry)
    return emitter.emit(_op.multiply(leaving, shown)), carry


def _gru_step(emitter: Emitter, cell: Any, role: str, x: Any, states: States) -> States:
    (state,) = states
    x_gates, x_candidate = _gru_parts(emitter, x, cell.units)
    if cell.reset_after:
        inner = _recurrent(emitter, cell, role, state)
        if cell.use_bias:
            bias = emitter.param(f"{role}recurrent_bias", to_numpy(cell.bias)[1])
            inner = emitter.emit(_op.add(inner, bias))
        gates, candidate = _gru_parts(emitter, inner, cell.units)
    else:
        kernel = to_numpy(cell.recurrent_kernel)
        of_gates = emitter.param(f"{role}recurrent_kernel_gates", kernel[:, : 2 * cell.units])
        gates = emitter.emit(_op.matmul(state, of_gates))
    gates = emitter.emit(_op.add(x_gates, gates))
    gates = apply_activation(emitter, cell.recurrent_activation, gates)
    update, reset = _parts(emitter, gates, 2)
    if cell.reset_after:
        candidate = emitter.emit(_op.multiply(reset, candidate))
    else:
        of_candidate = emitter.param(f"{role}recurrent_kernel_state", kernel[:, 2 * cell.units :])
        candidate = emitter.emit(_op.matmul(_op.multiply(reset, state), of_candidate))
    candidate = emitter.emit(_op.add(x_candidate, candidate))
    candidate = apply_activation(emitter, cell.activation, candidate)
    kept = _op.multiply(update, state)
    new = _op.multiply(_op.subtract(scalar(1.0, update), update), candidate)
    return (emitter.emit(_op.add(kept, new)),)


def _gru_parts(emitter: Emitter, x: Any, units: int) -> list[Any]:
    """Splits [batch, 3 * units] into both gates and the candidate."""
    parts = emitter.emit(_op.split(x, [2 * units], axis=1))
    return [emitter.emit(relax.TupleGetItem(parts, index)) for index in range(2)]


_STEPS: dict[type, tuple[Step, int]] = {
    keras.layers.SimpleRNNCell: (_simple_step, 1),
    keras.layers.LSTMCell: (_lstm_step, 2),
    keras.layers.GRUCell: (_gru_step, 1),
}


def _run_cell(
    emitter: Emitter, cell: Any, role: str, x: Any, states: States, *, backwards: bool
) -> tuple[list[Any], States]:
    """Runs a cell over all steps.

    Args:
        emitter: Receives the operators.
        cell: A cell of Keras.
        role: What the roles of the cell's parameters begin with.
        x: The inputs [batch, steps, features].
        states: The first states [batch, units]; empty for zeros.
        backwards: Whether the last step comes first.

    Returns:
        The outputs of the steps, in the order in which they were computed, and the last states.

    Raises:
        UnsupportedOperationError: The cell is not one of Keras's.
    """
    if type(cell) not in _STEPS:
        raise UnsupportedOperationError(
            f"the cell is {type(cell).__name__}; expected an LSTMCell, a GRUCell or a SimpleRNNCell"
        )
    step, num_states = _STEPS[type(cell)]
    batch, num_steps, _ = shape(x)
    if not states:
        zeros = relax.const(np.zeros((batch, cell.units), "float32"))
        states = (zeros,) * num_states
    x = emitter.emit(_op.matmul(x, emitter.param(f"{role}kernel", cell.kernel)))
    if cell.use_bias:
        bias = to_numpy(cell.bias)
        x = emitter.emit(
            _op.add(x, emitter.param(f"{role}bias", bias[0] if bias.ndim > 1 else bias))
        )
    outputs = []
    for index in reversed(range(num_steps)) if backwards else range(num_steps):
        here = emitter.emit(_op.strided_slice(x, [1], [index], [index + 1]))
        states = step(emitter, cell, role, emitter.emit(_op.squeeze(here, [1])), states)
        outputs.append(states[0])
    return outputs, states


def _run(
    emitter: Emitter, layer: Any, role: str, x: Any, initial_state: Any, *, backwards: bool
) -> tuple[list[Any], list[Any]]:
    """Runs all cells of a recurrent layer; see `_run_cell`."""
    if layer.stateful:
        raise UnsupportedOperationError("stateful=True; expected False: a call keeps no state here")
    stacked = type(layer.cell) is keras.layers.StackedRNNCells
    if stacked and initial_state is not None:
        raise UnsupportedOperationError("several cells have an initial_state; expected none")
    given = () if initial_state is None else tuple(keras.tree.flatten(initial_state))
    cells = layer.cell.cells if stacked else [layer.cell]
    all_states: list[Any] = []
    outputs: list[Any] = []
    for number, cell in enumerate(cells):
        if number:
            x, backwards = emitter.emit(_op.stack(outputs, axis=1)), False
        of_cell = f"{role}{number}_" if stacked else role
        outputs, states = _run_cell(emitter, cell, of_cell, x, given, backwards=backwards)
        all_states += states
    return outputs, all_states


def _refuse_mask(mask: Any) -> None:
    if mask is not None:
        raise UnsupportedOperationError(
            "a mask is passed; expected none: masks are not supported here"
        )


def _result(emitter: Emitter, layer: Any, outputs: Sequence[Any]) -> Any:
    """The outputs that a layer returns: those of all steps, or of the last."""
    return emitter.emit(_op.stack(list(outputs), axis=1)) if layer.return_sequences else outputs[-1]


@register_converter(keras.layers.SimpleRNN, keras.layers.LSTM, keras.layers.GRU, keras.layers.RNN)
def convert_recurrent(
    emitter: Emitter, layer: Any, x: Any, initial_state: Any = None, mask: Any = None
) -> Any:
    """Converts a recurrent layer with cells of Keras."""
    _refuse_mask(mask)
    outputs, states = _run(emitter, layer, "", x, initial_state, backwards=layer.go_backwards)
    result = _result(emitter, layer, outputs)
    return [result, *states] if layer.return_state else result


@register_converter(keras.layers.Bidirectional)
def convert_bidirectional(
    emitter: Emitter, layer: Any, x: Any, initial_state: Any = None, mask: Any = None
) -> Any:
    """Converts a recurrent layer that runs in both directions, and joins what they return."""
    _refuse_mask(mask)
    states = [None, None]
    if initial_state is not None:
        half = len(initial_state) // 2
        states = [initial_state[:half], initial_state[half:]]
    results, last_states = [], []
    for name, state in zip(("forward", "backward"), states, strict=True):
        direction = getattr(layer, f"{name}_layer")
        outputs, last = _run(
            emitter, direction, f"{name}_", x, state, backwards=direction.go_backwards
        )
        # The outputs of the way back are put in the order of the steps.
        ordered = outputs[::-1] if name == "backward" and layer.return_sequences else outputs
        results.append(_result(emitter, layer, ordered))
        last_states += last
    joined = _join(emitter, layer.merge_mode, results)
    return [*joined, *last_states] if layer.return_state else joined


def _join(emitter: Emitter, mode: str | None, results: Sequence[Any]) -> list[Any]:
    first, second = results
    if mode is None:
        return [first, second]
    if mode == "concat":
        return [emitter.emit(_op.concat([first, second], axis=len(shape(first)) - 1))]
    if mode == "mul":
        return [emitter.emit(_op.multiply(first, second))]
    total = _op.add(first, second)
    return [emitter.emit(_op.multiply(total, scalar(0.5, first)) if mode == "ave" else total)]
