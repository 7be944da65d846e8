"""What to compile for: LLVM targets from what a device says of itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from cprune_tf.devices.base import Cluster, DeviceInfo
from cprune_tf.devices.errors import DeviceError

# LLVM's second level builds programs a sixth faster than its third, and they are as fast.
COMMON = {"kind": "llvm", "opt-level": 2}
# As processors identify themselves (implementer:part), and LLVM's names for them.
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
# Names that people use, beside LLVM's own.
_PRESETS = {
    "apple-m1": "apple-a14",
    "apple-m2": "apple-a15",
    "apple-m3": "apple-a16",
    "raspberry-pi-3": "cortex-a53",
    "raspberry-pi-4": "cortex-a72",
    "raspberry-pi-5": "cortex-a76",
}
# As the kernel names an instruction set extension, and LLVM. What is not there is switched off: a
# virtual machine may hide what the processor's name promises.
_ARM_FEATURES = {"asimd": "neon", "asimddp": "dotprod", "asimdhp": "fullfp16", "i8mm": "i8mm"}
# From the widest to what every 64-bit x86 has.
_X86_LEVELS = {
    "x86-64-v4": frozenset(("avx512f", "avx512bw", "avx512vl", "avx2", "fma", "f16c", "bmi2")),
    "x86-64-v3": frozenset(("avx2", "fma", "f16c", "bmi2")),
    "x86-64-v2": frozenset(("ssse3", "sse4_1", "sse4_2", "popcnt")),
    "x86-64": frozenset(),
}


@dataclasses.dataclass(frozen=True)
class CpuFeatures:
    """What matters for speed.

    Attributes:
        vector: The widest vectors of float32: "neon", "avx2", "avx512" or "sse".
        dotprod: 8-bit dot products.
        fp16: Arithmetic in float16.
    """

    vector: str
    dotprod: bool
    fp16: bool


def cpu_features(info: DeviceInfo) -> CpuFeatures:
    """What a device's processor has, from its own description."""
    has = frozenset(info.features)
    if info.abi == "aarch64":
        return CpuFeatures("neon", "asimddp" in has, "asimdhp" in has)
    vector = "avx512" if "avx512f" in has else "avx2" if "avx2" in has else "sse"
    return CpuFeatures(vector, bool({"avx512_vnni", "avx_vnni"} & has), "avx512_fp16" in has)


def cpu_name(cluster: Cluster) -> str | None:
    """LLVM's name of a cluster's cores, or None where it is not known."""
    return _ARM_PARTS.get(cluster.part)


def target_for(
    info: DeviceInfo, num_threads: int, *, cpu: str = "", cores: Sequence[int] = ()
) -> dict[str, Any]:
    """The target for a device that is not this machine.

    Args:
        info: What the device is.
        num_threads: See Device.target.
        cpu: A processor by LLVM's name or a preset's; "": as the device describes itself.
        cores: Those that will be used; none: all.

    Returns:
        A dict for `tvm.target.Target`.

    Raises:
        DeviceError: For a machine or processor that nothing can be compiled for.
    """
    if info.abi not in ("aarch64", "x86_64"):
        raise DeviceError(
            f"The device is {info.abi}; libraries are linked for aarch64 and x86_64 only. A board "
            "with a 32-bit system needs a 64-bit one."
        )
    target: dict[str, Any] = {
        **COMMON,
        "mtriple": f"{info.abi}-linux-gnu",
        "num-cores": num_threads,
    }
    if cpu:
        target["mcpu"] = known_cpu(cpu, target["mtriple"])
    elif info.abi == "x86_64":
        target["mcpu"] = generic_x86_cpu(frozenset(info.features))
    else:
        target["mcpu"] = _detected(info, cores)
        target["mattr"] = [
            f"{'+' if feature in info.features else '-'}{name}"
            for feature, name in _ARM_FEATURES.items()
        ]
    return target


def generic_x86_cpu(features: frozenset[str]) -> str:
    """The widest of LLVM's generic x86 levels that a processor with these features can run.

    Args:
        features: As in the flags of /proc/cpuinfo.

    Returns:
        E.g. "x86-64-v3".
    """
    return next(level for level, needed in _X86_LEVELS.items() if needed <= features)


def _detected(info: DeviceInfo, cores: Sequence[int]) -> str:
    """The fastest kind of the cores that may be used, where it is known."""
    used = [c for c in info.clusters if not cores or set(cores) & set(c.cores)]
    names = [cpu_name(cluster) for cluster in used]
    # All cores of a device have the same extensions; scheduling for the fastest is what pays.
    return next((name for name in reversed(names) if name is not None), "generic")


def known_cpu(cpu: str, triple: str) -> str:
    """LLVM's name of a processor that somebody named.

    Args:
        cpu: LLVM's name or a preset's.
        triple: What it is compiled for, as LLVM writes it.

    Returns:
        The name.

    Raises:
        DeviceError: LLVM knows no such processor.
    """
    import tvm

    name = _PRESETS.get(cpu, cpu)
    target = tvm.target.Target({"kind": "llvm", "mtriple": triple})
    known = [str(n) for n in tvm.get_global_func("target.llvm_get_cpu_archlist")(target)]
    if name not in known:
        raise DeviceError(
            f"cpu is {cpu!r}; TVM's LLVM knows no such processor for {triple}. Expected one of "
            f"{', '.join(sorted(_PRESETS))}, or of LLVM's {', '.join(known)}."
        )
    return name
