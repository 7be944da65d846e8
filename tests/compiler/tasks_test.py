from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import keras
import pytest
from keras import layers

from cprune_tf import graph
from cprune_tf.compiler.building import lowering
from cprune_tf.compiler.database import ProgramDatabase
from cprune_tf.models.resnet import resnet8
from cprune_tf.models.small import mobilenet_small

from . import workloads

_PRINT_KEYS = """
from compiler import workloads
for task in workloads.lowered(workloads.tiny_resnet()).tasks:
    print(task.name, task.key)
"""


@pytest.fixture(scope="module")
def tiny():
    return workloads.lowered(workloads.tiny_resnet())


@pytest.fixture(scope="module")
def resnet():
    return workloads.lowered(resnet8())


def test_resnet8_has_a_task_for_each_subgraph_with_its_layers(resnet):
    stack = [
        ("conv2d_add_relu", ("stem_conv", "stem_bn", "stem_relu")),
        ("conv2d_add_relu", ("stack1_conv1", "stack1_bn1", "stack1_relu1")),
        ("conv2d_add_add_relu", ("stack1_conv2", "stack1_bn2", "stack1_add", "stack1_relu2")),
    ]
    for number in (2, 3):
        own = f"stack{number}"
        shortcut = (f"{own}_shortcut_conv", f"{own}_shortcut_bn", f"{own}_add", f"{own}_relu2")
        stack += [
            ("conv2d_add_relu", (f"{own}_conv1", f"{own}_bn1", f"{own}_relu1")),
            ("conv2d_add", (f"{own}_conv2", f"{own}_bn2")),
            ("conv2d_add_add_relu", shortcut),
        ]
    stack += [
        ("mean", ("pool",)),
        ("matmul_add", ("classifier",)),
        ("softmax", ("classifier",)),
    ]
    assert [(task.kind, task.layers) for task in resnet.tasks] == stack
    assert [task.weight for task in resnet.tasks] == [1] * 12
    names = [task.name for task in resnet.tasks]
    assert len(set(names)) == 12 and names[:3] == [
        "conv2d_add_relu",
        "conv2d_add_relu#2",
        "conv2d_add_add_relu",
    ]


def test_every_call_of_the_module_is_one_subgraph(resnet, tiny):
    for model in (resnet, tiny):
        calls = lowering.subgraph_calls(model.mod)
        parts = [(part.call, part.function) for task in model.tasks for part in task.subgraphs]
        assert sorted(parts) == sorted(calls) and len({call for call, _ in calls}) == len(calls)


def test_equal_workloads_share_a_task_with_the_layers_of_both(tiny):
    shared = workloads.conv_task(tiny, "first")
    assert shared is workloads.conv_task(tiny, "second")
    assert shared.weight == 2 and shared.layers == ("first", "second")
    # A residual addition in the epilogue makes it another workload.
    third = workloads.conv_task(tiny, "third")
    assert third is not shared and third.weight == 1
    assert third.layers == ("third", "add", "relu")
    assert [task.weight for task in tiny.tasks].count(1) == len(tiny.tasks) - 1


@pytest.mark.parametrize(
    "layer",
    [
        layers.Conv2D(16, 3, padding="same", use_bias=False, name="conv"),
        layers.Conv2D(16, 3, padding="valid", use_bias=False, name="conv"),
        layers.Conv2D(16, 3, strides=2, padding="same", use_bias=False, name="conv"),
        layers.Conv2D(16, 1, use_bias=False, name="conv"),
        layers.Conv2D(16, (1, 5), dilation_rate=2, use_bias=False, name="conv"),
        layers.Conv2D(16, 3, groups=4, padding="same", use_bias=False, name="conv"),
        layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="conv"),
    ],
    ids=["same", "valid", "strided", "pointwise", "dilated", "grouped", "depthwise"],
)
def test_flops_of_a_convolution_are_twice_its_macs(layer):
    inputs = keras.Input((12, 12, 8))
    model = keras.Model(inputs, layer.__class__.from_config(layer.get_config())(inputs))
    macs = graph.statistics(model).macs
    assert workloads.conv_task(workloads.lowered(model), "conv").flops == 2 * macs > 0


