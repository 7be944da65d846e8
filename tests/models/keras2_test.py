from __future__ import annotations

import pathlib
from typing import Any

import keras
import numpy as np
import pytest

from cprune_tf import graph
from cprune_tf.models import ModelError, load_model
from tests.models import keras2_files as k2

_IMAGES = np.random.default_rng(0).normal(0, 2, (2, 8, 8, 3)).astype(np.float32)
_KERNEL, _BIAS = k2.weights(3, 3, 3, 4), k2.weights(4)
_CONV = {"conv/kernel": _KERNEL, "conv/bias": _BIAS}


def _conv(images: Any = _IMAGES) -> np.ndarray:
    """What the convolution of these files computes."""
    layer = keras.layers.Conv2D(4, 3, padding="same")
    layer.build((None, 8, 8, 3))
    layer.set_weights([_KERNEL, _BIAS])
    return np.asarray(layer(images))


def _write(path: pathlib.Path, layers: list[k2.Config], output: Any, **arrays: Any) -> pathlib.Path:
    layers = [k2.image("input_1", 8, 8, 3), *layers]
    model = k2.functional("model", layers, ["input_1"], [output])
    return k2.write(path / "model.h5", model, {"conv": _CONV, **arrays})


def _load(path: pathlib.Path, layers: list[k2.Config], output: Any, **arrays: Any) -> keras.Model:
    return load_model(_write(path, layers, output, **arrays))


def _check(model: keras.Model, expected: Any, folder: pathlib.Path) -> None:
    """The model computes what is expected, and still does so after Keras 3 saved it."""
    assert isinstance(model, keras.Sequential) or not isinstance(model.input, list)
    np.testing.assert_allclose(model(_IMAGES, training=False), expected, rtol=1e-5, atol=1e-6)
    model.save(folder / "again.keras")
    again = keras.models.load_model(folder / "again.keras")
    np.testing.assert_allclose(again(_IMAGES, training=False), expected, rtol=1e-5, atol=1e-6)


def _operation(function: str, name: str, inbound: Any, kind: str = "TFOpLambda") -> k2.Config:
    return k2.layer(kind, name, [inbound], function=function)


def test_convolutions_with_groups_of_keras2_are_read(tmp_path):
    common = {"strides": [1, 1], "padding": "same", "data_format": "channels_last", "groups": 1}
    common |= {"dilation_rate": [1, 1], "activation": "linear", "use_bias": False}
    common |= {"kernel_size": [3, 3], "kernel_initializer": {"class_name": "Zeros", "config": {}}}
    layers = [
        k2.layer("DepthwiseConv2D", "depthwise", "input_1", depth_multiplier=1, **common),
        k2.layer("SeparableConv2D", "separable", "depthwise", filters=4, **common),
        k2.layer("Conv2DTranspose", "transposed", "separable", filters=2, **common),
        k2.layer("BatchNormalization", "norm", "transposed", axis=[3], fused=True, renorm=False),
    ]
    arrays = {
        "depthwise": {"depthwise/depthwise_kernel": k2.weights(3, 3, 3, 1)},
        "separable": {
            "separable/depthwise_kernel": k2.weights(3, 3, 3, 1, seed=1),
            "separable/pointwise_kernel": k2.weights(1, 1, 3, 4),
        },
        "transposed": {"transposed/kernel": k2.weights(3, 3, 2, 4)},
        "norm": {
            "norm/gamma": k2.weights(2), "norm/beta": k2.weights(2, seed=1),
            "norm/moving_mean": k2.weights(2, seed=2),
            "norm/moving_variance": np.array([2.0, 3.0], np.float32),
        },
    }  # fmt: skip
    options = {"padding": "same", "use_bias": False}
    equal = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.DepthwiseConv2D(3, **options),
            keras.layers.SeparableConv2D(4, 3, **options),
            keras.layers.Conv2DTranspose(2, 3, **options),
            keras.layers.BatchNormalization(),
        ]
    )
    for one, saved in zip(equal.layers, arrays.values(), strict=True):
        one.set_weights(list(saved.values()))
    model = _load(tmp_path, layers, "norm", **arrays)
    _check(model, equal(_IMAGES), tmp_path)
    assert type(model.get_layer("depthwise")) is keras.layers.DepthwiseConv2D


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"groups": 2}, r"'depthwise' \(DepthwiseConv2D\) has groups=2; expected 1"),
        ({"novelty": 1}, r"'depthwise' \(DepthwiseConv2D\) has novelty=1; expected no such"),
        ({"activation": "unheard_of"}, "'depthwise'.*unheard_of"),
    ],
)
def test_arguments_that_keras3_lacks_are_refused_by_layer_and_value(tmp_path, config, message):
    layers = [k2.layer("DepthwiseConv2D", "depthwise", "input_1", kernel_size=[3, 3], **config)]
    with pytest.raises(ModelError, match=message) as error:
        _load(tmp_path, layers, "depthwise")
    assert "\n" not in str(error.value)


