"""Describes the machine that this process runs on.

This module runs in the device's process and needs only the standard library.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pathlib
import platform
from typing import Any

from cprune_tf.devices.agent.environment import available_cores
from cprune_tf.devices.agent.runtimes import litert_interpreter, package_version

_CPU = pathlib.Path("/sys/devices/system/cpu")
_THERMAL = pathlib.Path("/sys/class/thermal")
_NAME_FIELDS = ("model name", "Hardware", "Model", "cpu model")


def describe() -> dict[str, Any]:
    """Describes this device.

    Returns:
        All fields of DeviceInfo except `kind` and `accelerators`, as JSON types; None for what the
        system does not report.
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
        "emulated": _is_emulated(),
        "clusters": _clusters(),
    }


def cpu_features() -> frozenset[str]:
    """Returns the system's names of instruction set extensions; empty if it lists none."""
    cpu_info = _cpu_info()
    return frozenset((cpu_info.get("flags") or cpu_info.get("Features") or "").split())


def temperature_celsius() -> float | None:
    """Returns the temperature of the hottest thermal zone, or None if the device has none."""
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


def read_mhz(core: int, name: str) -> float | None:
    """Reads a frequency in MHz from a core's cpufreq folder; None if the core does not report it.

    Args:
        core: The core's number.
        name: The file in the folder, e.g. "cpuinfo_max_freq".

    Returns:
        The frequency in MHz, or None.
    """
    value = _read(_CPU / f"cpu{core}/cpufreq/{name}")
    return int(value) / 1000 if value and value.isdigit() else None


def _clusters() -> list[dict[str, Any]]:
    """Groups cores that are alike, slowest first, by frequency, capacity and ARM's part number."""
    parts: dict[int, str] = {}
    core = 0
    fields: dict[str, str] = {}
    for line in (_read(pathlib.Path("/proc/cpuinfo")) or "").splitlines():
        name, _, value = (part.strip() for part in line.partition(":"))
        if name == "processor" and value.isdigit():
            core, fields = int(value), {}
        fields[name] = value
        if "CPU implementer" in fields and "CPU part" in fields:
            parts[core] = f"{fields['CPU implementer']}:{fields['CPU part']}"
    usable = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    groups: dict[tuple[float, int, str], list[int]] = {}
    for core in usable:
        mhz = read_mhz(core, "cpuinfo_max_freq") or 0.0
        capacity = _read(_CPU / f"cpu{core}/cpu_capacity") or ""
        key = (mhz, int(capacity) if capacity.isdigit() else 0, parts.get(core, ""))
        groups.setdefault(key, []).append(core)
    # Sorted by capacity first, since a small core at 2 GHz is slower than a large one at 1.9 GHz.
    ordered = sorted(groups.items(), key=lambda item: (item[0][1], item[0][0]))
    return [
        {"cores": cores, "part": part, "max_frequency_mhz": mhz or None}
        for (mhz, _, part), cores in ordered
    ]


def _max_frequency_mhz() -> float | None:
    frequencies_mhz = [read_mhz(core, "cpuinfo_max_freq") for core in range(os.cpu_count() or 1)]
    return max((mhz for mhz in frequencies_mhz if mhz is not None), default=None)


def _tvm_version() -> str | None:
    # The module is only looked up, because importing it takes a second.
    if importlib.util.find_spec("tvm") is None:
        return None
    return package_version("apache-tvm")


def _litert_version() -> str | None:
    try:
        return litert_interpreter()[1]
    except ImportError:
        return None


def _is_emulated() -> bool:
    """Returns whether this process runs on an emulated processor."""
    if os.environ.get("CPRUNE_TF_EMULATED", "0") not in ("", "0"):
        return True
    # User-mode qemu shows the host's /sys to an emulated ARM process.
    arm = platform.machine().startswith(("aarch64", "arm"))
    host = (_read(_CPU / "modalias") or "") + (_read(pathlib.Path("/proc/sys/kernel/arch")) or "")
    return arm and "x86" in host


def _read(path: pathlib.Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
