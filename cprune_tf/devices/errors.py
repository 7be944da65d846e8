"""The errors of devices, one class per kind, so that a caller can go on with the next program."""

from __future__ import annotations

from cprune_tf.errors import UserError


class DeviceNameError(UserError, ValueError):
    """A device's name, or an option in it, cannot be used; the message says what is expected."""


class DeviceError(UserError, RuntimeError):
    """A call failed on a device; the message says which call and why."""


class DeviceTimeoutError(DeviceError):
    """A call on a device exceeded its time limit; it was stopped and the device works again."""


class DeviceCrashError(DeviceError):
    """A call on a device ended its process (segmentation fault, abort, out of memory, ...)."""


class DeviceUnreachableError(DeviceError):
    """The device cannot be reached, so further calls fail too; the run can be resumed later."""