def test_augmentations_are_identities_at_inference(tmp_path):
    names = ("RandomFlip", "RandomRotation", "RandomHeight", "RandomContrast")
    layers = []
    for before, kind in zip(("input_1", *names), names, strict=False):
        config = {"mode": "horizontal"} if kind == "RandomFlip" else {"factor": 0.1}
        layers.append(k2.layer(kind, kind, before, rng_type="stateful", seed=None, **config))
    layers.append(k2.conv("conv", names[-1], 4))
    # TensorFlow 2.9 kept the state of the random generator among the weights.
    state = {"StateVar": np.zeros(3, np.int64)}
    _check(_load(tmp_path, layers, "conv", RandomFlip=state), _conv(), tmp_path)


def test_policies_are_read(tmp_path):
    policy = {"class_name": "Policy", "config": {"name": "mixed_float16"}, "module": "tf_keras"}
    model = _load(tmp_path, [k2.conv("conv", "input_1", 4, dtype=policy)], "conv")
    assert model.get_layer("conv").dtype_policy.name == "mixed_float16"


def _inner_model() -> k2.Config:
    """A model of two outputs, as Keras 2 nests it."""
    layers = [
        k2.image("input_2", 8, 8, 3),
        k2.conv("conv", "input_2", 4),
        k2.layer("Activation", "act", "conv", activation="relu"),
    ]
    return k2.functional("inner", layers, ["input_2"], ["conv", "act"])


def test_a_shared_nested_model_of_two_outputs_is_read(tmp_path):
    # Keras 2 counts the making of a nested model as its first call, number 0.
    inner = {**_inner_model(), "inbound_nodes": [[["input_1", 0, 0, {}]], [["half", 0, 0, {}]]]}
    layers = [
        k2.layer("Rescaling", "half", "input_1", scale=0.5, offset=0.0),
        inner,
        k2.layer("Concatenate", "all", [[["inner", 1, 0, {}], ["inner", 2, 1, {}]]], axis=-1),
    ]
    model = _load(tmp_path, layers, "all", inner=_CONV)
    expected = np.concatenate([_conv(), np.maximum(_conv(_IMAGES / 2), 0)], axis=-1)
    _check(model, expected, tmp_path)


@pytest.mark.parametrize("module", [None, "tf_keras.src.engine.functional"])
def test_sequentials_of_models_are_read_as_teachable_machine_writes_them(tmp_path, module):
    base = [
        k2.image("input_2", 8, 8, 3),
        k2.conv("frozen", "input_2", 3, trainable=False),
        k2.conv("conv", "frozen", 4),
    ]
    features = k2.sequential(
        "features",
        [
            k2.functional("base", base, ["input_2"], ["conv"], "Model"),
            k2.layer("GlobalAveragePooling2D", "pool", data_format="channels_last"),
        ],
        module,
    )
    head = k2.layer(
        "Dense", "dense", units=2, activation="softmax", use_bias=False,
        batch_input_shape=[None, 4],
    )  # fmt: skip
    model = k2.sequential("whole", [features, k2.sequential("head", [head], module)])
    # Trainable weights come first in a nested model, so those of "frozen" are at the end.
    frozen = {"frozen/kernel": k2.weights(3, 3, 3, 3), "frozen/bias": k2.weights(3)}
    arrays = {"features": {**_CONV, **frozen}, "head": {"dense/kernel": k2.weights(4, 2)}}
    loaded = load_model(k2.write(tmp_path / "model.h5", model, arrays, "2.4.0"))
    assert isinstance(loaded, keras.Sequential)
    first = keras.layers.Conv2D(3, 3, padding="same")
    first.build((None, 8, 8, 3))
    first.set_weights(list(frozen.values()))
    pooled = _conv(first(_IMAGES)).mean(axis=(1, 2))
    expected = keras.ops.softmax(pooled @ k2.weights(4, 2))
    _check(loaded, expected, tmp_path)
    graph.rebuild(loaded, {})


