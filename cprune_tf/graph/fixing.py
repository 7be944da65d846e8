"""Gives a model's inputs the sizes that programs are compiled for, and a batch of any size."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import keras

from cprune_tf.graph import keras_internals
from cprune_tf.graph.errors import GraphError
from cprune_tf.graph.flat import Call, Shape, flatten, inputs_and_outputs
from cprune_tf.graph.replaying import copy_compile_state, copy_weights, make_operation, replay

# What an unknown size of an image is in an example of a flag.
_EXAMPLE_SIZE = 224


def fix_inputs(model: Any, shapes: Mapping[str, Sequence[int]] | None = None) -> Any:
    """Returns a model whose inputs have the given sizes, and a batch of any size.

    Args:
        model: A functional or built Sequential model; it is not modified.
        shapes: Input name -> sizes without the batch; the name "" stands for the only input. Inputs
            that are not named keep their sizes.

    Returns:
        `model` itself if nothing changes, or a functional copy with equal weights and compile state
        (the optimizer starts anew), in which nested models are inlined.

    Raises:
        GraphError: There is no such input, a shape contradicts the model's, or a layer cannot take
            it or is made for the model's batch size; the message names it.
    """
    inputs = _named_inputs(model)
    wanted = _wanted_shapes(model, inputs, shapes or {})
    if all(tuple(tensor.shape) == wanted[name] for name, tensor in inputs.items()):
        return model
    batches = {tensor.shape[0] for tensor in inputs.values()}
    flat = flatten(model)
    copies: dict[str, Any] = {}
    calls: dict[str, Call] = {}

    def make(call: Call) -> Any:
        copies[call.name], calls[call.name] = make_operation(call, {}), call
        return copies[call.name]

    def invoke(position: int, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        call = flat.calls[position]
        try:
            outputs = operation(*args, **kwargs)
        except Exception as error:  # Layers raise what they like for shapes that they cannot take.
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
            raise GraphError(f"{_cannot_take(call, wanted)}: {reason}") from error
        _check_outputs(call, keras.tree.flatten((args, kwargs)), outputs, wanted, batches)
        return outputs

    twin = replay(flat, make, invoke, input_shapes=wanted)
    for name, layer in copies.items():
        copy_weights(calls[name], layer, {}, None)
    copy_compile_state(model, twin)
    return twin


def fixing_remark(before: Any, after: Any) -> str:
    """Says which inputs `fix_inputs` changed; "" for none.

    Args:
        before: The model that it was given.
        after: What it returned.
    """
    if before is after:
        return ""
    changes = [
        f"{name!r} from {tuple(old.shape)} to {tuple(new.shape)}"
        for (name, old), new in zip(_named_inputs(before).items(), after.inputs, strict=True)
        if tuple(old.shape) != tuple(new.shape)
    ]
    return (
        f"The inputs of {before.name!r} are changed for the whole run and its results: "
        f"{', '.join(changes)}."
    )


def unknown_sizes(model: Any, known: Sequence[Sequence[int]] | None = None) -> str:
    """Says which inputs of a model have sizes that are not fixed, and how to fix them; "" for none.

    Args:
        model: A built functional or Sequential model.
        known: The shapes of the data for all inputs, in the model's order and without the batch;
            None where they are not known.

    Raises:
        GraphError: If it has no inputs and outputs.
    """
    inputs = _named_inputs(model)
    unknown = {name: tensor for name, tensor in inputs.items() if None in tensor.shape[1:]}
    if not unknown:
        return ""
    shapes = dict(zip(inputs, known, strict=True)) if known else {}
    value = ";".join(
        ("" if len(inputs) == 1 else f"{name}=")
        + ",".join(map(str, shapes.get(name) or _example(tensor.shape)))
        for name, tensor in unknown.items()
    )
    received = " and ".join(f"{name!r} of {tuple(one.shape)}" for name, one in unknown.items())
    flag = f"--input_shape={value}" if len(inputs) == 1 else f"--input_shape='{value}'"
    return (
        f"The model {model.name!r} has the input {received}; expected fixed sizes, since programs "
        f"are compiled for one size. Fix them with {'' if shapes else 'e.g. '}{flag}"
        f"{', the shape of the data' if shapes else ''} (config.input_shape; in Python, "
        f"input_shape={value!r})."
    )


def _named_inputs(model: Any) -> dict[str, Any]:
    """A model's input tensors by the names of their layers, which a user sees."""
    inputs, _ = inputs_and_outputs(model)
    return {keras_internals.input_layer(tensor).name: tensor for tensor in inputs}


