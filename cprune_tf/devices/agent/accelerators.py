"""GPUs as TVM's runtime sees them: which there are, what they are, what is compiled for them.

What asks a GPU runs in the device's process and imports TVM's runtime when it is first needed; the
rest is plain data for both sides. Of each kind the first GPU counts: CUDA_VISIBLE_DEVICES and its
like say which that is.
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

# As TVM calls its devices and its targets.
KINDS = ("cuda", "opencl", "vulkan")
# What an architecture's name starts with, for the kinds of which code is compiled for one.
_ARCH_PREFIXES = {"cuda": "sm_"}
# What CUDA's GPUs have had for ten years, 32 bits each; TVM's runtime does not tell it.
_REGISTERS_PER_BLOCK = 65536
_LOST_STATUS = 86


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """A GPU; None for what TVM's runtime does not tell of it.

    Attributes:
        kind: One of KINDS.
        name: As its maker calls it.
        arch: What code is compiled for, e.g. "sm_75"; "" for kinds without such a thing.
        max_threads_per_block: Threads that can be started together.
        warp_size: Threads that run in step.
        shared_memory_bytes: What a block may use at most.
        memory_bytes: Memory of the whole GPU.
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
        """What to compile for: kernels for the GPU, what starts them for its host.

        Args:
            host: The target of the processor beside it.

        Returns:
            A dict for `tvm.target.Target`.
        """
        told = {
            "arch": self.arch or None,
            "max_threads_per_block": self.max_threads_per_block,
            "max_shared_memory_per_block": self.shared_memory_bytes,
            "thread_warp_size": self.warp_size,
            "registers_per_block": _REGISTERS_PER_BLOCK if self.kind == "cuda" else None,
        }
        known = {name: value for name, value in told.items() if value is not None}
        return {"kind": self.kind, **known, "host": dict(host)}


def present() -> list[dict[str, Any]]:
    """Describes the first GPU of each kind that TVM can use in this process.

    Returns:
        The fields of Accelerator, as JSON types; empty also where TVM is not installed.
    """
    return [_describe(kind) for kind in KINDS if not why_missing(kind)]


def why_missing(kind: str) -> str:
    """Why TVM can use no GPU of a kind in this process, and what to do about it.

    Args:
        kind: One of KINDS.

    Returns:
        The reason as a sentence; "": there is a GPU.
    """
    try:
        tvm = load_tvm()
        load_runtime(tvm, kind)
    except (ImportError, OSError) as error:
        return str(error)
    if tvm.get_global_func(f"device_api.{kind}", allow_missing=True) is None:
        return (
            f"TVM's runtime there is built without {kind}; build TVM for the device with "
            f"USE_{kind.upper()}=ON and install it there in place of apache-tvm."
        )
    if not tvm.device(kind, 0).exist:
        return (
            f"TVM sees no {kind} device there; check that the GPU's driver is installed and new "
            "enough (nvidia-smi for CUDA, which has to say 13.0 or later) and that no variable "
            "like CUDA_VISIBLE_DEVICES hides it."
        )
    return ""


def runtime_device(kind: str) -> Any:
    """What TVM runs code on.

    Args:
        kind: One of KINDS, or "" for the CPU.

    Returns:
        A tvm.runtime.Device.

    Raises:
        RuntimeError: There is no such GPU; says why.
    """
    if not kind:
        return load_tvm().cpu(0)
    if reason := why_missing(kind):
        raise RuntimeError(reason)
    return load_tvm().device(kind, 0)


@contextlib.contextmanager
def ending_when_lost(device: Any) -> Iterator[None]:
    """Ends this process where an error has left the GPU unusable for it.

    After a kernel's invalid access every further call of the process fails. As the process is over
    then, that costs one call, as a crash on a CPU does: the next one starts in a fresh process.

    Args:
        device: From runtime_device.
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
    """Loads TVM's part for a kind, which a runtime-only import leaves out.

    Args:
        tvm: The `tvm` module.
        kind: One of KINDS; nothing happens where TVM has no such part.

    Raises:
        OSError: It is there, but a library that it needs is not; says which and what to do.
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
        raise OSError(f"TVM's runtime for {kind} cannot be loaded there: {error}{hint}.") from error


def _load_pip_libraries(kind: str) -> None:
    """Loads CUDA's runtime from its wheel, where no loader would look for it."""
    spec = importlib.util.find_spec("nvidia") if kind == "cuda" else None
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for path in sorted(pathlib.Path(folder).glob("*/lib/libcudart.so.*")):
            with contextlib.suppress(OSError):
                ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
