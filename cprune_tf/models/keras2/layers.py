"""Layers from the configs that Keras 2 wrote."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import keras

from cprune_tf.graph import keras_internals
from cprune_tf.models.errors import ModelError

# TensorFlow 1 and 2 had classes of these suffixes side by side; the files say which.
_OLD_SUFFIXES = ("V1", "V2")
_OLD_CLASSES = {"SyncBatchNormalization": "BatchNormalization", "RandomHeight": "Identity"}
_OLD_CLASSES |= {"RandomWidth": "Identity", "ThresholdedReLU": "ReLU"}
_RENAMED: dict[tuple[str, str], str] = {
    ("LeakyReLU", "alpha"): "negative_slope",
    ("ThresholdedReLU", "theta"): "threshold",
}

_ANY = object()
# Arguments of Keras 2 that Keras 3 does not know, with the values at which they have no effect.
_WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {
    "causal": (False,),
    "data_format": ("channels_last",),
    "fused": (_ANY,),
    "groups": (1,),
    "implementation": (_ANY,),
    "input_dim": (_ANY,),
    "input_length": (_ANY,),
    "input_shape": (_ANY,),
    "key_shape": (_ANY,),
    "query_shape": (_ANY,),
    "ragged": (False,),
    "renorm": (False,),
    "renorm_clipping": ({},),
    "renorm_momentum": (_ANY,),
    "rng_type": (_ANY,),
    "softmax_robust_masking": (False,),
    "time_major": (False,),
    "trainable": (_ANY,),  # set afterwards; some constructors do not take it
    "value_shape": (_ANY,),
}
# Layers that change nothing at inference, so that no argument of theirs can have an effect there.
_AUGMENTATIONS = frozenset(
    f"Random{name}"
    for name in (
        *("Brightness", "Contrast", "Flip", "Height", "Hue"),
        *("Rotation", "Saturation", "Translation", "Width", "Zoom"),
    )
)
_INITIALIZER_MARK = "_initializer"
# The function that Keras 2 means by this name is clip(0.2 x + 0.5), that of Keras 3 is another.
_HARD_SIGMOID = "hard_sigmoid"
_ACTIVATIONS = {"softmax_v2": "softmax", "softmax_v1": "softmax"}


def make_layer(
    saved: Mapping[str, Any],
    name: str,
    custom_objects: Mapping[str, Any],
    *,
    unsafe_lambda: bool = False,
) -> tuple[keras.layers.Layer, bool]:
    """Makes the Keras 3 layer that computes what a layer of Keras 2 computed.

    Args:
        saved: The layer as Keras 2 wrote it: class_name, config.
        name: The name of the new layer.
        custom_objects: Name -> custom class or function.
        unsafe_lambda: Whether code that the file holds may run.

    Returns:
        The layer, and whether Keras 2's own hard sigmoid is to be applied to its output: no layer
        of Keras 3 has this activation.

    Raises:
        ModelError: Keras 3 has no such layer, or not with such an argument.
    """
    kind, config = str(saved["class_name"]), dict(saved["config"])
    config["name"] = name
    custom = _custom_class(kind, custom_objects)
    own_sigmoid = False
    if kind == "Lambda":
        return _make_lambda(config, custom_objects, unsafe_lambda), False
    if custom is None:
        if "recurrent_activation" not in config:
            own_sigmoid = _activation_name(config.get("activation")) == _HARD_SIGMOID
        if own_sigmoid:
            config["activation"] = "linear"
        serialized = _converted({"class_name": kind, "config": config}, custom_objects)
        create: Callable[[], Any] = functools.partial(
            keras.saving.deserialize_keras_object, serialized, custom_objects=dict(custom_objects)
        )
    else:
        config = {key: _value(key, value, custom_objects) for key, value in config.items()}
        _drop_shape(config)
        create = functools.partial(custom.from_config, config)
    try:
        with keras.saving.custom_object_scope(dict(custom_objects)):
            layer = create()
    except ModelError:
        raise
    except Exception as error:  # Constructors of layers raise many types of errors.
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1][:300]
        raise ModelError(
            f"the layer {name!r} ({kind}) cannot be made in Keras 3: {reason} Expected a layer "
            "that Keras 3 makes as Keras 2 did; build the model with Keras 3, and load its weights."
        ) from error
    if not isinstance(layer, keras.layers.Layer):
        raise ModelError(f"the layer {name!r} ({kind}) is no layer in Keras 3.")
    if config.get("trainable") is False:
        layer.trainable = False
    return layer, own_sigmoid


def _converted(saved: Mapping[str, Any], custom_objects: Mapping[str, Any]) -> dict[str, Any]:
    """Writes a layer of Keras as Keras 3 serializes it."""
    old_kind = str(saved["class_name"])
    name = str(saved["config"].get("name", ""))
    kind, cls = _layer_class(old_kind, name)
    config: dict[str, Any] = dict(saved["config"])
    _drop_shape(config)
    if old_kind == "SyncBatchNormalization":
        config["synchronized"] = True
    if old_kind in ("RandomHeight", "RandomWidth"):
        config = {key: config[key] for key in ("name", "trainable", "dtype") if key in config}
    if kind == "GRU":
        config.setdefault("reset_after", False)  # what Keras 2 did when its files lacked this
    accepted = _parameters(cls)
    result: dict[str, Any] = {}
    for old_key, old_value in config.items():
        key = str(_RENAMED.get((old_kind, old_key)) or old_key)
        if key not in accepted:
            _check_effect(old_kind, name, key, old_value)
            continue
        value = _value(key, old_value, custom_objects)
        if key.endswith("activation") and _activation_name(old_value) == _HARD_SIGMOID:
            raise ModelError(
                f"the layer {name!r} ({old_kind}) has {key}='hard_sigmoid'; "
                "expected another one, since Keras 3 means another function by it and has none "
                "that equals that of Keras 2. Train the model with 'sigmoid'."
            )
        if value is not None or not key.endswith(_INITIALIZER_MARK):
            result[key] = value
    return {"module": "keras.layers", "class_name": kind, "config": result, "registered_name": None}


def _check_effect(kind: str, name: str, argument: str, value: Any) -> None:
    """Raises ModelError for an argument that Keras 3 does not take, unless it has no effect."""
    values = _WITHOUT_EFFECT.get(argument, ())
    if value is None or argument.endswith(_INITIALIZER_MARK) or kind in _AUGMENTATIONS:
        return
    if _ANY in values or value in values:
        return
    expected = " or ".join(map(repr, values)) or "no such argument"
    raise ModelError(
        f"the layer {name!r} ({kind}) has {argument}={value!r}; expected {expected}, since "
        f"{kind} of Keras 3 cannot do this. Rebuild the model without it."
    )


def _layer_class(kind: str, name: str) -> tuple[str, type[Any]]:
    """The class of Keras 3 for a class name of Keras 2, with its name."""
    new = _OLD_CLASSES.get(kind, kind)
    candidates = [new, *(new.removesuffix(suffix) for suffix in _OLD_SUFFIXES)]
    for candidate in candidates:
        cls = getattr(keras.layers, candidate, None)
        if isinstance(cls, type) and issubclass(cls, keras.layers.Layer):
            return candidate, cls
    raise ModelError(
        f"the layer {name!r} has a class that is not Keras' own ({kind}); expected layers that "
        "Keras 3 has, or registered classes. Pass it in custom_objects, or register it with "
        "keras.saving.register_keras_serializable."
    )


def _custom_class(kind: str, custom_objects: Mapping[str, Any]) -> Any:
    """The caller's class of a name, a registered one or one of keras.applications; or None."""
    short = kind.rsplit(">", maxsplit=1)[-1]
    for name in (kind, short):
        if name in custom_objects:
            return custom_objects[name]
    registered = keras.saving.get_registered_object(kind)
    return registered or keras_internals.application_layers().get(short)


