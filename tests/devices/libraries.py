"""Real libraries for the tests: native functions that misbehave, and small compiled models."""

from __future__ import annotations

import shutil
import subprocess
import sys

import numpy as np

# What TVM calls in a library: `__tvm_ffi_NAME`. "num_tasks" lasts 10 ms for each thread that a
# parallel loop gets, so that its duration tells their number.
_NATIVE_SOURCE = """
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

typedef struct { void* sync_handle; int32_t num_task; } Environment;
typedef int (*Body)(int task_id, Environment* environment, void* data);
__attribute__((weak)) int (*__TVMBackendParallelLaunch)(Body body, void* data, int num_task);

static int32_t num_task;
static int remember(int task_id, Environment* environment, void* data) {
  (void)data;
  if (task_id == 0) num_task = environment->num_task;
  return 0;
}

#define KERNEL(name)                                                                    \\
  int __tvm_ffi_##name(void* self, const void* args, int32_t num_args, void* result)

KERNEL(nothing) { return 0; }
KERNEL(doze) { usleep(100000); return 0; }
KERNEL(abort) { abort(); }
KERNEL(segfault) { *(volatile int*)8 = 1; return 0; }
KERNEL(hang) { for (;;) usleep(1000); }
KERNEL(num_tasks) {
  __TVMBackendParallelLaunch(remember, 0, 0);
  usleep(10000 * num_task);
  return 0;
}
"""


def build_native(directory):
    """Compiles the misbehaving functions with whatever C compiler is here."""
    compiler = shutil.which("cc")
    command = [compiler] if compiler else [sys.executable, "-m", "ziglang", "cc"]
    source, library = directory / "native.c", directory / "native.so"
    source.write_text(_NATIVE_SOURCE, encoding="utf-8")
    subprocess.run([*command, "-shared", "-fPIC", "-o", library, source], check=True)
    return library


def build_native_for_aarch64(directory):
    """The same for another machine; without its C library, which takes a minute to make."""
    from cprune_tf.compiler.building.linker import link_shared

    source, compiled = directory / "native.c", directory / "native.o"
    source.write_text(_NATIVE_SOURCE, encoding="utf-8")
    command = [sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-gnu"]
    subprocess.run([*command, "-c", "-fPIC", "-o", compiled, source], check=True)
    link_shared(str(directory / "native.so"), [str(compiled)], "aarch64")
    return directory / "native.so"


def export(module, path):
    """Compiles a Relax or TIR module for this machine."""
    import tvm

    from cprune_tf.devices.local import host_cpu

    target = tvm.target.Target({"kind": "llvm", "mcpu": host_cpu()})
    with target:
        tvm.compile(module, target=target).export_library(str(path))
    return path


def dense_module(num_inputs, num_units, *, weights=None, two_outputs=False):
    """main(x [1, num_inputs]) -> relu(x @ weights) [1, num_units], or that and its double."""
    from tvm import relax

    if weights is None:
        weights = np.random.default_rng(0).random((num_inputs, num_units), dtype=np.float32)
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((1, num_inputs), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            y = builder.emit(relax.op.nn.relu(relax.op.matmul(x, relax.const(weights))))
            outputs = [y, builder.emit(relax.op.add(y, y))] if two_outputs else y
            result = builder.emit_output(outputs)
        builder.emit_func_output(result)
    return builder.get()
