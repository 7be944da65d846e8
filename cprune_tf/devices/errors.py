"""What can go wrong on a device, told apart so that a caller can go on with the next program."""

from __future__ import annotations

from cprune_tf.errors import UserError


class DeviceNameError(UserError, ValueError):
    """A device's name, or an option in it, is none that can be used; says what is expected."""


class DeviceError(UserError, RuntimeError):
    """Something asked of a device failed there; the message says what and why."""


class DeviceTimeoutError(DeviceError):
    """A call on a device did not end in its time; it was stopped and the device works again."""


class DeviceCrashError(DeviceError):
    """A call on a device ended its process (segmentation fault, abort, out of memory, ...)."""


class DeviceUnreachableError(DeviceError):
    """The device cannot be reached any more: nothing else will work there. The run can resume."""