def _example(shape: Shape) -> tuple[int, ...]:
    return tuple(_EXAMPLE_SIZE if size is None else size for size in shape[1:])


def _wanted_shapes(
    model: Any, inputs: Mapping[str, Any], shapes: Mapping[str, Sequence[int]]
) -> dict[str, Shape]:
    """The shape of each input, with a batch of any size, after a check."""
    names = list(inputs)
    if "" in shapes and len(names) == 1:
        shapes = {names[0]: shapes[""]}
    unknown = [name for name in shapes if name not in names]
    if unknown:
        received = "a shape without a name" if unknown == [""] else f"shapes for {unknown}"
        raise GraphError(
            f"input_shape gives {received}, and the model {model.name!r} has the inputs {names}; "
            f"expected their names, as in --input_shape='{names[0]}=224,224,3'."
        )
    wanted = {}
    for name, tensor in inputs.items():
        own = tuple(tensor.shape[1:])
        given = tuple(shapes.get(name, own))
        fits = len(given) == len(own) and all(
            size in (None, new) for size, new in zip(own, given, strict=True)
        )
        if not fits:
            raise GraphError(
                f"input_shape is {given} for the input {name!r} of {model.name!r}, which "
                f"has the shape {tuple(tensor.shape)}; expected {len(own)} sizes without the "
                "batch, which agree with those that the model fixes."
            )
        wanted[name] = (None, *given)
    return wanted


def _check_outputs(
    call: Call,
    arguments: Sequence[Any],
    outputs: Any,
    wanted: Mapping[str, Shape],
    batches: Collection[int | None],
) -> None:
    """Raises GraphError if a call loses the batch axis, or makes something empty or different.

    Args:
        call: The original's call.
        arguments: What the copy's call took.
        outputs: What it made of them.
        wanted: The new shapes of the model's inputs.
        batches: The batch sizes of the original's inputs.
    """
    taken = [one for one in arguments if isinstance(one, keras.KerasTensor)]
    made = keras.tree.flatten(outputs)
    if any(size is not None and size <= 0 for one in made for size in one.shape):
        shapes = [tuple(one.shape) for one in made]
        raise GraphError(f"{_cannot_take(call, wanted)}: its output would be {shapes}.")
    keeps_batch = all(None in one.shape for one in made)
    if (keeps_batch or not any(None in one.shape for one in taken)) and all(
        _agree(*both, batches) for both in zip(call.outputs, made, strict=True)
    ):
        return
    raise GraphError(
        f"The layer or function '{call.path}' ({type(call.operation).__name__}) is made for the "
        f"batch size of the model's inputs: it makes {[tuple(one.shape) for one in call.outputs]}, "
        f"and {[tuple(one.shape) for one in made]} of a batch of any size; expected the batch "
        "axis to stay unknown. Write -1 in place of the batch size, and build the model with "
        "keras.Input(shape)."
    )


def _agree(old: Any, new: Any, batches: Collection[int | None]) -> bool:
    """Whether a tensor differs from the original's only in the batch and in sizes now fixed."""
    return len(old.shape) == len(new.shape) and all(
        # The first axis may be the batch together with others, as in reshape(x, (-1, size)).
        before in (now, None) or (now is None and (axis == 0 or before in batches))
        for axis, (before, now) in enumerate(zip(old.shape, new.shape, strict=True))
    )


def _cannot_take(call: Call, wanted: Mapping[str, Shape]) -> str:
    inputs = ", ".join(f"{name!r}: {shape}" for name, shape in wanted.items())
    return (
        f"The layer or function '{call.path}' ({type(call.operation).__name__}) cannot take what "
        f"it gets of the inputs {inputs}"
    )
