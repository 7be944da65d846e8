"""The machine this runs on as a device: everything in a child process."""

from __future__ import annotations

import functools
import os
from typing import Any

from cprune_tf.devices.agent.description import cpu_features
from cprune_tf.devices.agent.environment import available_cores, process_environment
from cprune_tf.devices.base import Device
from cprune_tf.devices.errors import DeviceError
from cprune_tf.devices.process import WorkerProcess
from cprune_tf.devices.targets import COMMON, generic_x86_cpu, known_cpu

_ON_DEVICE = "cprune_tf.devices.agent.on_device"

# What LLVM may take for granted on a processor it knows by name, though a hypervisor can hide it.
_VERIFIED_FEATURES = ("avx", "avx2", "fma", "f16c", "bmi2", "avx512f", "avx512bw", "avx512vl")


class LocalDevice(Device):
    """This machine. A crashing or hanging kernel ends the child process, never this one."""

    def __init__(self, cores: str = "", linker: str = "", gpu: str = "", *, cpu: str = "") -> None:
        """Prepares the device; its process starts with the first call.

        Args:
            cores: See Device.
            linker: See Device.
            gpu: See Device.
            cpu: What to compile for, by LLVM's name, e.g. "x86-64-v3" for libraries that other
                machines can run too; "": this machine's processor.
        """
        super().__init__(cores, linker, gpu)
        self._cpu = cpu
        self._worker = WorkerProcess(process_environment(available_cores()))

    @property
    def kind(self) -> str:
        """See Device."""
        return "local"

    @property
    def shares_host(self) -> bool:
        """See Device."""
        return True

    def _cpu_target(self, num_threads: int) -> dict[str, Any]:
        """See Device; the CPU is the one that TVM's LLVM detects, where none is named."""
        mcpu = runnable_cpu(self._cpu) if self._cpu else host_cpu()
        return {**COMMON, "mcpu": mcpu, "num-cores": num_threads}

    def close(self) -> None:
        """See Device."""
        self._worker.close()

    def _call(self, function: str, timeout_sec: float, **arguments: Any) -> Any:
        return self._worker.call(f"{_ON_DEVICE}:{function}", timeout_sec=timeout_sec, **arguments)

    def _upload(self, path: str) -> str:
        absolute = os.path.abspath(path)
        if not os.path.isfile(absolute):
            raise DeviceError(f"There is no file {absolute} to run or time on the device.")
        return absolute


@functools.cache
def host_cpu() -> str:
    """The name TVM's LLVM has for this machine's processor, e.g. "znver4".

    Where the machine hides a vector extension which that name implies (a virtual machine may), it
    is the widest generic x86 level that the machine has: code for the name would be killed.
    """
    import tvm

    name = str(tvm.get_global_func("target.llvm_get_system_cpu")())
    return generic_x86_cpu(cpu_features()) if _lacking(name) else name


def runnable_cpu(name: str) -> str:
    """A processor to compile for that was asked for by name.

    Args:
        name: LLVM's, or a preset's of `targets`.

    Returns:
        LLVM's name.

    Raises:
        DeviceError: LLVM knows no such processor, or its code would be killed on this one.
    """
    import tvm

    known = known_cpu(name, str(tvm.target.Target("llvm").attrs["mtriple"]))
    if lacking := _lacking(known):
        raise DeviceError(
            f"cpu is {name!r}, whose code needs {', '.join(sorted(lacking))}; this machine "
            f"({host_cpu()}) has not got that. Name a processor that it can stand in for."
        )
    return known


def _lacking(name: str) -> frozenset[str]:
    """Vector extensions that a processor has by its name, and this machine has not."""
    import tvm

    target = tvm.target.Target({"kind": "llvm", "mcpu": name})
    implied = frozenset(map(str, tvm.get_global_func("target.llvm_get_cpu_features")(target)))
    present = cpu_features()
    return implied.intersection(_VERIFIED_FEATURES) - present if present else frozenset()
