"""What this machine needs to compile for a GPU: found, handed to TVM, and tried before any tuning.

TVM compiles CUDA with NVRTC (or with nvcc, where TVM_CUDA_COMPILE_MODE says so) and looks for
CUDA's headers in an installed toolkit only. NVIDIA's wheels have all of it, in another place.

It does so in its runtime for CUDA. Where that is not loaded, TVM leaves the source in the library,
to be compiled on the device; a board should not have to, and its times are not for that.
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
    """This machine cannot compile for the target; says what is missing."""


def check_toolchain(target: tvm.target.Target) -> None:
    """Makes sure that code can be compiled for a target; CUDA's by compiling an empty kernel.

    Args:
        target: What will be compiled for; nothing is needed for a CPU.

    Raises:
        ToolchainError: It cannot.
    """
    if not tvm_internals.is_gpu(target):
        return
    kind = target.kind.name
    if tvm.get_global_func(f"target.build.{kind}", allow_missing=True) is None:
        raise ToolchainError(
            f"TVM on this machine is built without {kind} and cannot compile for gpu={kind}; build "
            f"TVM with USE_{kind.upper()}=ON and install it here in place of apache-tvm."
        )
    if kind == "cuda":
        _load_cuda_runtime()
        _compile_empty_kernel(str(target.attrs["arch"]))


@contextlib.contextmanager
def toolchain(target: tvm.target.Target) -> Iterator[None]:
    """While TVM compiles for a target, it finds what the wheels brought for that.

    Args:
        target: What is compiled for; nothing is changed for a CPU.

    Raises:
        ToolchainError: TVM's runtime for CUDA cannot be loaded.
    """
    found: dict[str, str] = {}
    if target.kind.name == "cuda":
        _load_cuda_runtime()
        found = _wheels()
    before = {name: os.environ.get(name) for name in found}
    os.environ.update(found)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _wheels() -> dict[str, str]:
    """The variables that lead TVM to the headers in NVIDIA's wheels; none beside a toolkit."""
    spec = importlib.util.find_spec("nvidia") if _ROOT not in os.environ else None
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for header in sorted(pathlib.Path(folder).glob("*/include/cuda_runtime.h")):
            # Where TVM does not look, unlike in a toolkit.
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
            "TVM on this machine is built without a runtime for CUDA, which it compiles with; "
            "install the apache-tvm wheel for Linux, or build TVM with USE_CUDA=ON."
        )


def _has_cuda_runtime() -> bool:
    return tvm.get_global_func("ffi.Module.create.cuda", allow_missing=True) is not None


def _load_without_driver() -> None:
    """Loads the runtime over an empty library in the driver's place.

    Compiling calls nothing of the driver, and functions that are not called need not be there.
    """
    path = pathlib.Path(tvm.__file__).parent / "lib" / "libtvm_runtime_cuda.so"
    loader = ctypes.CDLL(None)
    loader.dlopen.restype, loader.dlerror.restype = ctypes.c_void_p, ctypes.c_char_p
    with tempfile.TemporaryDirectory() as folder:
        ctypes.CDLL(_empty_driver(folder), ctypes.RTLD_GLOBAL)
        # Python's own loading would look for all functions at once.
        if not loader.dlopen(os.fsencode(path), os.RTLD_LAZY | os.RTLD_LOCAL):
            said = (loader.dlerror() or b"").decode(errors="replace")
            raise ToolchainError(
                f"TVM's runtime for CUDA, which it compiles with, cannot be loaded: {said}. Run "
                "`pip install 'cprune_tf[cuda]'`, which brings libcudart."
            )


def _empty_driver(folder: str) -> str:
    """Writes a library without functions that has the name of NVIDIA's driver inside."""
    path = os.path.join(folder, "libcuda.so")

    def link(output: str, objects: Sequence[str], **_: object) -> None:
        named = ["-soname", "libcuda.so.1", *objects]
        linker.link_shared(output, named, platform.machine())

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
        said = " ".join(str(error).split())[-300:]
        raise ToolchainError(
            f"CUDA code for {arch} cannot be compiled on this machine with {compiler}: {said}. "
            "Run `pip install 'cprune_tf[cuda]'` (cuda-bindings, nvidia-cuda-nvrtc, "
            "nvidia-cuda-runtime, nvidia-cuda-cccl); or install NVIDIA's CUDA toolkit, name its "
            f"folder in {_ROOT}, and set {_COMPILER}=nvcc to use its nvcc, which needs a C++ "
            "compiler."
        ) from error
