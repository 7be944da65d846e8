"""The machine this runs on as a device; its models run in a child process."""

from __future__ import annotations

import functools
import os
from typing import Any

from cprune_tf.devices.agent.description import cpu_features
from cprune_tf.devices.agent.environment import available_cores, process_environment
from cprune_tf.devices.base import Device
from cprune_tf.devices.errors import DeviceError
from cprune_tf.devices.process import WorkerProcess
from cprune_tf.devices.targets import COMMON, generic_x86_cpu, llvm_cpu_name

_ON_DEVICE = "cprune_tf.devices.agent.on_device"

# Extensions that LLVM assumes from a processor's name although a hypervisor can hide them.
_VERIFIED_FEATURES = ("avx", "avx2", "fma", "f16c", "bmi2", "avx512f", "avx512bw", "avx512vl")


class LocalDevice(Device):
    """This machine; a kernel that crashes or hangs ends the child process, never this one."""

    def __init__(self, cores: str = "", linker: str = "", gpu: str = "", *, cpu: str = "") -> None:
        """Prepares the device; its process starts with the first call.

        Args:
            cores: The cores to run on, as in Device.
            linker: The command that links libraries, as in Device.
            gpu: The kind of GPU to use, as in Device; "" for none.
            cpu: LLVM's name of the processor to compile for, e.g. "x86-64-v3" for libraries that
                other machines can run too; "" for this machine's processor.
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
        """See Device; without a named processor, it is the one that TVM's LLVM detects."""
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
    """Returns the name that TVM's LLVM uses for this machine's processor, e.g. "znver4".

    A virtual machine can hide a vector extension that this name implies; code for the name would
    then be killed. In this case the result is the widest generic x86 level the machine supports.
    """
    import tvm

    name = str(tvm.get_global_func("target.llvm_get_system_cpu")())
    return generic_x86_cpu(cpu_features()) if _lacking(name) else name


def runnable_cpu(name: str) -> str:
    """Checks that this machine can run code for a processor that the user named.

    Args:
        name: LLVM's name of the processor, or a preset's name in `targets`.

    Returns:
        LLVM's name of the processor.

    Raises:
        DeviceError: LLVM knows no such processor, or its code would be killed on this machine.
    """
    import tvm

    llvm_name = llvm_cpu_name(name, str(tvm.target.Target("llvm").attrs["mtriple"]))
    if lacking := _lacking(llvm_name):
        raise DeviceError(
            f"cpu is {name!r}, whose code needs {', '.join(sorted(lacking))}; this machine "
            f"({host_cpu()}) does not have them. Name a processor whose code it can run."
        )
    return llvm_name


def _lacking(name: str) -> frozenset[str]:
    """Returns the vector extensions that a processor's name implies and this machine lacks."""
    import tvm

    target = tvm.target.Target({"kind": "llvm", "mcpu": name})
    implied = frozenset(map(str, tvm.get_global_func("target.llvm_get_cpu_features")(target)))
    present = cpu_features()
    return implied.intersection(_VERIFIED_FEATURES) - present if present else frozenset()
