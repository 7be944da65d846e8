"""Rules of layers that multiply by a matrix or look up a row: Dense, EinsumDense, Embedding."""

from __future__ import annotations

import re
from typing import Any

import keras

from cprune_tf.graph.labels import Labels
from cprune_tf.graph.rules.common import check_activation
from cprune_tf.graph.rules.registry import Effect, Keep, LayerCall, Weight, register_rule


@register_rule(keras.layers.Dense)
def dense(call: LayerCall) -> Effect:
    """The layer makes units from the last axis of its input; all other axes pass through."""
    layer: Any = call.layer
    *leading, arriving = call.inputs[0]
    units = call.fresh(layer.units)
    check_activation(call, units)
    for labels in leading:
        check_activation(call, labels)
    weights = {
        "kernel": Weight((arriving, units), "kernel", 1),
        "bias": Weight((units,), "bias", 0),
    }
    return Effect(
        ((*leading, units),), weights, {"": units}, lambda keep: {"units": keep.count(units)}
    )


@register_rule(keras.layers.EinsumDense)
def einsum_dense(call: LayerCall) -> Effect:
    """The layer makes the axes whose letters only the kernel and the output of its equation have.

    If there are several such axes (heads and their width), each is a group: the longest has the
    layer's name, the others are called "name/h" by their letter.
    """
    layer: Any = call.layer
    parsed = re.fullmatch(r"(\W*)(\w+)(\W*),(\w+)->\W*(\w+)\W*", layer.equation)
    if parsed is None or any(len(set(text)) < len(text) for text in parsed.groups()[1::2]):
        return call.opaque(
            f"{call.title} has the equation '{layer.equation}', which cannot be analysed"
        )
    left, inputs, right, kernel, outputs = parsed.groups()
    axes, shape = call.inputs[0], call.output_shapes[0]
    elided = len(axes) - len(inputs)
    first = elided if left else 0
    labels_of: dict[str, Labels | None] = dict(zip(inputs, axes[first:], strict=False))
    sizes = dict(zip(outputs, shape[first:], strict=False))
    new = [letter for letter in outputs if letter in kernel and letter not in inputs]
    new.sort(key=lambda letter: -(sizes[letter] or 0))
    produced_by_letter = {letter: call.fresh(int(sizes[letter] or 0)) for letter in new}
    labels_of |= produced_by_letter
    out = (*axes[:first], *(labels_of[letter] for letter in outputs), *axes[first + len(inputs) :])
    for labels in out:
        check_activation(call, labels)
    arrays = tuple(labels_of[letter] for letter in kernel)
    weights = {"kernel": Weight(arrays, "kernel", kernel.index(new[0]) if new else None)}
    if layer.bias_axes:
        bias_letters = outputs[min(outputs.index(letter) for letter in layer.bias_axes) :]
        bias = [labels_of[letter] if letter in layer.bias_axes else None for letter in bias_letters]
        bias += [None] * (elided if right else 0)
        place = bias_letters.find(new[0]) if new else -1
        weights["bias"] = Weight(tuple(bias), "bias", None if place < 0 else place)

    def resize(keep: Keep) -> dict[str, Any]:
        # The config leaves out the batch axis and the axes that an ellipsis stands for.
        pairs = zip(layer.partial_output_shape, out[max(first, 1) :], strict=False)
        return {"output_shape": tuple(s and keep.size(labels, s) for s, labels in pairs)}

    produced = {
        "" if i == 0 else letter: produced_by_letter[letter] for i, letter in enumerate(new)
    }
    return Effect((out,), weights, produced, resize)


@register_rule(keras.layers.Embedding)
def embedding(call: LayerCall) -> Effect:
    """The layer makes the width of the embedding; its rows (the vocabulary) cannot be pruned."""
    layer: Any = call.layer
    width = call.fresh(layer.output_dim)
    call.protect_all(call.inputs[0], f"{call.title} reads them as row numbers")
    return Effect(
        ((*(None,) * len(call.inputs[0]), width),),
        {"embeddings": Weight((None, width), "kernel", 1)},
        {"": width},
        lambda keep: {"output_dim": keep.count(width)},
    )
