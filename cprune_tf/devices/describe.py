"""What the machine this process runs on is and has, as far as it tells.

Only the standard library: this runs in the device's process.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pathlib
import platform
from typing import Any

from cprune_tf.devices.runtimes import litert_interpreter, package_version

_CPU = pathlib.Path("/sys/devices/system/cpu")
_THERMAL = pathlib.Path("/sys/class/thermal")
_NAME_FIELDS = ("model name", "Hardware", "Model", "cpu model")


def describe() -> dict[str, Any]:
    """Describes this device.

    Returns:
        The fields of DeviceInfo but `kind`, as JSON types; None for what is not told.
    """
    cpu_info = _cpu_info()
    return {
        "abi": platform.machine(),
        "cpu_name": next((cpu_info[key] for key in _NAME_FIELDS if key in cpu_info), "unknown"),
        "num_cores": available_cores(),
        "features": sorted(cpu_features()),
        "memory_bytes": _memory_bytes(),
        "max_frequency_mhz": _max_frequency_mhz(),
        "governor": _read(_CPU / "cpu0/cpufreq/scaling_governor"),
        "temperature_celsius": temperature_celsius(),
        "os": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "runtimes": {"tvm": _tvm_version(), "litert": _litert_version()},
        "emulated": _is_emulated(cpu_info),
    }


def available_cores() -> int:
    """The number of cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_features() -> frozenset[str]:
    """Instruction set extensions as the system names them; empty where it does not."""
    cpu_info = _cpu_info()
    return frozenset((cpu_info.get("flags") or cpu_info.get("Features") or "").split())


def temperature_celsius() -> float | None:
    """The hottest thermal zone, or None where the device tells none."""
    temperatures = []
    for zone in sorted(_THERMAL.glob("thermal_zone*/temp")):
        value = _read(zone)
        if value is not None:
            with contextlib.suppress(ValueError):
                temperatures.append(int(value) / 1000)
    return max(temperatures, default=None)


def _cpu_info() -> dict[str, str]:
    fields: dict[str, str] = {}
    for line in (_read(pathlib.Path("/proc/cpuinfo")) or "").splitlines():
        name, colon, value = line.partition(":")
        if colon:
            fields.setdefault(name.strip(), value.strip())
    return fields


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def _max_frequency_mhz() -> float | None:
    values = [_read(path) for path in _CPU.glob("cpu*/cpufreq/cpuinfo_max_freq")]
    return max((int(value) / 1000 for value in values if value), default=None)


def _tvm_version() -> str | None:
    # Looked up, not imported: that takes a second.
    if importlib.util.find_spec("tvm") is None:
        return None
    return package_version("apache-tvm")


def _litert_version() -> str | None:
    try:
        return litert_interpreter()[1]
    except ImportError:
        return None


def _is_emulated(cpu_info: dict[str, str]) -> bool:
    # User-mode qemu passes on the host's file: an ARM machine with an x86 vendor is none.
    if os.environ.get("CPRUNE_TF_EMULATED", "0") not in ("", "0"):
        return True
    return platform.machine().startswith(("aarch64", "arm")) and "vendor_id" in cpu_info


def _read(path: pathlib.Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