def test_an_epilogue_adds_an_operation_for_each_output(tiny):
    outputs = 8 * 8 * 16
    macs = outputs * 3 * 3 * 16
    # Bias and relu; with the residual addition one more.
    assert workloads.conv_task(tiny, "first").flops == 2 * macs + 2 * outputs
    assert workloads.conv_task(tiny, "third").flops == 2 * macs + 3 * outputs


def test_keys_are_equal_across_lowerings_and_tell_shapes_apart(tiny):
    again = workloads.lowered(workloads.tiny_resnet())
    assert [(t.name, t.key) for t in again.tasks] == [(t.name, t.key) for t in tiny.tasks]
    assert len({task.key for task in tiny.tasks}) == len(tiny.tasks)
    narrow = workloads.conv_task(workloads.lowered(workloads.conv_model(filters=15)))
    wide = workloads.conv_task(workloads.lowered(workloads.conv_model(filters=16)))
    assert narrow.key != wide.key


def _renamed(layer):
    return layer.__class__.from_config(layer.get_config() | {"name": f"x_{layer.name}"})


def test_keys_do_not_depend_on_weights_or_names(tiny):
    import numpy as np

    model = workloads.tiny_resnet()
    for variable in model.trainable_variables:
        variable.assign(np.zeros(variable.shape))
    renamed = keras.models.clone_model(
        model,
        clone_function=_renamed,
    )
    keys = [task.key for task in tiny.tasks]
    assert [task.key for task in workloads.lowered(model).tasks] == keys
    assert [task.key for task in workloads.lowered(renamed).tasks] == keys


def test_keys_are_equal_in_another_process(tiny):
    tests = pathlib.Path(__file__).resolve().parents[1]
    paths = [str(tests), str(tests.parent), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-c", _PRINT_KEYS],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "PYTHONHASHSEED": "77",
            "CUDA_VISIBLE_DEVICES": "",
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{task.name} {task.key}" for task in tiny.tasks]


def test_latency_of_a_model_with_an_unmeasured_task_names_it(tiny, tmp_path):
    with pytest.raises(KeyError, match=r"conv2d_add_relu \(stem\)"):
        tiny.latency_ms(ProgramDatabase(tmp_path))


def test_latency_of_a_model_counts_shared_tasks_as_often_as_they_run(tiny, tmp_path):
    database = ProgramDatabase(tmp_path)
    for number, task in enumerate(tiny.tasks):
        program = workloads.sampled_programs(task, 1)[0]
        arguments = workloads.arguments(task.mod)
        database.add(task.mod, program.trace, 2.0**number, workloads.LLVM, arguments)
    expected = sum(2.0**number * task.weight for number, task in enumerate(tiny.tasks))
    assert expected > 2.0 ** len(tiny.tasks) - 1
    assert tiny.latency_ms(database) == pytest.approx(expected)


def test_a_depthwise_convolution_has_a_task_of_its_own():
    tasks = workloads.lowered(mobilenet_small(filters=(8, 16))).tasks
    assert [task.layers for task in tasks][:3] == [
        ("stem_conv", "stem_bn", "stem_relu"),
        ("block1_depthwise", "block1_depthwise_bn", "block1_depthwise_relu"),
        ("block1_pointwise", "block1_pointwise_bn", "block1_pointwise_relu"),
    ]


def test_grouped_and_depthwise_convolutions_are_kinds_of_their_own():
    from keras import layers

    image, row = keras.Input((8, 8, 6)), keras.Input((8, 6))
    made = {
        "conv2d_add": layers.Conv2D(6, 3)(image),
        "depthwise_conv2d_add": layers.DepthwiseConv2D(3)(image),
        "grouped_conv2d_add": layers.Conv2D(6, 3, groups=3)(image),
        "conv1d_add": layers.Conv1D(6, 3)(row),
        "depthwise_conv1d_add": layers.DepthwiseConv1D(3)(row),
        "grouped_conv1d_add": layers.Conv1D(6, 3, groups=3)(row),
    }
    lowered = workloads.lowered(keras.Model([image, row], list(made.values())))
    assert [task.kind for task in lowered.tasks] == list(made)
