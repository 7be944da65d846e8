"""Workloads for the compiler's tests: from tiny Keras models, and without Keras at all."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import numpy as np
import tvm
from tvm import relax
from tvm.s_tir import Schedule
from tvm.s_tir import meta_schedule as ms

from cprune_tf.compiler import tvm_internals
from cprune_tf.compiler.database import Program
from cprune_tf.compiler.session import CompilerSession
from cprune_tf.compiler.tasks import LoweredModel, Task, lower_model
from cprune_tf.compiler.tuning.search_space import random_strategy
from cprune_tf.config import TuningConfig

LLVM = tvm.target.Target({"kind": "llvm", "num-cores": 1})
# One round and no evolution: a few seconds for each task.
FEW_TRIALS = TuningConfig(
    trials_per_task=6,
    trials_per_round=6,
    population_size=16,
    programs_per_task=4,
    build_timeout_sec=120.0,
    run_timeout_sec=60.0,
    num_build_workers=2,
)


@dataclasses.dataclass(frozen=True)
class Tuned:
    """A tiny model of which every task has measured programs."""

    model: Any
    lowered: LoweredModel
    session: CompilerSession
    directory: pathlib.Path


def dense_workload(size: int = 16) -> tvm.IRModule:
    """relu(x [1, size] @ w [size, size]), as a database key; no Keras involved."""
    builder = relax.BlockBuilder()
    x, w = (
        relax.Var(name, relax.TensorType(shape, "float32"))
        for name, shape in (("x", (1, size)), ("w", (size, size)))
    )
    with builder.function("main", [x, w]):
        with builder.dataflow():
            y = builder.emit(relax.op.nn.relu(relax.op.matmul(x, w)))
            result = builder.emit_output(y)
        builder.emit_func_output(result)
    passes = [
        relax.transform.LegalizeOps(),
        relax.transform.AnnotateTIROpPattern(),
        relax.transform.FuseOps(),
        relax.transform.FuseTIR(),
    ]
    mod = tvm.transform.Sequential(passes)(builder.get())
    functions = [f for f in mod.functions.values() if isinstance(f, tvm.tirx.PrimFunc)]
    assert len(functions) == 1
    return tvm_internals.normalize_task_module(functions[0])


def arguments(mod: tvm.IRModule) -> list[Any]:
    """MetaSchedule's description of a workload's arguments."""
    return list(ms.arg_info.ArgInfo.from_entry_func(mod, remove_preproc=True))


def lowered(model: Any, target: tvm.target.Target = LLVM) -> LoweredModel:
    """A Keras model with its tasks."""
    from cprune_tf.compiler.importer import import_model

    return lower_model(import_model(model), target)


def conv_model(
    channels: int = 8,
    filters: int = 16,
    *,
    size: int = 8,
    kernel: int = 3,
    relu: bool = True,
    bias: bool = True,
    residual: bool = False,
) -> Any:
    """One convolution "conv"; with `residual`, a second input of its output's shape is added."""
    import keras
    from keras import layers

    inputs = [keras.Input((size, size, channels), name="image")]
    x = layers.Conv2D(filters, kernel, padding="same", use_bias=bias, name="conv")(inputs[0])
    if residual:
        inputs.append(keras.Input((size, size, filters), name="other"))
        x = layers.Add(name="add")([x, inputs[1]])
    if relu:
        x = layers.ReLU(name="relu")(x)
    return keras.Model(inputs if residual else inputs[0], x)


def tiny_resnet() -> Any:
    """A stem, two equal convolutions, one that ends in a residual addition, and a classifier."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(5)
    inputs = keras.Input((8, 8, 4), name="image")
    stem = layers.Conv2D(16, 3, padding="same", activation="relu", name="stem")(inputs)
    x = layers.Conv2D(16, 3, padding="same", activation="relu", name="first")(stem)
    x = layers.Conv2D(16, 3, padding="same", activation="relu", name="second")(x)
    x = layers.Conv2D(16, 3, padding="same", name="third")(x)
    x = layers.ReLU(name="relu")(layers.Add(name="add")([x, stem]))
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    model = keras.Model(inputs, layers.Dense(4, activation="softmax", name="classifier")(x))
    rng = np.random.default_rng(5)
    for variable in model.trainable_variables:
        fan_in = np.prod(variable.shape[:-1]) if len(variable.shape) > 1 else 100.0
        variable.assign(rng.normal(0.0, np.sqrt(2.0 / fan_in), variable.shape))
    return model


def conv_task(model: LoweredModel, layer: str = "conv") -> Task:
    """The task of a layer that must have one; the costlier where it is part of several."""
    return max((task for task in model.tasks if layer in task.layers), key=lambda task: task.flops)


def direct_task(model: LoweredModel, layer: str = "conv") -> Task:
    """The same without other lowerings, for tests that count programs."""
    return dataclasses.replace(conv_task(model, layer), alternatives=())


def sampled_programs(
    task: Task, count: int, *, target: tvm.target.Target = LLVM, seed: int = 1
) -> list[Program]:
    """Random valid programs of a task, with made-up increasing latencies; nothing is measured."""
    strategy = random_strategy(count, target)
    context = tvm_internals.LightTuneContext(task.mod, target, strategy, num_threads=1, seed=seed)
    context.pre_tuning(
        count,
        count,
        context.generate_design_space(),
        ms.database.MemoryDatabase(),
        ms.cost_model.RandomModel(),
    )
    candidates = context.generate_measure_candidates()
    return [
        Program(candidate.sch.trace, 1.0 + index, None)
        for index, candidate in enumerate(candidates)
    ]


def hand_made(mod: tvm.IRModule, splits: dict[str, tuple[int, list[int]]]) -> Program:
    """A program that splits one loop each of some blocks.

    Args:
        mod: The workload.
        splits: By block: (position of the loop, its tile factors).
    """
    schedule = Schedule(mod)
    for name, (position, factors) in splits.items():
        loop = schedule.get_loops(schedule.get_sblock(name))[position]
        schedule.split(loop, factors)
    return Program(schedule.trace, 1.0, None)


def some_trace(mod: tvm.IRModule) -> Any:
    """The shortest trace that MetaSchedule takes for a program: one split, nothing decided."""
    schedule = Schedule(mod)
    anchor = schedule.get_child_blocks(schedule.get_sblock("root"))[0]
    schedule.split(schedule.get_loops(anchor)[1], [None, 2])
    return schedule.trace


def relative_error(result: np.ndarray, expected: np.ndarray) -> float:
    """The largest absolute difference over the largest expected value."""
    assert result.shape == expected.shape
    return float(np.abs(result - expected).max() / max(np.abs(expected).max(), 1e-6))


def block_names(mod: tvm.IRModule) -> list[str]:
    """A workload's blocks in order."""
    schedule = Schedule(mod)
    blocks = schedule.get_child_blocks(schedule.get_sblock("root"))
    return [schedule.get(block).name_hint for block in blocks]


def tiles(program: Program) -> list[tuple[int, ...]]:
    """A program's tile-size decisions in order."""
    trace = program.trace
    return [
        tuple(int(factor) for factor in trace.decisions[instruction])
        for instruction in trace.insts
        if instruction.kind.name == "SamplePerfectTile"
    ]


def with_tiles(program: Program, index: int, factors: list[int]) -> Program:
    """The same program with another decision for one of its tile sizes."""
    sampled = [inst for inst in program.trace.insts if inst.kind.name == "SamplePerfectTile"]
    trace = program.trace.with_decision(sampled[index], factors, remove_postproc=True)
    return Program(trace, program.latency_ms, None)
