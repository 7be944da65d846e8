from __future__ import annotations

import dataclasses

import keras
import pytest
from keras import layers

from cprune_tf.config import MeasureConfig
from cprune_tf.devices import OperatorTime, open_device
from cprune_tf.graph.flat import flatten
from cprune_tf.latency.operator_ties import UntiedOperatorsError, tie_operators
from cprune_tf.litert.tracing import Operator, TracedFile, trace
from cprune_tf.models.small import mobilenet_small

from .conftest import small_net

QUICK = MeasureConfig(warmup_ms=5.0, min_samples=10, max_time_sec=0.2, stable_fraction=0.2)


@pytest.fixture(scope="module")
def device():
    with open_device("local") as opened:
        yield opened


def profiled(model, device, tmp_path):
    file = trace(flatten(model))
    path = tmp_path / "model.tflite"
    path.write_bytes(file.content)
    return tie_operators(device.profile_litert(path, 1, QUICK), file)


@pytest.mark.parametrize("build", [small_net, mobilenet_small])
def test_every_layer_with_weights_has_the_operator_of_its_kind(build, device, tmp_path):
    model = build()
    profiled_operators = profiled(model, device, tmp_path)
    products: dict[str, str] = {}  # Only a layer's first operator: its activation may run later.
    for time, names in profiled_operators:
        for layer in names:
            if isinstance(model.get_layer(layer), layers.Conv2D | layers.Dense):
                products.setdefault(layer, time.name)
    weighted = [x.name for x in model.layers if isinstance(x, layers.Conv2D | layers.Dense)]
    assert list(products) == weighted
    for layer, name in products.items():
        is_depthwise = isinstance(model.get_layer(layer), layers.DepthwiseConv2D)
        assert name.startswith(("Convolution", "Fully Connected"))
        assert ("DWConv" in name) == is_depthwise


def test_a_residual_addition_and_its_activation_are_tied(device, tmp_path):
    layers_of = {time.name: names for time, names in profiled(small_net(), device, tmp_path)}
    (addition,) = (names for name, names in layers_of.items() if name.startswith(("Add", "Binary")))
    assert {"add", "relu"} <= set(addition)
    for name, names in layers_of.items():
        if name.startswith("Clamp"):
            assert names == addition


def test_an_operator_that_is_not_delegated_is_tied_by_its_number(device, tmp_path):
    image = keras.Input((8, 8, 4), name="image")
    x = layers.Conv2D(8, 3, name="conv")(image)
    operators = profiled(keras.Model(image, keras.ops.cumsum(x, axis=1)), device, tmp_path)
    interpreted = [names for time, names in operators if not time.delegated]
    assert interpreted and all(names != ("conv",) for names in interpreted)
    assert [names for time, names in operators if time.name.startswith("Convolution")] == [
        ("conv",)
    ]


# --- made-up sequences


class Call:
    def __init__(self, name):
        self.name = name


def file_of(*codes):
    return TracedFile(
        content=b"",
        operators=tuple(Operator(code, (), (), ()) for code in codes),
        calls=tuple((Call(f"{code.lower()}{number}"),) for number, code in enumerate(codes)),
        input_numbers=(),
        output_numbers=(),
        untied=(),
    )


def ran(*names):
    return [OperatorTime(name, True, number, 1.0) for number, name in enumerate(names)]


CONV, DW = "Convolution (NHWC, F32) IGEMM", "Convolution (NHWC, F32) DWConv"
DENSE, ADD, CLAMP = "Fully Connected (NC, F32) GEMM", "Add (ND)", "Clamp (NC)"
COPY, MEAN = "Copy (NC, X32)", "Mean (ND)"


def names_of(times, file):
    return [names[0] if names else None for _, names in tie_operators(times, file)]


@pytest.mark.parametrize(
    ("names", "codes", "expected"),
    [
        # Padding is fused into the convolution; a 1x1 convolution is a matrix product.
        ((CONV, DENSE), ("PAD", "CONV_2D", "CONV_2D"), ["conv_2d1", "conv_2d2"]),
        # Operators that LiteRT adds have no layer.
        (
            (COPY, CONV, COPY, DW),
            ("CONV_2D", "DEPTHWISE_CONV_2D"),
            [None, "conv_2d0", None, "depthwise_conv_2d1"],
        ),
        # One of two elementwise operators was dropped, and it is unknown which one.
        ((CONV, ADD), ("CONV_2D", "ADD", "MUL"), ["conv_2d0", None]),
        ((CONV, ADD, ADD), ("CONV_2D", "ADD", "MUL"), ["conv_2d0", "add1", "mul2"]),
        # An operator is not tied to one in another gap.
        ((CONV, CONV, ADD), ("CONV_2D", "ADD", "CONV_2D"), ["conv_2d0", "conv_2d2", None]),
        # A clamp is the activation of the operator before it, unless the file has an activation.
        ((CONV, ADD, CLAMP), ("CONV_2D", "ADD"), ["conv_2d0", "add1", "add1"]),
        ((CONV, ADD, CLAMP), ("CONV_2D", "ADD", "RELU"), ["conv_2d0", "add1", "relu2"]),
        ((CONV, CLAMP), ("CONV_2D", "RELU", "RELU6"), ["conv_2d0", None]),
        ((MEAN, DENSE), ("MEAN", "FULLY_CONNECTED"), ["mean0", "fully_connected1"]),
    ],
)
def test_only_certain_ties_are_made(names, codes, expected):
    assert names_of(ran(*names), file_of(*codes)) == expected


def test_operators_of_the_interpreter_are_tied_by_their_numbers():
    file = file_of("CONV_2D", "CUMSUM", "CONV_2D")
    times = [*ran(CONV), OperatorTime("CUMSUM", False, 1, 1.0)]
    times.append(OperatorTime("CONV_2D", False, 2, 1.0))
    assert names_of(times, file) == ["conv_2d0", "cumsum1", "conv_2d2"]


@pytest.mark.parametrize(
    ("times", "codes", "message"),
    [
        (ran(CONV), ("CONV_2D", "CONV_2D"), "ran 1 convolutions .* but the file has 2"),
        (
            ran(DENSE),
            ("DEPTHWISE_CONV_2D",),
            "'Fully Connected.* in the place of the file's DEPTHWISE",
        ),
        ([*ran(CONV), *ran(CONV)], ("CONV_2D", "CONV_2D"), "several parts"),
    ],
)
def test_operators_that_cannot_be_matched_are_refused(times, codes, message):
    with pytest.raises(UntiedOperatorsError, match=message):
        tie_operators(times, file_of(*codes))


def test_a_layer_called_twice_is_named_once(device, tmp_path):
    image = keras.Input((8, 8, 8), name="image")
    shared = layers.Conv2D(8, 3, padding="same", name="shared")
    model = keras.Model(image, shared(layers.ReLU(name="relu")(shared(image))))
    operators = profiled(model, device, tmp_path)
    assert sum("shared" in names for _, names in operators) == 2
    assert all(dataclasses.astuple(time)[3] >= 0 for time, _ in operators)
