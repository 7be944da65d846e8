"""The lowering of convolutions with patterns against Keras."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tvm
from keras import layers
from tvm import relax

from cprune_tf import sparse
from cprune_tf.compiler.importer import import_model
from cprune_tf.compiler.lowerings import find_lowering
from cprune_tf.compiler.lowerings.pattern.geometry import Geometry
from cprune_tf.compiler.tasks import lower_model
from cprune_tf.compiler.tuning.seeding import seed_schedules
from cprune_tf.devices.agent.arrays import random_array

from .. import workloads


def prune(layer, block_size, rate=3.6):
    """Leaves only patterns and kernels of a layer's weights."""
    kernel = np.asarray(layer.kernel)
    patterns = sparse.natural_patterns([kernel], 8)
    kept = sparse.num_kept_at(rate, *kernel.shape[2:], block_size)
    order = sparse.order_filters(kernel, patterns, max(kernel.shape[2] // 4, 1), block_size)
    found = sparse.project(kernel, patterns, kept, block_size=block_size, order=order)
    layer.kernel.assign(kernel * found.mask())


def run(mod, params, target, image):
    machine = relax.VirtualMachine(relax.build(mod, target), tvm.cpu())
    arguments = [tvm.runtime.tensor(np.ascontiguousarray(a)) for a in (image, *params.values())]
    results = machine["main"](*arguments)
    return [result.numpy() for result in ([results] if hasattr(results, "numpy") else results)]


def check(shape, convolutions, block_size, target, batch=1):
    """Convolutions of one image, all in the pattern lowering, compute what Keras does."""
    keras.utils.set_random_seed(block_size)
    image = keras.Input(shape, name="image")
    model = keras.Model(image, [layers.ReLU()(layer(image)) for layer in convolutions])
    for layer in convolutions:
        prune(layer, block_size)
    lowered = lower_model(import_model(model, batch_size=batch), target)
    calls = {
        part.call: "pattern"
        for task in lowered.tasks
        if task.in_lowering("pattern")
        for part in task.subgraphs
    }
    assert len(calls) == len(convolutions)
    values = np.random.default_rng(0).normal(size=(batch, *shape)).astype("float32")
    results = run(lowered.lowered_as(calls), lowered.params, target, values)
    expected = keras.tree.flatten(model(values))
    for layer, actual, wanted in zip(convolutions, results, expected, strict=True):
        error = workloads.relative_error(actual, np.asarray(wanted))
        assert error < 1e-4, layer.get_config()


@pytest.mark.parametrize("block_size", [1, 2, 4, 8])
def test_equals_keras(block_size, target):
    options = [
        {"kernel_size": 3},
        {"kernel_size": 3, "strides": 2},
        {"kernel_size": 3, "strides": (2, 1)},
        {"kernel_size": 3, "dilation_rate": 2},
        {"kernel_size": 3, "padding": "valid"},
        {"kernel_size": 5, "strides": 3},
        {"kernel_size": (1, 3)},
        {"kernel_size": (3, 1), "strides": 2},
        {"kernel_size": (2, 2)},
        {"kernel_size": 1},
        {"kernel_size": 1, "strides": 2},
    ]
    convolutions = [
        layers.Conv2D(24, **{"padding": "same", **chosen}, name=f"conv{number}")
        for number, chosen in enumerate(options)
    ]
    # An odd size, so that vectors and tiles of positions are not filled.
    check((13, 11, 16), convolutions, block_size, target)


def test_a_batch_equals_keras(target):
    check((8, 8, 16), [layers.Conv2D(16, 3, padding="same", name="conv")], 4, target, batch=3)


@pytest.fixture(scope="module")
def one_task(target):
    """The task of a convolution of which every filter keeps little, with other sizes than usual."""
    keras.utils.set_random_seed(0)
    layer = layers.Conv2D(32, 3, padding="same", activation="relu", name="conv")
    model = keras.Sequential([keras.Input((14, 14, 16)), layer])
    prune(layer, 4)
    (task,) = workloads.lowered(model, target).tasks
    return task


def test_seeds_agree_and_their_indices_have_a_range(one_task, target):
    """Programs that are measured compute the same for any indices in their ranges."""
    task = one_task.in_lowering("pattern")
    schedules = seed_schedules(task.mod, target, 3, 0)
    assert len(schedules) == 3
    arguments = task.argument_shapes
    limits = find_lowering("pattern").index_limits(task.mod)
    assert sorted(limits) == [n for n, (dtype, _) in enumerate(arguments) if "int" in dtype]
    values = [
        random_array(dtype, shape, seed=number, limit=limits.get(number))
        for number, (dtype, shape) in enumerate(arguments)
    ]
    results = []
    for schedule in schedules:
        tensors = [tvm.runtime.tensor(value) for value in values]
        tvm.compile(schedule.mod, target)["main"](*tensors)
        results.append(tensors[-1].numpy())
    for result in results[1:]:
        assert workloads.relative_error(result, results[0]) < 1e-5


def test_every_pattern_and_plane_ends_before_its_buffer(target):
    """The largest place that any position reads is inside the plane, for many sizes."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        height, width = rng.integers(3, 40, 2)
        kernel = int(rng.integers(1, 6))
        stride, dilation = ((int(rng.integers(1, 4)), 1), (1, int(rng.integers(1, 4))))[
            rng.integers(2)
        ]
        layer = layers.Conv2D(
            8,
            kernel,
            strides=stride,
            dilation_rate=dilation,
            padding="same" if rng.random() < 0.7 else "valid",
        )
        span = (kernel - 1) * dilation + 1
        if min(height, width) < span:
            continue
        output = layer.compute_output_shape((1, height, width, 8))
        padding = [
            max((out - 1) * stride + span - size, 0) if layer.padding == "same" else 0
            for out, size in zip(output[1:3], (height, width), strict=True)
        ]
        before = tuple(size // 2 for size in padding)
        sizes = Geometry(
            (1, height, width, 8),
            (kernel, kernel, 8, 8),
            output,
            (stride, stride),
            (dilation, dilation),
            before,
            tuple(whole - part for whole, part in zip(padding, before, strict=True)),
        )
        offsets = sizes.offsets(np.arange(kernel * kernel))
        assert offsets.max() + sizes.num_positions <= sizes.plane_size
        # The last output's first entry lies where it should.
        place = (output[1] - 1) * sizes.pitch + output[2] - 1 + int(offsets[0])
        rows = (output[1] - 1) * stride - before[0], (output[2] - 1) * stride - before[1]
        assert sizes.source(place) == rows


def test_dense_and_grouped_weights_have_no_alternative(target):
    keras.utils.set_random_seed(0)
    dense = layers.Conv2D(16, 3, padding="same", name="dense")
    half = layers.Conv2D(16, 3, padding="same", name="half")
    grouped = layers.Conv2D(16, 3, groups=2, padding="same", name="grouped")
    image = x = keras.Input((12, 12, 16))
    for layer in (dense, half, grouped):
        x = layers.ReLU()(layer(x))
    prune(grouped, 4)
    kernel = np.asarray(half.kernel)
    half.kernel.assign(kernel * (np.random.default_rng(0).random(kernel.shape) < 0.7))
    lowered = workloads.lowered(keras.Model(image, x), target)
    assert all(task.in_lowering("pattern") is None for task in lowered.tasks)


def test_layers_of_equal_sizes_are_one_task(target):
    """Kernels that stay are data, so measurements of one layer hold for all like it."""
    keras.utils.set_random_seed(0)
    parts = [layers.Conv2D(16, 3, padding="same", name=f"conv{n}") for n in range(3)]
    image = x = keras.Input((12, 12, 16))
    for layer in parts:
        x = layers.ReLU()(layer(x))
    for layer in parts:
        kernel = np.zeros((3, 3, 16, 16), np.float32)
        rng = np.random.default_rng(int(layer.name[-1]))
        for block in range(4):
            channels = rng.permutation(16)[:4]
            entries = np.stack([rng.permutation(9)[:4] for _ in channels])
            entries[:2, :] = [[1, 3, 4, 5], [0, 1, 3, 4]]
            flat = kernel.reshape(9, 16, 16)
            for channel, own in zip(channels, entries[[0, 1, 0, 1]], strict=True):
                flat[own, channel, block * 4 : block * 4 + 4] = rng.normal(size=(4, 4))
        layer.kernel.assign(kernel)
    (task,) = workloads.lowered(keras.Model(image, x), target).tasks
    assert task.weight == 3 and task.in_lowering("pattern")
