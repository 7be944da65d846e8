"""Where a constant can be added to a model: biases, shifts and means of normalisations."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from cprune_tf.graph.flat import Call, Tensor
from cprune_tf.graph.labels import Axes
from cprune_tf.graph.propagation import Propagation
from cprune_tf.graph.vanishing import Vanishing

Array = npt.NDArray[np.float64]

_DENSE = (keras.layers.Dense,)
_CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
_SEPARABLE = (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D)
PRODUCERS = (
    *_DENSE,
    *_CONVOLUTIONS,
    *_SEPARABLE,
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
)


@dataclass(frozen=True)
class Dropped:
    """A constant that could not be folded.

    Attributes:
        consumer: The name of the layer that received it.
        reason: Why folding is not exact in this layer.
        largest: The largest absolute value of the constants; NaN if it is not known.
    """

    consumer: str
    reason: str
    largest: float

    def __str__(self) -> str:
        size = "unknown" if np.isnan(self.largest) else f"up to {self.largest:.3g}"
        return f"{self.consumer}: {self.reason} (constants {size})"


@dataclass
class Folding:
    """The changes that folding makes in a rebuilt model.

    Attributes:
        additions: Arrays to add to weights, by layer and weight name, in the original's shape.
        configs: Config entries to change, by layer name.
        dropped: The constants that were not folded.
    """

    additions: dict[str, dict[str, Array]] = field(default_factory=dict)
    configs: dict[str, dict[str, Any]] = field(default_factory=dict)
    dropped: list[Dropped] = field(default_factory=list)

    def add(self, layer: str, weight: str, value: Array) -> None:
        """Increases the addition to a weight by `value`."""
        layer_additions = self.additions.setdefault(layer, {})
        layer_additions[weight] = layer_additions.get(weight, 0.0) + value


@dataclass(frozen=True, eq=False)
class Constant:
    """The constants of a tensor's removed channels.

    Attributes:
        axis: The axis of the channels.
        values: One value per channel, [size of the axis]; 0 for channels that remain.
    """

    axis: int
    values: Array


class Absorber:
    """Adds constants to the weights of a folding plan."""

    def __init__(self, propagation: Propagation, vanishing: Vanishing, plan: Folding) -> None:
        self._p = propagation
        self._plan = plan
        self._gone = vanishing.gone
        self._times = Counter(call.name for call in propagation.flat.calls)
        self._readers: dict[int, list[int]] = {}
        self._makers: dict[int, int] = {}
        for position, call in enumerate(propagation.flat.calls):
            self._makers.update((id(t), position) for t in call.outputs)
            if position not in vanishing.left_out:
                for tensor in call.inputs:
                    self._readers.setdefault(id(tensor), []).append(position)
        self._outputs = {id(t) for t in keras.tree.flatten(propagation.flat.outputs)}

    def is_shared(self, call: Call) -> bool:
        """Whether the layer is called several times."""
        return self._times[call.name] > 1

    def absorb(self, position: int, constant: Constant) -> bool:
        """Adds a constant to the output of a sum, by way of the layers before or behind it.

        Args:
            position: The position of the sum.
            constant: What to add.

        Returns:
            Whether it was added; if not, the plan is unchanged.
        """
        maker = self._earlier(position, constant)
        if maker is not None:
            self._raise(maker, constant)
            return True
        readers = self._later(self._p.flat.calls[position].outputs[0], constant)
        for reader in readers or ():
            if type(reader.operation) is keras.layers.BatchNormalization:
                self._plan.add(reader.name, "moving_mean", -constant.values)
            else:
                self.add_to_bias(reader, contribution(reader.operation, constant.values))
        return readers is not None

    def _earlier(self, position: int, constant: Constant) -> Call | None:
        """A layer whose output goes only into this sum and can be raised by the constant."""
        call = self._p.flat.calls[position]
        for tensor in call.inputs:
            maker = self._makers.get(id(tensor))
            is_alone = (
                self._readers.get(id(tensor)) == [position] and id(tensor) not in self._outputs
            )
            same_shape = tensor.shape == call.outputs[0].shape
            if maker is None or id(tensor) in self._gone or not is_alone or not same_shape:
                continue
            if self._p.effects[maker].sums:
                found = self._earlier(maker, constant)
                if found is not None:
                    return found
            elif self._can_raise(self._p.flat.calls[maker], constant):
                return self._p.flat.calls[maker]
        return None

    def _can_raise(self, call: Call, constant: Constant) -> bool:
        """Whether a layer ends by adding a weight of its own to each channel."""
        layer, rank = call.operation, len(call.outputs[0].shape)
        if self.is_shared(call):
            return False
        if type(layer) is keras.layers.BatchNormalization:
            return layer.axis % rank == constant.axis
        first = getattr(layer, "data_format", "channels_last") == "channels_first"
        axis = 1 if first else rank - 1
        return type(layer) in PRODUCERS and is_linear(layer) and axis == constant.axis

    def _raise(self, call: Call, constant: Constant) -> None:
        """Adds a constant to a layer's output."""
        if type(call.operation) is not keras.layers.BatchNormalization:
            self._add_bias(call, constant.values)
            return
        if not call.operation.center:
            self._plan.configs[call.name] = {"center": True}
        self._plan.add(call.name, "beta", constant.values)

    def _later(self, tensor: Tensor, constant: Constant) -> list[Call] | None:
        """The layers that read a tensor and can absorb the constant; None if one cannot."""
        if id(tensor) in self._outputs:
            return None
        found: list[Call] = []
        for position in self._readers.get(id(tensor), []):
            call = self._p.flat.calls[position]
            if self._p.effects[position].sums and call.outputs[0].shape == tensor.shape:
                further = self._later(call.outputs[0], constant)
            elif type(call.operation) is keras.layers.BatchNormalization:
                fits = call.operation.axis % len(tensor.shape) == constant.axis
                further = [call] if fits and not self.is_shared(call) else None
            else:
                obstacle = self.obstacle(call, constant, self._p.arriving[position][0])
                further = None if obstacle else [call]
            if further is None:
                return None
            found += further
        return found

    def obstacle(self, call: Call, constant: Constant, axes: Axes) -> str:
        """Why a constant input cannot become a bias of a dense layer or convolution, or ""."""
        layer = call.operation
        if self.is_shared(call):
            return "the layer is shared by several calls"
        if isinstance(layer, _DENSE):
            return "" if constant.axis == len(axes) - 1 else "they lie on another axis"
        if not isinstance(layer, (*_CONVOLUTIONS, *_SEPARABLE)):
            return f"constants are not folded into layers of the type {type(layer).__name__}"
        if layer.padding != "valid" and any(size != 1 for size in layer.kernel_size):
            return f"zero padding ({layer.padding!r}) meets constants that are not zero"
        return ""

    def add_to_bias(self, call: Call, value: Array) -> None:
        """Adds to a layer's bias, or to what stands for it in the batch normalisation behind it."""
        follower = None if call.operation.use_bias else self._sole_reader(call)
        if follower is not None:
            self._plan.add(follower.name, "moving_mean", -value)
            return
        self._add_bias(call, value)

    def _add_bias(self, call: Call, value: Array) -> None:
        if not call.operation.use_bias:
            self._plan.configs[call.name] = {"use_bias": True}
        self._plan.add(call.name, "bias", value)

    def _sole_reader(self, call: Call) -> Call | None:
        """The batch normalisation that is the only reader of a linear layer's output, or None."""
        tensor = call.outputs[0]
        readers = self._readers.get(id(tensor), [])
        if len(readers) != 1 or id(tensor) in self._outputs or not is_linear(call.operation):
            return None
        reader = self._p.flat.calls[readers[0]]
        batch = type(reader.operation) is keras.layers.BatchNormalization
        return reader if batch and self._times[reader.name] == 1 else None


