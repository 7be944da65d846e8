"""Describes a Keras 3 model as plain JSON types, from which `tf_keras` builds the same model.

Keras 3 and Keras 2 save models in different forms, so only layers go over whose meaning is known to
be the same in both, with exactly the constructor arguments that they share.
"""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Mapping
from typing import Any

from cprune_tf.baselines.tfmot.errors import TfmotError

if typing.TYPE_CHECKING:
    import keras

    from cprune_tf.graph.flat import Call

_CONVOLUTION = (
    *("kernel_size", "strides", "padding", "data_format", "dilation_rate"),
    *("activation", "use_bias", "bias_regularizer"),
)
_POOLING = ("pool_size", "strides", "padding", "data_format")
_GLOBAL_POOLING = ("data_format", "keepdims")

# The constructor arguments that Keras 3 and tf_keras share, by the layer's class.
_ARGUMENTS: Mapping[str, tuple[str, ...]] = {
    "Activation": ("activation",),
    "Add": (),
    "Average": (),
    "AveragePooling2D": _POOLING,
    "BatchNormalization": ("axis", "momentum", "epsilon", "center", "scale"),
    "Concatenate": ("axis",),
    "Conv2D": ("filters", "groups", "kernel_regularizer", *_CONVOLUTION),
    "Cropping2D": ("cropping", "data_format"),
    "Dense": ("units", "activation", "use_bias", "kernel_regularizer", "bias_regularizer"),
    "DepthwiseConv2D": ("depth_multiplier", "depthwise_regularizer", *_CONVOLUTION),
    "Dropout": ("rate", "noise_shape"),
    "ELU": ("alpha",),
    "Flatten": ("data_format",),
    "GlobalAveragePooling2D": _GLOBAL_POOLING,
    "GlobalMaxPooling2D": _GLOBAL_POOLING,
    "LeakyReLU": ("negative_slope",),
    "Maximum": (),
    "MaxPooling2D": _POOLING,
    "Minimum": (),
    "Multiply": (),
    "Permute": ("dims",),
    "ReLU": ("max_value", "negative_slope", "threshold"),
    "Rescaling": ("scale", "offset"),
    "Reshape": ("target_shape",),
    "SeparableConv2D": (
        *("filters", "depth_multiplier", "depthwise_regularizer", "pointwise_regularizer"),
        *_CONVOLUTION,
    ),
    "Softmax": ("axis",),
    "SpatialDropout2D": ("rate", "data_format"),
    "Subtract": (),
    "UpSampling2D": ("size", "data_format", "interpolation"),
    "ZeroPadding2D": ("padding", "data_format"),
}
_RENAMED = {"LeakyReLU": {"negative_slope": "alpha"}}
# Not all that have the same name: Keras 3 defines hard_sigmoid otherwise.
_ACTIVATIONS = frozenset(
    (
        *("elu", "exponential", "gelu", "linear", "log_softmax", "mish", "relu", "relu6", "selu"),
        *("sigmoid", "silu", "softmax", "softplus", "softsign", "swish", "tanh"),
    )
)
_REGULARIZERS = frozenset(("L1", "L2", "L1L2"))
_MERGING = frozenset(
    ("Add", "Average", "Concatenate", "Maximum", "Minimum", "Multiply", "Subtract")
)


@dataclasses.dataclass(frozen=True)
class LayerDescription:
    """A layer for `tf_keras`.

    Attributes:
        name: The layer's name in the Keras 3 model.
        kind: The name of its class, the same in Keras 3 and tf_keras.
        arguments: The constructor's arguments, as plain JSON types.
        trainable: Whether training changes its weights.
    """

    name: str
    kind: str
    arguments: Mapping[str, Any]
    trainable: bool


@dataclasses.dataclass(frozen=True)
class CallDescription:
    """One call of a layer; a shared layer has several.

    Attributes:
        layer: The layer's index in `ModelDescription.layers`.
        inputs: The numbers of the tensors that it takes; 0 is the image, and call i makes i + 1.
        as_list: Whether it takes them as a list.
    """

    layer: int
    inputs: tuple[int, ...]
    as_list: bool