def _parameters(cls: Any) -> frozenset[str]:
    """The arguments that a layer's constructor takes, those of its base classes included."""
    names: set[str] = set()
    for ancestor in cls.__mro__:
        if "__init__" not in vars(ancestor):
            continue
        parameters = inspect.signature(vars(ancestor)["__init__"]).parameters.values()
        names |= {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        if ancestor is keras.layers.Layer or not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return frozenset(names - {"self"})


def _drop_shape(config: dict[str, Any]) -> None:
    """Drops the input's shape, which the graph gives, and makes an axis a number."""
    config.pop("batch_input_shape", None)
    axis = config.get("axis")
    if isinstance(axis, list) and len(axis) == 1:
        config["axis"] = int(axis[0])


def _value(key: str, value: Any, custom_objects: Mapping[str, Any]) -> Any:
    """Converts the value of one argument."""
    if key == "dtype" and isinstance(value, dict):
        return value["config"]["name"]
    if isinstance(value, dict) and value.get("type") == "ndarray":
        return value["value"]
    if key.endswith("activation"):
        name = _activation_name(value)
        return value if name is None else _ACTIVATIONS.get(name, name)
    if key.endswith(_INITIALIZER_MARK):
        return _initializer(value, custom_objects)
    if isinstance(value, dict) and isinstance(value.get("config"), dict) and "class_name" in value:
        return _object(value, custom_objects)
    if isinstance(value, list):
        return [_value("", item, custom_objects) for item in value]
    return value


def _object(value: dict[str, Any], custom_objects: Mapping[str, Any]) -> dict[str, Any]:
    """Converts an object among the arguments: a layer inside a wrapper, a cell, a regulariser."""
    kind = str(value["class_name"])
    if _custom_class(kind, custom_objects) is not None:
        return {**value, "config": dict(value["config"])}
    for module in ("regularizers", "constraints", "initializers"):
        if hasattr(getattr(keras, module), kind):
            return {**value, "module": f"keras.{module}", "registered_name": None}
    return _converted(value, custom_objects)


def _initializer(value: Any, custom_objects: Mapping[str, Any]) -> Any:
    """Converts an initializer; None for one that Keras 3 lacks: the file gives the values."""
    if not isinstance(value, dict):
        return value
    kind = str(value.get("class_name"))
    if _custom_class(kind, custom_objects) is not None:
        return value
    candidates = [kind, *(kind.removesuffix(suffix) for suffix in _OLD_SUFFIXES)]
    for candidate in candidates:
        cls = getattr(keras.initializers, candidate, None)
        if isinstance(cls, type):
            accepted = _parameters(cls)
            config = {k: v for k, v in dict(value.get("config") or {}).items() if k in accepted}
            return {"module": "keras.initializers", "class_name": candidate, "config": config}
    return None


def _activation_name(value: Any) -> str | None:
    """The name of an activation function; None for a layer or for nothing."""
    if isinstance(value, dict) and value.get("class_name") == "function":
        value = value.get("config")
    return value if isinstance(value, str) else None


def _make_lambda(
    config: dict[str, Any], custom_objects: Mapping[str, Any], unsafe_lambda: bool
) -> keras.layers.Layer:
    name, function = config["name"], config["function"]
    if isinstance(function, str) and function in custom_objects:
        return keras.layers.Lambda(
            custom_objects[function],
            arguments=config.get("arguments") or None,
            name=name,
            dtype=_value("dtype", config.get("dtype"), custom_objects),
        )
    code = function
    if isinstance(function, dict) and function.get("class_name") == "__lambda__":
        inner = function["config"]
        code = [inner.get("code"), inner.get("defaults"), inner.get("closure")]
    if not isinstance(code, list):
        raise ModelError(
            f"the layer {name!r} (Lambda) calls the function {function!r}, which the file does not "
            "hold; expected it in custom_objects."
        )
    if not unsafe_lambda:
        raise ModelError(
            f"the layer {name!r} (Lambda) is Python code in the file, which would run on this "
            "machine; expected layers. If you trust who made the file, allow it with unsafe_lambda "
            "(config.unsafe_lambda); or replace the layer, e.g. by Rescaling."
        )
    serialized = {
        "module": "keras.layers",
        "class_name": "Lambda",
        "config": {
            "name": name,
            "dtype": _value("dtype", config.get("dtype"), custom_objects),
            "arguments": config.get("arguments") or {},
            "function": {
                "class_name": "__lambda__",
                "config": dict(zip(("code", "defaults", "closure"), code, strict=True)),
            },
        },
        "registered_name": None,
    }
    try:
        layer: keras.layers.Layer = keras.saving.deserialize_keras_object(
            serialized, custom_objects=dict(custom_objects), safe_mode=False
        )
    except (ValueError, TypeError, EOFError) as error:
        raise ModelError(
            f"the code of the layer {name!r} (Lambda) cannot be read ({error}); expected code of "
            "this version of Python. Replace the layer, e.g. by Rescaling, and save again."
        ) from error
    return layer
