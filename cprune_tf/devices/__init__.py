"""Devices: where models are run and timed. See `base.Device`."""

from __future__ import annotations

from cprune_tf.devices.base import Device, DeviceInfo, Latency, ModelFile
from cprune_tf.devices.errors import DeviceCrashError, DeviceError, DeviceTimeoutError

__all__ = [
    "Device",
    "DeviceCrashError",
    "DeviceError",
    "DeviceInfo",
    "DeviceTimeoutError",
    "Latency",
    "ModelFile",
    "open_device",
]

_PLANNED = ("rpc:", "tracker:", "adb:")


def open_device(name: str) -> Device:
    """Opens a device by name.

    Args:
        name: "local": this machine.

    Returns:
        The device; use it as a context manager, or close it.

    Raises:
        ValueError: For anything else; says what there is.
    """
    if name == "local":
        from cprune_tf.devices.local import LocalDevice

        return LocalDevice()
    if name.startswith(_PLANNED):
        raise ValueError(
            f"Device {name!r}: boards over RPC and phones over adb are not supported yet in this "
            "version; expected 'local'."
        )
    raise ValueError(f"Unknown device {name!r}; expected 'local'.")