def test_recurrent_layers_are_read(tmp_path):
    lstm = {
        "class_name": "LSTM",
        "config": {
            "name": "lstm", "units": 3, "time_major": False, "implementation": 2,
            "activation": "tanh", "recurrent_activation": "sigmoid",
        },
    }  # fmt: skip
    layers = [
        k2.layer("Reshape", "flat", "input_1", target_shape=[8, 24]),
        k2.layer("Bidirectional", "both", "flat", layer=lstm, merge_mode="concat"),
    ]
    equal = keras.layers.Bidirectional(keras.layers.LSTM(3))
    equal.build((None, 8, 24))
    values = [k2.weights(*w.shape, seed=i) for i, w in enumerate(equal.weights)]
    equal.set_weights(values)
    names = [f"both/{d}_lstm/lstm_cell/{n}" for d in ("forward", "backward") for n in "kru"]
    model = _load(tmp_path, layers, "both", both=dict(zip(names, values, strict=True)))
    _check(model, equal(_IMAGES.reshape(2, 8, 24)), tmp_path)


@pytest.mark.parametrize("as_sequential", [False, True])
def test_the_hard_sigmoid_of_keras2_is_kept(tmp_path, as_sequential):
    layers = [k2.conv("conv", "input_1", 4, activation="hard_sigmoid")]
    if as_sequential:
        layers[0]["config"]["batch_input_shape"] = [None, 8, 8, 3]
        path = tmp_path / "model.h5"
        model = load_model(k2.write(path, k2.sequential("whole", layers), {"conv": _CONV}))
    else:
        model = _load(tmp_path, layers, "conv")
    _check(model, np.clip(0.2 * _conv() + 0.5, 0, 1), tmp_path)


def test_a_recurrent_hard_sigmoid_is_refused(tmp_path):
    layers = [
        k2.layer("Reshape", "flat", "input_1", target_shape=[8, 24]),
        k2.layer("LSTM", "lstm", "flat", units=3, recurrent_activation="hard_sigmoid"),
    ]
    with pytest.raises(ModelError, match=r"'lstm' \(LSTM\) has recurrent_activation"):
        _load(tmp_path, layers, "lstm")


def test_tensorflow_functions_become_operations(tmp_path):
    layers = [
        # What preprocess_input of keras.applications leaves in a model.
        _operation(
            "__operators__.getitem",
            "getitem",
            [
                "input_1", 0, 0,
                {"slice_spec": [
                    {"class_name": "__ellipsis__"}, {"start": None, "stop": None, "step": -1},
                ]},
            ],
            "SlicingOpLambda",
        ),
        _operation("nn.bias_add", "bias_add", ["getitem", 0, 0, {"bias": [1.0, 2.0, -3.0]}]),
        _operation("math.truediv", "truediv", ["bias_add", 0, 0, {"y": 2.0, "name": None}]),
        k2.conv("conv", "truediv", 4),
        # A hard swish: x * relu6(x + 3) / 6, with the constant first as in `6 - x`.
        _operation("__operators__.add", "add", ["conv", 0, 0, {"y": 3.0, "name": None}]),
        _operation("nn.relu6", "relu6", ["add", 0, 0, {}]),
        _operation("math.multiply", "mul", ["relu6", 0, 0, {"y": ["conv", 0, 0]}]),
        _operation("math.subtract", "sub", ["_CONSTANT_VALUE", -1, 6.0, {"y": ["mul", 0, 0]}]),
        _operation("concat", "concat", [["sub", 0, 0, {"axis": -1}], ["conv", 0, 0, {"axis": -1}]]),
        _operation("math.reduce_mean", "mean", ["concat", 0, 0, {"axis": [1, 2]}]),
        _operation("reshape", "shaped", ["mean", 0, 0, {"shape": [-1, 2, 4]}]),
        _operation("math.l2_normalize", "normal", ["shaped", 0, 0, {"axis": -1}]),
        _operation("nn.softmax", "softmax", ["normal", 0, 0, {}]),
        _operation("cast", "cast", ["softmax", 0, 0, {"dtype": "float32"}]),
    ]  # fmt: skip
    conv = _conv((_IMAGES[..., ::-1] + np.float32([1, 2, -3])) / 2)
    swish = 6 - conv * np.clip(conv + 3, 0, 6)
    mean = np.concatenate([swish, conv], axis=-1).mean(axis=(1, 2)).reshape(2, 2, 4)
    normal = mean / np.sqrt((mean**2).sum(axis=-1, keepdims=True))
    model = _load(tmp_path, layers, "cast")
    _check(model, keras.ops.softmax(normal), tmp_path)
    assert {"relu6", "concat", "softmax"} <= {operation.name for operation in model.operations}


