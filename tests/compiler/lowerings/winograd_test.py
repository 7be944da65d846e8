"""Winograd's lowering against Keras, and how a model chooses between lowerings."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest
import tvm
from keras import layers
from tvm import relax
from tvm.s_tir import Schedule

from cprune_tf.compiler import tvm_internals
from cprune_tf.compiler.building import lowering
from cprune_tf.compiler.database import ProgramDatabase
from cprune_tf.compiler.executable import build_library
from cprune_tf.compiler.lowerings.winograd import convolution as winograd
from cprune_tf.compiler.structure import program_structure
from cprune_tf.compiler.tuning.search_space import tune_context

from .. import workloads

IMAGE = np.random.default_rng(0).normal(size=(1, 13, 12, 16)).astype("float32")


def model_of(*steps, shape=(13, 12, 16)):
    keras.utils.set_random_seed(1)
    inputs = x = keras.Input(shape, name="image")
    for step in steps:
        x = step(x)
    return keras.Model(inputs, x)


def run(mod, params, target, *inputs):
    """Runs a lowered module without any tuning."""
    executable = relax.build(mod, target)
    machine = relax.VirtualMachine(executable, tvm.cpu())
    arguments = [tvm.runtime.tensor(np.ascontiguousarray(a)) for a in (*inputs, *params.values())]
    return machine["main"](*arguments).numpy()


@pytest.mark.parametrize(
    ("shape", "padding", "tile"),
    [
        ((16, 16, 16), "same", 4),
        ((8, 12, 8), "same", 4),
        ((7, 7, 16), "same", 4),  # two tiles of 4 and an edge that is dropped
        ((13, 12, 16), "same", 4),
        ((10, 10, 8), "valid", 4),
        ((6, 6, 8), "same", 2),  # 9 tiles of 2 need fewer products than 4 of 4
    ],
)
def test_equals_keras(shape, padding, tile, target):
    model = model_of(
        layers.Conv2D(24, 3, padding=padding, activation="relu", name="conv"), shape=shape
    )
    lowered = workloads.lowered(model, target)
    (task,) = lowered.tasks
    (other,) = task.alternatives
    assert winograd.tile_of(other.mod) == tile
    mod = lowered.lowered_as({task.subgraphs[0].call: "winograd"})
    image = np.random.default_rng(0).normal(size=(1, *shape)).astype("float32")
    expected = np.asarray(model(image))
    actual = run(mod, lowered.params, target, image)
    assert workloads.relative_error(actual, expected) < 1e-4


@pytest.mark.parametrize(
    "layer",
    [
        layers.Conv2D(16, 3, strides=2, padding="same", name="conv"),
        layers.Conv2D(16, 3, dilation_rate=2, padding="same", name="conv"),
        layers.Conv2D(16, 3, groups=2, padding="same", name="conv"),
        layers.Conv2D(16, 5, padding="same", name="conv"),
        layers.Conv2D(16, 1, name="conv"),
        layers.Conv2D(4, 3, padding="same", name="conv"),  # transforms would cost more
        layers.DepthwiseConv2D(3, padding="same", name="conv"),
    ],
    ids=["strided", "dilated", "grouped", "5x5", "1x1", "few filters", "depthwise"],
)
def test_other_convolutions_have_no_alternative(layer, target):
    lowered = workloads.lowered(model_of(layer), target)
    assert all(task.alternatives == () for task in lowered.tasks)


def test_an_alternative_computes_the_same_layers_with_the_whole_epilogue(target):
    lowered = workloads.lowered(workloads.tiny_resnet(), target)
    for layer in ("first", "third"):
        task = workloads.conv_task(lowered, layer)
        (other,) = task.alternatives
        assert (task.lowering, other.lowering) == ("direct", "winograd")
        assert other.subgraphs == task.subgraphs and other.flops == task.flops
        module = lowered.lowered_as({part.call: "winograd" for part in task.subgraphs})
        parts = [part.call for part in task.subgraphs]
        functions = [f for call, f in lowering.subgraph_calls(module) if call in parts]
        assert len(functions) == task.weight
        for function in functions:
            alone = tvm_internals.normalize_task_module(module[function])
            assert tvm_internals.structural_hash(alone) == other.key
    # "third" ends in an addition and a ReLU, which are fused either way.
    assert {"third", "add", "relu"} <= set(other.layers)


def test_a_shared_layer_is_told_apart_by_its_input(target):
    shared = layers.Conv2D(16, 3, padding="same", name="shared")
    x = keras.Input((16, 16, 16))
    y = layers.MaxPooling2D(name="pool")(shared(x))
    lowered = workloads.lowered(keras.Model(x, shared(y)), target)
    large, small = (task for task in lowered.tasks if task.alternatives)
    heights = [task.argument_shapes[0][1][1] for task in (large, small)]
    assert heights == [16, 8] and large.layers[0] == small.layers[0] == "shared"
    # Either call can be lowered for itself.
    for task in (large, small):
        (part,) = task.subgraphs
        own = {call: f for call, f in lowering.subgraph_calls(lowered.mod) if call != part.call}
        module = lowered.lowered_as({part.call: "winograd"})
        functions = dict(lowering.subgraph_calls(module))
        assert all(
            tvm_internals.structural_equal(module[functions[call]], lowered.mod[function])
            for call, function in own.items()
        )
        changed = tvm_internals.normalize_task_module(module[functions[part.call]])
        assert tvm_internals.structural_hash(changed) == task.alternatives[0].key


def sampled(task, target):
    """A program of a task, nothing measured."""
    (space,) = tune_context(task.mod, target).generate_design_space()
    return space.trace


def test_its_programs_have_a_structure_along_the_filters(target):
    model = model_of(layers.Conv2D(48, 3, padding="same", name="conv"))
    (other,) = workloads.conv_task(workloads.lowered(model, target)).alternatives
    program = workloads.Program(sampled(other, target), 1.0, None)
    structure = program_structure(program, other.mod)
    assert structure.filters == 48
    assert np.prod(structure.compute) == 48 and np.prod(structure.epilogue) == 48
    assert 48 % structure.step == 0


def test_more_threads_share_blocks_of_tiles(target):
    two = tvm.target.Target({"kind": "llvm", "num-cores": 2})
    for chosen, height, parallel in ((target, 12, False), (two, 12, True), (two, 13, True)):
        model = model_of(layers.Conv2D(16, 3, padding="same"), shape=(height, 12, 16))
        (task,) = workloads.lowered(model, chosen).tasks
        (other,) = task.alternatives
        (space,) = tune_context(other.mod, chosen).generate_design_space()
        assert ("T.parallel" in space.mod.script()) is parallel


@pytest.mark.parametrize("faster", ["direct", "winograd"])
def test_the_library_holds_whatever_was_measured_to_be_faster(faster, target, tmp_path):
    """Both lowerings get one program each, with made-up latencies; the outputs stay right."""
    model = workloads.tiny_resnet()
    lowered = workloads.lowered(model, target)
    database = ProgramDatabase(tmp_path / "tuning")
    for task in lowered.tasks:
        for kind in task.lowerings:
            space = tune_context(kind.mod, target).generate_design_space()
            latency_ms = 1.0 if kind.lowering == faster else 2.0
            schedule = Schedule(kind.mod)
            space[-1].trace.apply_to_schedule(schedule, remove_postproc=True)
            database.add(
                kind.mod, schedule.trace, latency_ms, target, workloads.arguments(kind.mod)
            )
    chosen = workloads.conv_task(lowered, "first").fastest(database)
    assert chosen is not None and chosen[0].lowering == faster
    build_library(lowered, database, tmp_path / "model.so")
    machine = relax.VirtualMachine(tvm.runtime.load_module(str(tmp_path / "model.so")), tvm.cpu())
    image = np.random.default_rng(1).normal(size=(1, 8, 8, 4)).astype("float32")
    actual = machine["main"](tvm.runtime.tensor(image)).numpy()
    assert workloads.relative_error(actual, np.asarray(model(image))) < 1e-4


def test_a_task_without_programs_has_no_fastest_lowering(target, tmp_path):
    task = workloads.conv_task(workloads.lowered(workloads.conv_model(), target))
    database = ProgramDatabase(tmp_path)
    assert task.fastest(database) is None and task.best_latency_ms(database) is None
    assert dataclasses.replace(task, alternatives=()).lowerings[0].mod is task.mod
