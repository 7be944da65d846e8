"""Describes a run's environment: machine, operating system, Python and packages.

The names of the host and the user are not recorded, so that a run directory can be shared.
"""

from __future__ import annotations

import importlib.metadata
import os
import pathlib
import platform
import subprocess
import sys
from typing import Any

from cprune_tf.devices.agent.environment import available_cores

_PACKAGES = (
    "cprune_tf",
    "tensorflow",
    "keras",
    "apache-tvm",
    "apache-tvm-ffi",
    "ai-edge-litert",
    "numpy",
    "xgboost-cpu",
    "xgboost",
    "ziglang",
)


def describe_environment() -> dict[str, Any]:
    """Describes the environment of this process.

    Returns:
        Plain JSON types: "machine" (model, architecture, cores_logical, cores_physical,
        cores_usable, memory_bytes, cpu_governor), "os" (name, kernel), "python", "packages"
        (name to version). A value that cannot be determined is None. Packages that are not
        installed are left out.
    """
    processors = _processors()
    return {
        "machine": {
            "model": _cpu_model(processors),
            "architecture": platform.machine(),
            "cores_logical": os.cpu_count(),
            "cores_physical": _physical_cores(processors),
            "cores_usable": available_cores(),
            "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "cpu_governor": _read_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        },
        "os": {"name": _os_name(), "kernel": f"{platform.system()} {platform.release()}"},
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": _package_versions(),
    }


def package_version() -> str:
    """Returns the version of this package; "unknown" if it is not installed."""
    try:
        return importlib.metadata.version("cprune_tf")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _read_line(path: str) -> str | None:
    try:
        return pathlib.Path(path).read_text(encoding="utf-8").strip(" \n\0") or None
    except (OSError, UnicodeDecodeError):
        return None


def _processors() -> list[dict[str, str]]:
    """Reads the paragraphs of /proc/cpuinfo; without that file, one paragraph without values."""
    paragraphs = (_read_line("/proc/cpuinfo") or "").split("\n\n")
    return [
        {
            name.strip(): value.strip()
            for name, _, value in (s.partition(":") for s in p.split("\n"))
        }
        for p in paragraphs
    ]


def _physical_cores(processors: list[dict[str, str]]) -> int | None:
    if not all("core id" in processor for processor in processors):
        return None
    return len({(p.get("physical id"), p["core id"]) for p in processors})


def _cpu_model(processors: list[dict[str, str]]) -> str | None:
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    # On Arm, /proc/cpuinfo names the board instead of the core, in its last paragraph.
    board = _read_line("/proc/device-tree/model")
    return processors[0].get("model name") or board or processors[-1].get("Model") or None


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return f"{platform.system()} {platform.mac_ver()[0]}".strip()


def _package_versions() -> dict[str, str]:
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