def is_linear(layer: Any) -> bool:
    """Whether a layer has no activation of its own."""
    activation = getattr(layer, "activation", None)
    return activation is None or activation is keras.activations.linear


def contribution(layer: Any, constants: Array) -> Array:
    """Computes what constant input channels add to each output of a layer.

    Args:
        layer: A dense layer, or a convolution without zero padding.
        constants: One value per input channel, [inputs]; 0 for channels that remain.

    Returns:
        One value per output channel, [outputs].
    """
    if isinstance(layer, _SEPARABLE):
        depthwise = np.asarray(layer.depthwise_kernel, dtype=np.float64)
        spatial = depthwise.reshape(-1, *depthwise.shape[-2:]).sum(axis=0)
        inner = (constants[:, None] * spatial).ravel()
        pointwise = np.asarray(layer.pointwise_kernel, dtype=np.float64)
        return np.asarray(inner @ pointwise.reshape(len(inner), -1))
    kernel = np.asarray(layer.kernel, dtype=np.float64)
    summed = kernel.reshape(-1, *kernel.shape[-2:]).sum(axis=0)
    groups = getattr(layer, "groups", 1)
    inputs = constants.reshape(groups, -1)
    filters = summed.reshape(summed.shape[0], groups, -1)
    return np.asarray(np.einsum("gi,igo->go", inputs, filters).ravel())
