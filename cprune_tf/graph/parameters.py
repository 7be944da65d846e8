"""Weights as calls of a graph: what a layer adds, multiplies or joins with its own weights."""

from __future__ import annotations

from typing import Any

import keras


@keras.saving.register_keras_serializable(package="cprune_tf")
class Parameter(keras.layers.Layer):
    """Returns one weight, whatever its input is.

    Attributes:
        shape: The weight's shape; the output has no batch axis.
        weight_name: The weight's name.
        regularizer: The weight's regularizer, if it has one.
        constraint: The weight's constraint, if it has one.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        weight_name: str = "value",
        regularizer: Any = None,
        constraint: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.shape, self.weight_name = tuple(shape), weight_name
        self.regularizer = keras.regularizers.get(regularizer)
        self.constraint = keras.constraints.get(constraint)
        self.value: Any = None

    @classmethod
    def of(cls, variable: Any, name: str) -> Parameter:
        """Makes a layer whose weight is an existing variable.

        Args:
            variable: The variable; it is not copied.
            name: The layer's name.
        """
        layer = cls(
            tuple(variable.shape),
            variable.name,
            variable.regularizer,
            variable.constraint,
            name=name,
            dtype=variable.dtype,
        )
        layer.value = variable
        layer.built = True
        return layer

    def build(self, input_shape: Any) -> None:
        """Makes the weight."""
        del input_shape
        self.value = self.add_weight(
            shape=self.shape,
            initializer="zeros",
            regularizer=self.regularizer,
            constraint=self.constraint,
            name=self.weight_name,
        )

    def call(self, inputs: Any) -> Any:
        """Returns the weight."""
        del inputs
        return keras.ops.convert_to_tensor(self.value)

    def compute_output_spec(self, inputs: Any) -> Any:
        """Returns the weight's shape."""
        del inputs
        return keras.KerasTensor(self.shape, dtype=self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "shape": self.shape,
            "weight_name": self.weight_name,
            "regularizer": keras.regularizers.serialize(self.regularizer),
            "constraint": keras.constraints.serialize(self.constraint),
        }


@keras.saving.register_keras_serializable(package="cprune_tf")
class ForEachSample(keras.layers.Layer):
    """Repeats a tensor of one sample [1, ...] for each sample of another one."""

    def call(self, one: Any, like: Any) -> Any:
        """Returns the first tensor with the batch size of the second one."""
        batch = keras.ops.shape(like)[0]
        return keras.ops.broadcast_to(one, (batch, *keras.ops.shape(one)[1:]))

    def compute_output_spec(self, one: Any, like: Any) -> Any:
        """Returns the shape with the other's batch size."""
        return keras.KerasTensor((like.shape[0], *one.shape[1:]), dtype=one.dtype)