@dataclasses.dataclass(frozen=True)
class ModelDescription:
    """A model for `tf_keras`.

    Attributes:
        input_shape: (height, width, channels) of the image.
        layers: The distinct layers.
        calls: The calls in topological order.
        output: The number of the output's tensor.
    """

    input_shape: tuple[int, ...]
    layers: tuple[LayerDescription, ...]
    calls: tuple[CallDescription, ...]
    output: int


def describe(model: keras.Model) -> ModelDescription:
    """Describes a model for `tf_keras`.

    Args:
        model: A functional or Sequential Keras 3 model of one image and one output.

    Returns:
        The description. The weights are not part of it; see `layers_of`.

    Raises:
        TfmotError: A layer has no known equivalent; names it.
        GraphError: The model has no graph of layers.
    """
    from cprune_tf.graph.flat import flatten

    flat = flatten(model)
    if len(flat.inputs) != 1 or not hasattr(flat.outputs, "shape"):
        raise TfmotError(
            f"TFMOT: model {model.name!r} has {len(flat.inputs)} inputs; expected one image and "
            "one output."
        )
    names = list(flat.layers())
    numbers = {id(flat.inputs[0]): 0}
    calls: list[CallDescription] = []
    layers: dict[str, LayerDescription] = {}
    for call in flat.calls:
        layers[call.name] = _layer(call)
        inputs = tuple(numbers[id(tensor)] for tensor in call.inputs)
        as_list = layers[call.name].kind in _MERGING
        numbers[id(call.outputs[0])] = len(calls) + 1
        calls.append(CallDescription(names.index(call.name), inputs, as_list))
    return ModelDescription(
        tuple(int(size) for size in model.inputs[0].shape[1:]),
        tuple(layers[name] for name in names),
        tuple(calls),
        numbers[id(flat.outputs)],
    )


def layers_of(model: keras.Model) -> dict[str, Any]:
    """Returns the model's own layers by `LayerDescription.name`, in the description's order."""
    from cprune_tf.graph.flat import flatten

    return flatten(model).layers()


def _layer(call: Call) -> LayerDescription:
    layer = call.operation
    kind = type(layer).__name__
    known = call.is_layer and type(layer).__module__.split(".")[0] == "keras"
    if not known or kind not in _ARGUMENTS:
        what = "layer" if call.is_layer else "raw operation"
        raise _refusal(call, f"the {what} {kind} is not known to be the same in Keras 2")
    parameters = inspect.signature(layer.call).parameters
    # Keras notes defaults as if they had been given.
    given = {n: v for n, v in call.kwargs.items() if v is not None and v != parameters[n].default}
    if given:
        raise _refusal(call, f"it is called with {given}")
    config = layer.get_config()
    for name, value in config.items():
        if value is not None and name.endswith(("_constraint", "activity_regularizer")):
            raise _refusal(call, f"it has a {name}, which TFMOT's training would leave out")
    renamed = _RENAMED.get(kind, {})
    arguments = {
        renamed.get(name, name): _argument(call, name, config[name])
        for name in _ARGUMENTS[kind]
        if name in config
    }
    return LayerDescription(call.name, kind, arguments, bool(layer.trainable))


def _argument(call: Call, name: str, value: Any) -> Any:
    if name == "activation":
        if not isinstance(value, str) or value not in _ACTIVATIONS:
            raise _refusal(call, f"its activation {value!r} is not the same in Keras 2")
        return value
    if name.endswith("_regularizer") and value is not None:
        if value.get("class_name") not in _REGULARIZERS:
            raise _refusal(call, f"its {name} is {value.get('class_name')}")
        return {"class_name": value["class_name"], "config": value["config"]}
    return value


def _refusal(call: Call, why: str) -> TfmotError:
    return TfmotError(
        f"TFMOT cannot prune this model: layer {call.path!r}: {why}. Leave the tfmot strategies "
        "out of --strategies, or replace the layer."
    )