@pytest.mark.parametrize(
    ("function", "kwargs", "message"),
    [
        ("signal.fft", {}, "'strange' calls TensorFlow's signal.fft; expected one of"),
        ("image.resize", {"size": [4, 4], "method": "area"}, "image.resize .*method='area'"),
        ("nn.relu", {"novelty": 1}, "nn.relu with arguments .*novelty"),
        ("reshape", {"shape": [["conv", 0, 0], 4]}, "reshape .*sizes that the model computes"),
    ],
)
def test_other_tensorflow_functions_are_refused_by_name(tmp_path, function, kwargs, message):
    layers = [k2.conv("conv", "input_1", 4)]
    layers.append(_operation(function, "strange", ["conv", 0, 0, kwargs]))
    with pytest.raises(ModelError, match=message) as error:
        _load(tmp_path, layers, "strange")
    assert "\n" not in str(error.value)


def test_nodes_of_tensorflow_graphs_are_read(tmp_path):
    node = {"name": "mul", "op": "Mul", "input": ["conv/BiasAdd", "mul/y"], "attr": {}}
    layers = [
        k2.conv("conv", "input_1", 4),
        k2.layer("TensorFlowOpLayer", "mul", "conv", node_def=node, constants={"1": 0.5}),
    ]
    _check(_load(tmp_path, layers, "mul"), _conv() / 2, tmp_path)


def test_slashes_in_names_become_underscores(tmp_path):
    layers = [k2.conv("block/conv", "input_1", 4), k2.layer("ReLU", "block_conv", "block/conv")]
    model = _load(tmp_path, layers, "block_conv", **{"block/conv": _CONV})
    assert [layer.name for layer in model.layers[1:]] == ["block_conv", "block_conv_1"]
    _check(model, np.maximum(_conv(), 0), tmp_path)


def test_code_in_the_file_runs_only_if_it_is_allowed(tmp_path):
    # A lambda as this version of Python writes it: t -> 2 t.
    inputs = keras.Input((2,))
    code = keras.layers.Lambda(lambda t: 2 * t)
    code(inputs)
    inner = code.get_config()["function"]["config"]
    function = [inner["code"], inner["defaults"], inner["closure"]]
    layers = [
        k2.conv("conv", "input_1", 4),
        k2.layer("Lambda", "twice", "conv", function=function, function_type="lambda",
                 module="__main__", output_shape=None, arguments={}),
    ]  # fmt: skip
    path = _write(tmp_path, layers, "twice")
    with pytest.raises(
        ModelError, match=r"'twice' \(Lambda\) is Python code.*config.unsafe_lambda"
    ):
        load_model(path)
    np.testing.assert_allclose(load_model(path, unsafe_lambda=True)(_IMAGES), 2 * _conv())


def test_names_decide_where_weights_are_in_another_order(tmp_path):
    arrays = {"conv/bias": _BIAS, "conv/kernel": _KERNEL}
    _check(_load(tmp_path, [k2.conv("conv", "input_1", 4)], "conv", conv=arrays), _conv(), tmp_path)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"conv": {}}, "the weights of the layer 'conv'.*are none; expected conv/kernel"),
        ({"conv": {"conv/kernel": _KERNEL[..., :2], "conv/bias": _BIAS}}, r"\(3, 3, 3, 2\)"),
        ({"relu": {"relu/alpha": _BIAS}}, "'relu'"),
    ],
)
def test_files_with_other_weights_are_refused(tmp_path, arrays, message):
    layers = [k2.conv("conv", "input_1", 4), k2.layer("ReLU", "relu", "conv")]
    with pytest.raises(ModelError, match=message):
        _load(tmp_path, layers, "relu", **arrays)


def test_custom_layers_of_keras2_need_custom_objects(tmp_path):
    class Half(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return 0.5 * x

    layers = [k2.conv("conv", "input_1", 4), k2.layer("Custom>Half", "half", "conv")]
    path = _write(tmp_path, layers, "half")
    with pytest.raises(ModelError, match=r"'half' .*not Keras' own.*custom_objects"):
        load_model(path)
    np.testing.assert_allclose(
        load_model(path, custom_objects={"Half": Half})(_IMAGES), _conv() / 2
    )
