"""What a model takes and gives, in its own order: how data of any structure are fitted to it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from cprune_tf.config import ConfigError
from cprune_tf.data.image_data import DataError
from cprune_tf.graph import inputs_and_outputs, keras_internals, unknown_sizes


@dataclasses.dataclass(frozen=True)
class Port:
    """One input or output of a model.

    Attributes:
        name: The input's name, or that of the layer that makes the output.
        shape: Without the batch; None for a size that is not fixed.
        dtype: The type of its values.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str

    def __str__(self) -> str:
        sizes = "x".join("?" if size is None else str(size) for size in self.shape)
        return f"{self.name!r}: {sizes or 'one value'}"


@dataclasses.dataclass(frozen=True)
class Interface:
    """All inputs and outputs of a model.

    Attributes:
        inputs: In the model's order, which is that of the files made from it, too.
        outputs: In the model's order.
        structure: The inputs' numbers (0, 1, ...), nested as the model takes its inputs: 0 alone, a
            tuple or a dict.
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    structure: Any = 0

    @property
    def has_image(self) -> bool:
        """Whether there is one input, of height x width x channels."""
        return len(self.inputs) == 1 and len(self.inputs[0].shape) == 3

    @property
    def is_classifier(self) -> bool:
        """Whether one image goes in, and one vector of scores for two classes or more comes out."""
        shapes = [port.shape for port in self.outputs]
        return self.has_image and len(shapes) == 1 and len(shapes[0]) == 1 and shapes[0] != (1,)

    def __str__(self) -> str:
        inputs, outputs = (", ".join(map(str, ports)) for ports in (self.inputs, self.outputs))
        return f"inputs ({inputs}) and outputs ({outputs})"

    def in_order(self, inputs: Any, what: str) -> list[Any]:
        """Puts inputs as a caller has them in the model's order.

        Args:
            inputs: One array or tensor alone, several in a list or tuple, or by the inputs' names.
            what: What they are called.

        Returns:
            One for each input of the model.

        Raises:
            DataError: If there are others than the model has.
        """
        names = [port.name for port in self.inputs]
        if isinstance(inputs, Mapping) and set(names) <= set(inputs):
            return [inputs[name] for name in names]
        flat = keras.tree.flatten(inputs)
        if len(flat) != len(names):
            given = sorted(inputs) if isinstance(inputs, Mapping) else f"{len(flat)} inputs"
            raise DataError(
                f"{what} give {given}; expected {', '.join(map(str, self.inputs))}. Give one array "
                "for each input, in the model's order or in a dict by the inputs' names."
            )
        return flat

    def nested(self, inputs: Sequence[Any]) -> Any:
        """Nests inputs in the model's order as the model takes them."""
        return keras.tree.map_structure(lambda number: inputs[number], self.structure)


# Data for a classifier of images of any size, without a model.
IMAGES = Interface((Port("image", (None, None, None), "float32"),), (Port("class", (), "int32"),))


def interface_of(model: keras.Model, *, any_size: bool = False) -> Interface:
    """Returns what a model takes and gives.

    Args:
        model: A built functional or Sequential model.
        any_size: Whether inputs may have sizes that are not fixed.

    Raises:
        GraphError: If it has no inputs and outputs.
        ConfigError: If the size of an input is not fixed.
    """
    inputs, outputs = inputs_and_outputs(model)
    structure: Any = 0
    if not isinstance(model, keras.Sequential):
        given = keras_internals.input_structure(model)
        numbers = keras.tree.pack_sequence_as(given, list(range(len(inputs))))
        structure = _without_lists(numbers)
    names = [getattr(tensor, "name", "") for tensor in inputs]
    if not any_size and (problem := unknown_sizes(model)):
        raise ConfigError(problem)
    return Interface(
        tuple(map(_port, names, inputs)),
        tuple(map(_port, _output_names(model), outputs)),
        structure,
    )


def _without_lists(structure: Any) -> Any:
    """The same with tuples, which models take as well: tf.data stacks what lies in a list."""
    if isinstance(structure, (list, tuple)):
        return tuple(_without_lists(one) for one in structure)
    if isinstance(structure, Mapping):
        return {name: _without_lists(one) for name, one in structure.items()}
    return structure


def _output_names(model: keras.Model) -> list[str]:
    if isinstance(model, keras.Sequential):
        return [model.layers[-1].name]
    return list(model.output_names)


def _port(name: str, tensor: Any) -> Port:
    return Port(name, tuple(tensor.shape[1:]), keras.backend.standardize_dtype(tensor.dtype))


def batched(
    interface: Interface, function: Callable[[Any], Any], inputs: Sequence[np.ndarray], size: int
) -> list[np.ndarray]:
    """Calls a model on many samples, a batch at a time.

    Args:
        interface: The model's.
        function: The model, or a function of the same inputs; it returns its outputs in whatever
            structure.
        inputs: One array for each input, [num_samples, ...].
        size: Samples in a batch.

    Returns:
        One array for each output, [num_samples, ...].
    """
    parts = []
    for start in range(0, len(inputs[0]), size):
        batch = interface.nested([array[start : start + size] for array in inputs])
        parts.append([np.asarray(one) for one in keras.tree.flatten(function(batch))])
    return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
