"""What a Keras model computes in: models of lower precision are converted as float32 copies."""

from __future__ import annotations

from typing import Any

import keras

from cprune_tf.graph import keras_internals
from cprune_tf.graph.copying import copy_model, plain_layers
from cprune_tf.litert.errors import ConversionError

# Types that the converter does not take, or that no kernel of LiteRT computes in.
_OTHER_FLOATS = frozenset({"float16", "bfloat16", "float64"})
_MAX_NAMES = 3  # of layers in a message


def other_float_types(model: keras.Model) -> list[str]:
    """Lists the floating-point types beside float32 that a model stores or computes in.

    Args:
        model: A built model.

    Returns:
        Names of types, sorted; empty for a float32 model.
    """
    types = {variable.dtype for variable in model.weights}
    types |= {tensor.dtype for tensor in model.inputs}
    types |= {layer.compute_dtype for layer in plain_layers(model)}
    return sorted(types & _OTHER_FLOATS)


def float32_twin(model: keras.Model) -> keras.Model:
    """Copies a model of another precision, so that all of it is float32.

    Args:
        model: Functional or Sequential. It is not changed.

    Returns:
        A model with the same layers and weights, the latter converted to float32.

    Raises:
        ConversionError: Some operation stays in another precision, since it is no layer or its
            type is not in its config.
    """

    def copy(layer: keras.layers.Layer) -> keras.layers.Layer:
        return keras_internals.recreate_layer(layer, _as_float32(layer.get_config()))

    twin = copy_model(model, copy, input_dtype="float32")
    if types := other_float_types(twin):
        raise ConversionError(
            f"Model {model.name!r} uses {', '.join(types)} in a way that a float32 copy keeps (a "
            "cast, or a type that a layer's config does not hold); expected a model that can "
            "compute in float32. Build it under keras.config.set_dtype_policy('float32')."
        )
    return twin


def require_unquantized(model: keras.Model) -> None:
    """Refuses models that Keras itself has quantised.

    Args:
        model: Any model.

    Raises:
        ConversionError: Names the quantised layers and the reason.
    """
    modes = {
        layer.name: mode
        for layer in plain_layers(model)
        if (mode := getattr(layer.dtype_policy, "quantization_mode", None))
    }
    if not modes:
        return
    names = ", ".join(list(modes)[:_MAX_NAMES])
    if len(modes) > _MAX_NAMES:
        names += f" and {len(modes) - _MAX_NAMES} more"
    raise ConversionError(
        f"Model {model.name!r} was quantised by Keras ({', '.join(sorted(set(modes.values())))}: "
        f"{names}). LiteRT has no operator that computes as Keras's quantised layers do: they "
        "measure the range of their input anew for every image. The file would hold float32 "
        "arithmetic around int8 weights and be slower than the float32 model. Give the model as it "
        "was before model.quantize(), and let precision='int8' quantise it."
    )


def _as_float32(config: Any) -> Any:
    """Returns a layer's config with every type and policy of lower precision replaced."""
    if isinstance(config, list | tuple):
        return type(config)(_as_float32(value) for value in config)
    if not isinstance(config, dict):
        return config
    return {
        key: "float32" if key == "dtype" and _is_other_float(value) else _as_float32(value)
        for key, value in config.items()
    }


def _is_other_float(value: Any) -> bool:
    if isinstance(value, dict):
        value = value.get("config", {}).get("name", "")
    return any(name in str(value) for name in _OTHER_FLOATS)
