"""Branches that vanish: what remains of a graph where a channel group loses all its units.

Definition. If a removal leaves a tensor without channels, the tensor does not exist. What is
computed from such tensors alone does not exist either: without inputs, a convolution, a
normalisation or an activation gives the same constants for every image. These calls are *dead*. A
dead tensor may be an operand of a sum (the layer `Add`, or `a + b`) whose other operands exist; the
sum then continues without it. Calls that only dead calls read are left out with them, even if they
have channels (the normalisation that starts a pre-activation block, the first convolution of a
bottleneck whose second one vanishes). So the whole branch disappears, and with it every channel
group that lies only inside it.

A group may go to zero units if this never reaches further than sums. For each call that the model's
output still needs, it must hold:

- The call reads no dead tensor, or it is a sum that has another operand. This operand has the shape
  and type of the sum, and if it is the only one left, the sum is not an output of the model, since
  the operand takes the sum's place.
- Every model input and every output is still connected.

Refused in this version: a dead tensor in a concatenation, product, maximum, average or attention,
although a constant could stand there, too. A branch that several sums read is allowed. If several
groups go at once, the rule is applied to all of them together: two parallel branches may vanish one
at a time, but not both if they are the only operands of a sum.

A vanished branch still contributes constants: biases and shifts of normalisations, one value per
channel of the sum. The two definitions of `cprune_tf.graph.folding` apply to them as well:

- `fold_constants=False`: what does not exist contributes nothing. `mask` sets the branch to zero
  where a sum reads it, and `rebuild` leaves the operand out. The two are equal without exception.
- `fold_constants=True`: only the kernels of the removed units become zero. The branch's constant
  remains and is added to a bias or shift, either before the sum (the layer that makes the other
  operand, if nothing else reads that operand) or behind it (every layer that reads the sum). If
  there is no such layer (a ReLU on both sides), it is dropped and listed in `Folding.dropped`. No
  layer is added for it. If nothing is dropped, the rebuilt model equals
  `mask(model, removal, keep_constants=True)`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import keras

from cprune_tf.graph.flat import Call, FlatGraph, Tensor
from cprune_tf.graph.propagation import Propagation
from cprune_tf.graph.rules.registry import Effect, Keep


@dataclass(frozen=True, eq=False)
class Vanishing:
    """What a removal leaves no channels for.

    Attributes:
        dead: The positions of the calls that have no channels, or that compute only from such.
        left_out: The positions of all calls that the smaller model does not make: the dead ones,
            and those that only they read.
        sums: The operands that remain, by the position of each sum that loses some.
        gone: The ids of the dead calls' output tensors.
        refusal: Why the removal is impossible; "" if it is possible.
    """

    dead: frozenset[int] = frozenset()
    left_out: frozenset[int] = frozenset()
    sums: Mapping[int, tuple[Tensor, ...]] = field(default_factory=dict)
    gone: frozenset[int] = frozenset()
    refusal: str = ""

    def stand_ins(self) -> dict[int, Tensor | None]:
        """The calls that are not made, by position.

        Returns:
            The tensor that takes the place of the call's output; None if nothing reads it.
        """
        replaced: dict[int, Tensor | None] = {
            position: operands[0] for position, operands in self.sums.items() if len(operands) == 1
        }
        return {**dict.fromkeys(self.left_out), **replaced}

    def arguments(self, call: Call) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a sum without the operands that are gone."""
        kwargs = {name: self._without(value) for name, value in call.kwargs.items()}
        return tuple(self._without(value) for value in call.args), kwargs

    def _without(self, value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [item for item in value if id(item) not in self.gone]
        return value

    def surviving_layers(self, flat: FlatGraph) -> set[str]:
        """The names of the layers of which some call remains."""
        absent = self.stand_ins()
        return {call.name for i, call in enumerate(flat.calls) if i not in absent}


def find_vanishing(propagation: Propagation, keep: Keep) -> Vanishing:
    """Finds the calls that a removal leaves without channels, and what continues without them.

    Args:
        propagation: The analysed model.
        keep: The labels that remain.

    Returns:
        The calls; empty if every tensor keeps a channel.
    """
    calls = propagation.flat.calls
    dead: set[int] = set()
    gone: set[int] = set()
    for position, (call, effect) in enumerate(zip(calls, propagation.effects, strict=True)):
        emptied = [is_emptied(axes, keep) for axes in effect.outputs]
        inputs_gone = bool(call.inputs) and all(id(t) in gone for t in call.inputs)
        if inputs_gone or all(emptied) or is_emptied(tuple(effect.produced.values()), keep):
            dead.add(position)
            emptied = [True] * len(emptied)
        gone.update(id(t) for t, empty in zip(call.outputs, emptied, strict=True) if empty)
    if not gone:
        return Vanishing()
    needed = _needed(propagation.flat, dead, gone)
    sums = {
        position: tuple(t for t in calls[position].inputs if id(t) not in gone)
        for position in sorted(needed)
        if any(id(t) in gone for t in calls[position].inputs)
    }
    refusal = _refusal(propagation, needed, sums, gone)
    left_out = frozenset(range(len(calls))) - needed
    return Vanishing(frozenset(dead), left_out, sums, frozenset(gone), refusal)


def is_emptied(axes: tuple[Any, ...], keep: Keep) -> bool:
    """Whether any of these axes keeps no channel."""
    return any(keep.touches(labels) and not keep.count(labels) for labels in axes)


def _needed(flat: FlatGraph, dead: set[int], gone: set[int]) -> set[int]:
    """The positions of the calls that the outputs need, other than dead ones."""
    wanted = {id(t) for t in keras.tree.flatten(flat.outputs)}
    needed = set()
    for position in reversed(range(len(flat.calls))):
        call = flat.calls[position]
        if position in dead or not any(id(t) in wanted for t in call.outputs):
            continue
        needed.add(position)
        wanted.update(id(t) for t in call.inputs if id(t) not in gone)
    return needed


def _refusal(
    p: Propagation, needed: set[int], sums: Mapping[int, tuple[Tensor, ...]], gone: set[int]
) -> str:
    """Why the needed calls cannot do without the tensors that are gone; "" if they can."""
    calls = p.flat.calls
    outputs = {id(t) for t in keras.tree.flatten(p.flat.outputs)}
    for position, operands in sums.items():
        is_output = any(id(t) in outputs for t in calls[position].outputs)
        obstacle = _obstacle(calls[position], p.effects[position], operands, is_output)
        if obstacle:
            title = f"'{calls[position].name}' ({type(calls[position].operation).__name__})"
            return f"{title}, which reads the branch that would vanish, {obstacle}"
    for call in calls:
        if any(id(t) in gone and id(t) in outputs for t in call.outputs):
            return f"the model's output '{call.name}' would no longer depend on its inputs"
    return _lost_input(p.flat, needed)


def _obstacle(call: Call, effect: Effect, operands: tuple[Tensor, ...], is_output: bool) -> str:
    """Why a call cannot continue with these operands only; "" if it can."""
    if not effect.sums:
        return "is not a sum, so the branch has to stay"
    result = call.outputs[0]
    if not any((t.shape, t.dtype) == (result.shape, result.dtype) for t in operands):
        return "has no other operand of its own shape and type"
    if len(operands) == 1:
        return "is an output of the model and would have one operand left" if is_output else ""
    lists = [v for v in (*call.args, *call.kwargs.values()) if isinstance(v, (list, tuple))]
    is_listed = sum(isinstance(item, Tensor) for items in lists for item in items)
    return "" if is_listed == len(call.inputs) else "does not take its operands as a list"


def _lost_input(flat: FlatGraph, needed: set[int]) -> str:
    """Why the model's inputs forbid the removal; "" if all that were read still are."""

    def read(keeps: Callable[[int], bool]) -> set[int]:
        return {id(t) for i, call in enumerate(flat.calls) if keeps(i) for t in call.inputs}

    lost = read(lambda position: True) - read(lambda position: position in needed)
    for layer, tensor in zip(flat.input_layers, flat.inputs, strict=True):
        if id(tensor) in lost:
            return f"the model's input '{layer.name}' would no longer be read"
    return ""
