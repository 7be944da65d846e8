"""Deployments of small networks that need neither importer nor tuner."""

from __future__ import annotations

import keras
import numpy as np

from cprune_tf.deployment import Deployment
from cprune_tf.litert import convert

NUM_CLASSES = 10


def keras_model(num_units, seed=0):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(num_units, activation="relu"),
            keras.layers.Dense(NUM_CLASSES, activation="softmax"),
        ]
    )


def tvm_library(model, path):
    """The same network written in Relax by hand, so that this room tests without the importer."""
    import tvm
    from tvm import relax

    from cprune_tf.devices.local import host_cpu

    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((1, 8, 8, 1), "float32"))
    w1, b1, w2, b2 = (relax.const(np.asarray(values)) for values in model.get_weights())
    with builder.function("main", [x]):
        with builder.dataflow():
            y = relax.op.reshape(x, (1, 64))
            y = relax.op.nn.relu(relax.op.add(relax.op.matmul(y, w1), b1))
            y = relax.op.nn.softmax(relax.op.add(relax.op.matmul(y, w2), b2))
            result = builder.emit_output(y)
        builder.emit_func_output(result)
    target = tvm.target.Target({"kind": "llvm", "mcpu": host_cpu()})
    with target:
        tvm.compile(builder.get(), target=target).export_library(str(path))
    return path


def deploy(name, model, directory):
    tflite = directory / f"{name}.tflite"
    tflite.write_bytes(convert(model))
    return Deployment(name, model, tvm_library(model, directory / f"{name}.so"), tflite)
