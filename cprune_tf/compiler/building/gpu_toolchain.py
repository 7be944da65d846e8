"""Finds what this machine needs to compile for a GPU, and tries it before any tuning.

TVM compiles CUDA code with NVRTC, or with nvcc if TVM_CUDA_COMPILE_MODE says so. It looks for
CUDA's headers only in an installed toolkit. NVIDIA's wheels have the headers too, but in another
folder, which is passed to TVM here.

TVM compiles in its runtime for CUDA. If that runtime is not loaded, TVM leaves the source in the
library, to be compiled on the device. A board should not have to do that, and the measured times
must not include it.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import pathlib
import platform
import shlex
import tempfile
from collections.abc import Iterator, Sequence

import tvm

from cprune_tf.compiler import tvm_internals
from cprune_tf.compiler.building import linker
from cprune_tf.devices.agent import accelerators
from cprune_tf.errors import UserError

_ROOT, _OPTIONS, _COMPILER = "CUDA_PATH", "TVM_CUDA_NVRTC_EXTRA_OPTS", "TVM_CUDA_COMPILE_MODE"
_EMPTY_KERNEL = 'extern "C" __global__ void empty(float* x) { x[threadIdx.x] = 0.0f; }'


class ToolchainError(UserError, RuntimeError):
    """This machine cannot compile for the target; the message says what is missing."""


def check_toolchain(target: tvm.target.Target) -> None:
    """Checks that this machine can compile for a target; for CUDA, compiles an empty kernel.

    Args:
        target: The target to compile for; a CPU needs nothing.

    Raises:
        ToolchainError: If this machine cannot compile for the target.
    """
    if not tvm_internals.is_gpu(target):
        return
    kind = target.kind.name
    if tvm.get_global_func(f"target.build.{kind}", allow_missing=True) is None:
        raise ToolchainError(
            f"TVM on this machine is built without {kind} and cannot compile for gpu={kind}. Build "
            f"TVM with USE_{kind.upper()}=ON and install it here in place of apache-tvm."
        )
    if kind == "cuda":
        _load_cuda_runtime()
        _compile_empty_kernel(str(target.attrs["arch"]))


@contextlib.contextmanager
def toolchain(target: tvm.target.Target) -> Iterator[None]:
    """Lets TVM find the files in NVIDIA's wheels while it compiles for a target.

    Sets environment variables and restores them when the block ends.

    Args:
        target: The target that is compiled for; nothing changes for a CPU.

    Raises:
        ToolchainError: If TVM's runtime for CUDA cannot be loaded.
    """
    variables: dict[str, str] = {}
    if target.kind.name == "cuda":
        _load_cuda_runtime()
        variables = _wheel_variables()
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _wheel_variables() -> dict[str, str]:
    """The variables that lead TVM to the headers in NVIDIA's wheels; none if a toolkit is named."""
    spec = importlib.util.find_spec("nvidia") if _ROOT not in os.environ else None
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for header in sorted(pathlib.Path(folder).glob("*/include/cuda_runtime.h")):
            # In a toolkit TVM finds this folder by itself, in the wheels it does not.
            libcudacxx = f"-I{header.parent / 'cccl'}"
            options = f"{os.environ.get(_OPTIONS, '')} {shlex.quote(libcudacxx)}".strip()
            return {_ROOT: str(header.parents[1]), _OPTIONS: options}
    return {}


def _load_cuda_runtime() -> None:
    """Loads TVM's runtime for CUDA, also on a machine without NVIDIA's driver."""
    if _has_cuda_runtime():
        return
    try:
        accelerators.load_runtime(tvm, "cuda")
    except OSError:
        _load_without_driver()
    if not _has_cuda_runtime():
        raise ToolchainError(
            "TVM on this machine is built without a runtime for CUDA, which it compiles with. "
            "Install the apache-tvm wheel for Linux, or build TVM with USE_CUDA=ON."
        )


def _has_cuda_runtime() -> bool:
    return tvm.get_global_func("ffi.Module.create.cuda", allow_missing=True) is not None


def _load_without_driver() -> None:
    """Loads TVM's runtime for CUDA with an empty library in place of NVIDIA's driver.

    Compiling calls no function of the driver, and functions that are not called need not exist.
    """
    path = pathlib.Path(tvm.__file__).parent / "lib" / "libtvm_runtime_cuda.so"
    loader = ctypes.CDLL(None)
    loader.dlopen.restype, loader.dlerror.restype = ctypes.c_void_p, ctypes.c_char_p
    with tempfile.TemporaryDirectory() as folder:
        ctypes.CDLL(_empty_driver(folder), ctypes.RTLD_GLOBAL)
        # ctypes would resolve all functions at once; RTLD_LAZY resolves them when they are called.
        if not loader.dlopen(os.fsencode(path), os.RTLD_LAZY | os.RTLD_LOCAL):
            message = (loader.dlerror() or b"").decode(errors="replace")
            raise ToolchainError(
                f"TVM's runtime for CUDA, which it compiles with, cannot be loaded: {message}. Run "
                "`pip install 'cprune_tf[cuda]'`, which brings libcudart."
            )


def _empty_driver(folder: str) -> str:
    """Writes a library without functions whose soname is that of NVIDIA's driver."""
    path = os.path.join(folder, "libcuda.so")

    def link(output: str, objects: Sequence[str], **_: object) -> None:
        linker.link_shared(output, ["-soname", "libcuda.so.1", *objects], platform.machine())

    linker.export_empty(path, tvm.target.Target("llvm"), link)
    return path


def _compile_empty_kernel(arch: str) -> None:
    from tvm.support import nvcc

    compiler = os.environ.get(_COMPILER, "nvrtc").lower()
    binary = "fatbin" if compiler == "nvcc" else "cubin"
    target = tvm.target.Target({"kind": "cuda", "arch": arch})
    try:
        with target, toolchain(target):
            nvcc.compile_cuda(_EMPTY_KERNEL, binary, compiler=compiler)
    except Exception as error:  # NVIDIA's bindings raise whatever their loader says
        message = " ".join(str(error).split())[-300:]
        raise ToolchainError(
            f"CUDA code for {arch} cannot be compiled on this machine with {compiler}: {message}. "
            "Run `pip install 'cprune_tf[cuda]'` (cuda-bindings, nvidia-cuda-nvrtc, "
            "nvidia-cuda-runtime, nvidia-cuda-cccl); or install NVIDIA's CUDA toolkit, name its "
            f"folder in {_ROOT}, and set {_COMPILER}=nvcc to use its nvcc, which needs a C++ "
            "compiler."
        ) from error
