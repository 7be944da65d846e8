"""Training data are streamed: a set larger than a bound is read in less memory than that."""

from __future__ import annotations

import os
import subprocess
import sys

# 1 GiB of images in 512 batches; beside them, TensorFlow and the few batches that are ahead.
_PROGRAM = """
import resource
import sys

import numpy as np
import tensorflow as tf
from cprune_tf.data import from_datasets, from_samples
from cprune_tf.data.interface import Interface, Port

BATCH = np.zeros((8, 128, 128, 4), np.float32), np.zeros(8, np.int64)
SPEC = tuple(tf.TensorSpec(array.shape, array.dtype) for array in BATCH)

def stream(count):
    batches = lambda: (BATCH for _ in range(count))
    return tf.data.Dataset.from_generator(batches, output_signature=SPEC)

def read(count):
    few = stream(1)
    if sys.argv[1] == "images":
        return from_datasets(stream(count), few, num_classes=2)
    interface = Interface((Port("x", BATCH[0].shape[1:], "float32"),), (Port("y", (), "int64"),))
    return from_samples(interface, stream(count), few)

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

read(4)
before = peak()
data = read(512)
for _ in data.train_dataset(0):
    pass
print(data.num_train, peak() - before)
"""
_BOUND_MIB = 256


def _growth_mib(kind: str) -> float:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, kind],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    count, growth = done.stdout.split()
    assert int(count) == 4096
    return float(growth)


def test_images_of_a_gibibyte_are_read_in_a_quarter_of_it():
    assert _growth_mib("images") < _BOUND_MIB


def test_samples_of_a_gibibyte_are_read_in_a_quarter_of_it():
    assert _growth_mib("samples") < _BOUND_MIB
