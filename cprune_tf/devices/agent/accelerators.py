"""GPUs as TVM's runtime sees them: which exist, their properties, and their targets.

Functions that query a GPU run in the device's process and import TVM's runtime when it is first
needed; the rest is plain data for both sides. Only the first GPU of each kind is used; variables
like CUDA_VISIBLE_DEVICES choose which one that is.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import importlib
import importlib.util
import os
import pathlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from cprune_tf.devices.agent.runtimes import load_runtime_part, load_tvm

# TVM's names of its devices and targets.
KINDS = ("cuda", "opencl", "vulkan")
# The start of an architecture's name, for kinds whose code is compiled for one architecture.
_ARCH_PREFIXES = {"cuda": "sm_"}
# 32-bit registers that CUDA's GPUs have had for ten years; TVM's runtime does not report them.
_REGISTERS_PER_BLOCK = 65536
_LOST_STATUS = 86


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """A GPU; a field is None if TVM's runtime does not report it.

    Attributes:
        kind: One of KINDS.
        name: The maker's name of the GPU.
        arch: The architecture to compile for, e.g. "sm_75"; "" for kinds that have none.
        max_threads_per_block: Largest number of threads in a block.
        warp_size: Number of threads that run in step.
        shared_memory_bytes: Largest amount of shared memory in bytes that a block may use.
        memory_bytes: Memory of the whole GPU in bytes.
    """

    kind: str
    name: str
    arch: str
    max_threads_per_block: int | None
    warp_size: int | None
    shared_memory_bytes: int | None
    memory_bytes: int | None

    def __str__(self) -> str:
        memory = "" if self.memory_bytes is None else f", {self.memory_bytes / 2**30:.1f} GiB"
        arch = f", {self.arch}" if self.arch else ""
        return f"{self.name} ({self.kind}{arch}{memory})"

    def target(self, host: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the target: kernels for the GPU, and the code that starts them for its host.

        Args:
            host: The target of the processor that starts the kernels.

        Returns:
            A dict for `tvm.target.Target`.
        """
        properties = {
            "arch": self.arch or None,
            "max_threads_per_block": self.max_threads_per_block,
            "max_shared_memory_per_block": self.shared_memory_bytes,
            "thread_warp_size": self.warp_size,
            "registers_per_block": _REGISTERS_PER_BLOCK if self.kind == "cuda" else None,
        }
        reported = {name: value for name, value in properties.items() if value is not None}
        return {"kind": self.kind, **reported, "host": dict(host)}


def present() -> list[dict[str, Any]]:
    """Describes the first GPU of each kind that TVM can use in this process.

    Returns:
        The fields of each Accelerator, as JSON types; empty also if TVM is not installed.
    """
    return [_describe(kind) for kind in KINDS if not why_missing(kind)]


def why_missing(kind: str) -> str:
    """Explains why TVM can use no GPU of a kind in this process, and what to do about it.

    Args:
        kind: One of KINDS.

    Returns:
        The reason as a sentence; "" if there is a GPU.
    """
    try:
        tvm = load_tvm()
        load_runtime(tvm, kind)
    except (ImportError, OSError) as error:
        return str(error)
    if tvm.get_global_func(f"device_api.{kind}", allow_missing=True) is None:
        return (
            f"TVM's runtime on the device is built without {kind}; build TVM for the device with "
            f"USE_{kind.upper()}=ON and install it on the device in place of apache-tvm."
        )
    if not tvm.device(kind, 0).exist:
        return (
            f"TVM sees no {kind} device; check that the GPU's driver is installed and new "
            "enough (nvidia-smi for CUDA, which has to say 13.0 or later) and that no variable "
            "like CUDA_VISIBLE_DEVICES hides it."
        )
    return ""


def runtime_device(kind: str) -> Any:
    """Returns TVM's handle of the GPU or the CPU that runs code.

    Args:
        kind: One of KINDS, or "" for the CPU.

    Returns:
        A tvm.runtime.Device.

    Raises:
        RuntimeError: There is no such GPU; the message says why.
    """
    if not kind:
        return load_tvm().cpu(0)
    if reason := why_missing(kind):
        raise RuntimeError(reason)
    return load_tvm().device(kind, 0)


@contextlib.contextmanager
def ending_when_lost(device: Any) -> Iterator[None]:
    """Ends this process if an error inside the block left the GPU unusable for it.

    After a kernel's invalid memory access, every further call of the process fails. Ending the
    process limits the damage to one call, like a crash on a CPU: the next call starts a new
    process.

    Args:
        device: The GPU or CPU, from runtime_device.
    """
    try:
        yield
    except Exception as error:
        if not _answers(device):
            print(f"The GPU is lost to this process: {error}", file=sys.stderr, flush=True)
            os._exit(_LOST_STATUS)
        raise


def _answers(device: Any) -> bool:
    try:
        device.sync()
    except Exception:  # TVM raises whatever its native side says
        return False
    return True


def _describe(kind: str) -> dict[str, Any]:
    device = load_tvm().device(kind, 0)
    version = str(device.compute_version or "")
    prefix = _ARCH_PREFIXES.get(kind)
    accelerator = Accelerator(
        kind=kind,
        name=str(device.device_name or kind),
        arch=f"{prefix}{version.replace('.', '')}" if prefix and version else "",
        max_threads_per_block=device.max_threads_per_block,
        warp_size=device.warp_size,
        shared_memory_bytes=device.max_shared_memory_per_block,
        memory_bytes=device.total_global_memory,
    )
    return dataclasses.asdict(accelerator)


def load_runtime(tvm: Any, kind: str) -> None:
    """Loads the part of TVM for a kind, which a runtime-only import leaves out.

    Args:
        tvm: The `tvm` module.
        kind: One of KINDS; nothing happens if TVM has no such part.

    Raises:
        OSError: The part needs a library that is missing; the message says which, and what to do.
    """
    if tvm.get_global_func(f"device_api.{kind}", allow_missing=True) is not None:
        return
    _load_pip_libraries(kind)
    try:
        load_runtime_part(tvm, kind)
    except OSError as error:
        hint = (
            "; libcudart comes with `pip install nvidia-cuda-runtime`, libcuda with NVIDIA's driver"
            if kind == "cuda"
            else ""
        )
        raise OSError(f"TVM's runtime for {kind} cannot be loaded: {error}{hint}.") from error


def _load_pip_libraries(kind: str) -> None:
    """Loads CUDA's runtime from its wheel, which is not on the loader's search path."""
    spec = importlib.util.find_spec("nvidia") if kind == "cuda" else None
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for path in sorted(pathlib.Path(folder).glob("*/lib/libcudart.so.*")):
            with contextlib.suppress(OSError):
                ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
