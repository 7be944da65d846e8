"""Runs models with random weights through TVM and compares their outputs with Keras."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tvm
from tvm import relax

from cprune_tf.compiler.building.lowering import lower, subgraph_calls
from cprune_tf.compiler.importer import ImportedModel, provenance
from cprune_tf.graph.flat import flatten
from cprune_tf.graph.parameters import Parameter

# Without LLVM's more expensive passes, compilation takes half the time; results are the same.
TARGET = {"kind": "llvm", "opt-level": 1}


def compile_imported(
    imported: ImportedModel,
) -> Callable[[Sequence[np.ndarray]], list[np.ndarray]]:
    """Compiles for the CPU without tuning; returns a function from inputs to outputs."""
    executable = tvm.compile(imported.mod, target=tvm.target.Target(TARGET))
    machine = relax.VirtualMachine(executable, tvm.cpu())
    params = [tvm.runtime.tensor(value) for value in imported.params.values()]

    def run(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        tensors = [tvm.runtime.tensor(np.ascontiguousarray(array)) for array in inputs]
        outputs = machine["main"](*tensors, *params)
        if isinstance(outputs, tvm.runtime.Tensor):
            outputs = [outputs]
        return [output.numpy() for output in outputs]

    return run


def randomize(model: keras.Model, seed: int = 0) -> None:
    """Gives every weight a random value, so that ignoring a weight changes the outputs."""
    rng = np.random.default_rng(seed)
    for variable in model.variables:
        name, shape = variable.name, variable.shape
        if "seed" in name or not np.issubdtype(np.dtype(str(variable.dtype)), np.floating):
            continue
        if "variance" in name:
            value = rng.uniform(0.5, 2.0, shape)
        elif "gamma" in name or "scale" in name:
            value = rng.uniform(0.5, 1.5, shape)
        elif len(shape) >= 2:
            fan_in = max(np.prod(shape[:-1]), 1)
            value = rng.normal(0.0, np.sqrt(2.0 / fan_in), shape)
        else:
            value = rng.normal(0.0, 0.3, shape)
        variable.assign(value)


def random_inputs(model: keras.Model, batch_size: int = 1, seed: int = 1) -> list[np.ndarray]:
    """Creates one array per input; integers are below 8, so they are valid for all embeddings."""
    rng = np.random.default_rng(seed)
    inputs = []
    for tensor in model.inputs:
        shape = (batch_size, *tensor.shape[1:])
        if "int" in str(tensor.dtype):
            inputs.append(rng.integers(0, 8, shape).astype(str(tensor.dtype)))
        else:
            inputs.append(rng.normal(0.0, 1.0, shape).astype("float32"))
    return inputs


def relative_errors(model: keras.Model, inputs: Sequence[np.ndarray], outputs) -> list[float]:
    """Returns, for every output, the largest difference from Keras over Keras's largest value."""
    expected = model(list(inputs) if len(inputs) > 1 else inputs[0], training=False)
    expected = [tensor.numpy() for tensor in keras.tree.flatten(expected)]
    assert [array.shape for array in expected] == [array.shape for array in outputs]
    return [
        float(np.abs(keras_output - output).max() / max(np.abs(keras_output).max(), 1e-6))
        for keras_output, output in zip(expected, outputs, strict=True)
    ]


def check_provenance(imported: ImportedModel, model: keras.Model) -> None:
    """Asserts that after fusion all layers with weights are found, and only layers that compute."""
    graph = flatten(model)
    without_work = {call.name for call in graph.calls if isinstance(call.operation, Parameter)}
    fused = lower(imported.mod, tvm.target.Target(TARGET))
    calls = provenance(fused, imported)
    assert list(calls) == [name for name, _ in subgraph_calls(fused)]
    fused_layers = {layer for layers in calls.values() for layer in layers}
    computing_layers = {layer for layers in imported.layers_of_var.values() for layer in layers}
    weighted_layers = {layer for layers in imported.layers_of_param.values() for layer in layers}
    weighted_layers -= without_work
    assert all(calls.values()) and weighted_layers <= fused_layers <= computing_layers
