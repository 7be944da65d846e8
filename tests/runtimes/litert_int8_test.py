"""The runtime LiteRT at int8: the operators of files whose ranges are made up, and real files."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from cprune_tf import graph, litert
from cprune_tf.config import QuantizationConfig, TuningConfig
from cprune_tf.devices import open_device
from cprune_tf.runtimes import RuntimeOptions, open_runtime
from cprune_tf.runtimes.litert import LitertRuntime
from tests.runtimes.litert_test import check_resized_tasks, net

pytest.importorskip("ai_edge_quantizer")


@pytest.fixture(scope="module")
def model():
    return net()


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).random((40, 16, 16, 3), np.float32)


@pytest.fixture(scope="module")
def runtime(images, tmp_path_factory):
    options = RuntimeOptions(
        "int8",
        tmp_path_factory.mktemp("int8"),
        TuningConfig(),
        quantize=lambda model: litert.quantize(model, images).content,
    )
    with open_device("local") as device, open_runtime("litert", device, options) as opened:
        yield opened


@pytest.fixture(scope="module")
def prepared(runtime, model):
    return runtime.prepare(model)


def test_operators_compute_in_int8_and_know_their_layers(prepared):
    task_of = {layer: task for task in prepared.tasks for layer in task.layers}
    for name in ("strided", "depthwise", "pointwise", "scale", "pool"):
        assert task_of[name].argument_shapes[-1][0] == "int8", name
    assert task_of["strided"].kind == "pad + conv_2d(relu, stride 2x2, valid)"
    # What turns the input into int8 and the output back belongs to the layers beside.
    casts = {
        task.kind.split("(")[0]: task.layers for task in prepared.tasks if "quant" in task.kind
    }
    assert casts["quantize"] == ("stem",) and casts["dequantize"] == ("head",)


def test_large_weights_are_constants_wherever_the_file_has_them(runtime):
    image = keras.Input((8, 8, 128))
    model = keras.Model(image, layers.Conv2D(512, 3, name="large")(image))
    task = next(task for task in runtime.prepare(model).tasks if task.kind.startswith("conv_2d"))
    # Without constant weights, XNNPACK leaves the operator to slower kernels.
    assert [tensor.is_constant for tensor in task.workload.tensors] == [False, True, True, False]


def test_a_resized_task_is_that_of_the_smaller_model(runtime, prepared, model):
    check_resized_tasks(runtime, prepared, model, graph.analyze(model))


def test_every_operator_runs_alone_and_all_are_timed_once(runtime, prepared):
    runtime.tune(prepared, 1)
    assert runtime.tasks_ms(prepared) > 0
    runtime.price(prepared, prepared, lambda task: pytest.fail(task.name))


def test_the_built_file_has_the_ranges_of_the_images(runtime, prepared, model, images, tmp_path):
    path = tmp_path / "int8.tflite"
    runtime.build(prepared, path)
    assert path.read_bytes() == litert.quantize(model, images).content
    (outputs,) = runtime.device.run_model(runtime.file(path, model), images)
    np.testing.assert_allclose(outputs, model.predict(images, verbose=0), atol=0.03)


def test_a_model_of_lower_precision_has_the_operators_of_its_float32_copy(runtime):
    image = keras.Input((8, 8, 4))
    x = layers.Conv2D(8, 3, dtype="mixed_float16", name="half")(image)
    model = keras.Model(image, layers.Dense(3, name="head")(layers.Flatten()(x)))
    assert "half" in {layer for task in runtime.prepare(model).tasks for layer in task.layers}


@pytest.mark.parametrize(
    ("keep_float", "message"),
    [(("nowhere",), r"pattern 'nowhere', which matches no layer"), (("*",), r"Nothing of model")],
)
def test_what_cannot_be_quantised_is_told_before_a_run(model, tmp_path, keep_float, message):
    settings = QuantizationConfig(keep_float=keep_float)
    options = RuntimeOptions("int8", tmp_path, TuningConfig(), quantization=settings)
    with pytest.raises(litert.ConversionError, match=message):
        LitertRuntime.check(model, options)
