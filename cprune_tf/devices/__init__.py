"""Devices run and time models; `base.Device` is their interface.

Exported names load on first use, because the server on a board must set its environment variables
before numpy loads.
"""

from __future__ import annotations

import importlib
import typing

if typing.TYPE_CHECKING:
    from cprune_tf.devices.agent.benchmark_model import ToolLatency
    from cprune_tf.devices.base import Device, DeviceInfo, ModelFile, OperatorTime
    from cprune_tf.devices.errors import (
        DeviceCrashError,
        DeviceError,
        DeviceNameError,
        DeviceTimeoutError,
        DeviceUnreachableError,
    )
    from cprune_tf.devices.latency import Latency
    from cprune_tf.devices.opening import open_device

_EXPORTS = {
    "Device": "base",
    "DeviceCrashError": "errors",
    "DeviceError": "errors",
    "DeviceInfo": "base",
    "DeviceNameError": "errors",
    "DeviceTimeoutError": "errors",
    "DeviceUnreachableError": "errors",
    "Latency": "latency",
    "ModelFile": "base",
    "OperatorTime": "base",
    "ToolLatency": "agent.benchmark_model",
    "open_device": "opening",
}

__all__ = [
    "Device",
    "DeviceCrashError",
    "DeviceError",
    "DeviceInfo",
    "DeviceNameError",
    "DeviceTimeoutError",
    "DeviceUnreachableError",
    "Latency",
    "ModelFile",
    "OperatorTime",
    "ToolLatency",
    "open_device",
]


def __getattr__(name: str) -> object:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)
