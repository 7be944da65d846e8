"""LLVM targets to compile for, derived from a device's description."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from cprune_tf.devices.base import Cluster, DeviceInfo
from cprune_tf.devices.errors import DeviceError

# LLVM compiles a sixth faster at level 2 than at level 3, and the programs run equally fast.
COMMON = {"kind": "llvm", "opt-level": 2}
# LLVM's names by the "implementer:part" with which a processor identifies itself.
_ARM_PARTS = {
    "0x41:0xd03": "cortex-a53",
    "0x41:0xd04": "cortex-a35",
    "0x41:0xd05": "cortex-a55",
    "0x41:0xd07": "cortex-a57",
    "0x41:0xd08": "cortex-a72",
    "0x41:0xd09": "cortex-a73",
    "0x41:0xd0a": "cortex-a75",
    "0x41:0xd0b": "cortex-a76",
    "0x41:0xd0c": "neoverse-n1",
    "0x41:0xd0d": "cortex-a77",
    "0x41:0xd0e": "cortex-a76ae",
    "0x41:0xd40": "neoverse-v1",
    "0x41:0xd41": "cortex-a78",
    "0x41:0xd42": "cortex-a78ae",
    "0x41:0xd44": "cortex-x1",
    "0x41:0xd46": "cortex-a510",
    "0x41:0xd47": "cortex-a710",
    "0x41:0xd48": "cortex-x2",
    "0x41:0xd49": "neoverse-n2",
    "0x41:0xd4a": "neoverse-e1",
    "0x41:0xd4b": "cortex-a78c",
    "0x41:0xd4d": "cortex-a715",
    "0x41:0xd4e": "cortex-x3",
    "0x41:0xd4f": "neoverse-v2",
    "0x41:0xd80": "cortex-a520",
    "0x41:0xd81": "cortex-a720",
    "0x41:0xd82": "cortex-x4",
    # Qualcomm's own names for licensed cores.
    "0x51:0x800": "cortex-a73",
    "0x51:0x801": "cortex-a53",
    "0x51:0x802": "cortex-a75",
    "0x51:0x803": "cortex-a55",
    "0x51:0x804": "cortex-a76",
    "0x51:0x805": "cortex-a55",
    # Apple M1 and M2 under Linux, efficiency and performance cores alike.
    "0x61:0x022": "apple-a14",
    "0x61:0x023": "apple-a14",
    "0x61:0x032": "apple-a15",
    "0x61:0x033": "apple-a15",
}
# Common names of boards and chips, accepted in addition to LLVM's names.
_PRESETS = {
    "apple-m1": "apple-a14",
    "apple-m2": "apple-a15",
    "apple-m3": "apple-a16",
    "raspberry-pi-3": "cortex-a53",
    "raspberry-pi-4": "cortex-a72",
    "raspberry-pi-5": "cortex-a76",
}
# LLVM's names of instruction set extensions by the kernel's names. Missing extensions are switched
# off, because a virtual machine may hide what the processor's name promises.
_ARM_FEATURES = {"asimd": "neon", "asimddp": "dotprod", "asimdhp": "fullfp16", "i8mm": "i8mm"}
# Required features by level, from the widest level to the one that every 64-bit x86 has.
_X86_LEVELS = {
    "x86-64-v4": frozenset(("avx512f", "avx512bw", "avx512vl", "avx2", "fma", "f16c", "bmi2")),
    "x86-64-v3": frozenset(("avx2", "fma", "f16c", "bmi2")),
    "x86-64-v2": frozenset(("ssse3", "sse4_1", "sse4_2", "popcnt")),
    "x86-64": frozenset(),
}


@dataclasses.dataclass(frozen=True)
class CpuFeatures:
    """The features of a processor that matter for speed.

    Attributes:
        vector: The widest float32 vector unit: "neon", "avx2", "avx512" or "sse".
        dotprod: Whether it has instructions for 8-bit dot products.
        fp16: Whether it computes in float16.
    """

    vector: str
    dotprod: bool
    fp16: bool


def cpu_features(info: DeviceInfo) -> CpuFeatures:
    """Returns the features of a device's processor from the device's description."""
    has = frozenset(info.features)
    if info.abi == "aarch64":
        return CpuFeatures("neon", "asimddp" in has, "asimdhp" in has)
    vector = "avx512" if "avx512f" in has else "avx2" if "avx2" in has else "sse"
    return CpuFeatures(vector, bool({"avx512_vnni", "avx_vnni"} & has), "avx512_fp16" in has)


def cpu_name(cluster: Cluster) -> str | None:
    """Returns LLVM's name of a cluster's cores, or None if it is not known."""
    return _ARM_PARTS.get(cluster.part)


def target_for(
    info: DeviceInfo, num_threads: int, *, cpu: str = "", cores: Sequence[int] = ()
) -> dict[str, Any]:
    """Returns the target for a device that is not this machine.

    Args:
        info: The device's description.
        num_threads: Number of threads the code will run on.
        cpu: LLVM's name or a preset's name of the processor; "" to take it from `info`.
        cores: Numbers of the cores that will be used; empty for all.

    Returns:
        A dict for `tvm.target.Target`.

    Raises:
        DeviceError: Nothing can be compiled for this machine or processor.
    """
    if info.abi not in ("aarch64", "x86_64"):
        raise DeviceError(
            f"The device is {info.abi}; libraries are linked for aarch64 and x86_64 only. "
            "Install a 64-bit system on a board that runs a 32-bit one."
        )
    target: dict[str, Any] = {
        **COMMON,
        "mtriple": f"{info.abi}-linux-gnu",
        "num-cores": num_threads,
    }
    if cpu:
        target["mcpu"] = llvm_cpu_name(cpu, target["mtriple"])
    elif info.abi == "x86_64":
        target["mcpu"] = generic_x86_cpu(frozenset(info.features))
    else:
        target["mcpu"] = _fastest_cpu(info, cores)
        target["mattr"] = [
            f"{'+' if feature in info.features else '-'}{name}"
            for feature, name in _ARM_FEATURES.items()
        ]
    return target


def generic_x86_cpu(features: frozenset[str]) -> str:
    """Returns the widest of LLVM's generic x86 levels that needs no more than these features.

    Args:
        features: Names of features as in the flags of /proc/cpuinfo.

    Returns:
        The level's name, e.g. "x86-64-v3".
    """
    return next(level for level, needed in _X86_LEVELS.items() if needed <= features)


def _fastest_cpu(info: DeviceInfo, cores: Sequence[int]) -> str:
    """Returns LLVM's name of the fastest kind among the cores; "generic" if none is known."""
    clusters = [c for c in info.clusters if not cores or set(cores) & set(c.cores)]
    names = [cpu_name(cluster) for cluster in clusters]
    # All cores of a device have the same extensions, so code scheduled for the fastest runs on all.
    return next((name for name in reversed(names) if name is not None), "generic")


def llvm_cpu_name(cpu: str, triple: str) -> str:
    """Returns LLVM's name of a processor that the user named.

    Args:
        cpu: LLVM's name or a preset's name.
        triple: The target triple, e.g. "aarch64-linux-gnu".

    Returns:
        LLVM's name of the processor.

    Raises:
        DeviceError: LLVM knows no such processor.
    """
    import tvm

    name = _PRESETS.get(cpu, cpu)
    target = tvm.target.Target({"kind": "llvm", "mtriple": triple})
    names = [str(n) for n in tvm.get_global_func("target.llvm_get_cpu_archlist")(target)]
    if name not in names:
        raise DeviceError(
            f"cpu is {cpu!r}; TVM's LLVM knows no such processor for {triple}. Expected one of "
            f"{', '.join(sorted(_PRESETS))}, or of LLVM's {', '.join(names)}."
        )
    return name
