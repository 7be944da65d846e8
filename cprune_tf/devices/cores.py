"""Translates a name or a list of numbers into the cores of a device."""

from __future__ import annotations

import re
import typing

from cprune_tf.devices.errors import DeviceError

if typing.TYPE_CHECKING:
    from cprune_tf.devices.base import DeviceInfo


def select_cores(info: DeviceInfo, cores: str) -> tuple[int, ...]:
    """Returns the cores that a name or a list of numbers means on a device.

    Args:
        info: The device's description.
        cores: "", "little", "middle", "big" or numbers like "0-3,5"; see base.Device.

    Returns:
        The numbers of the cores; empty for all cores.

    Raises:
        DeviceError: The device has no such cores; the message says which it has.
    """
    if not cores:
        return ()
    named: dict[str, tuple[int, ...]] = {}
    if info.clusters:
        named["big"] = info.clusters[-1].cores
    if len(info.clusters) > 1:
        named["little"] = info.clusters[0].cores
    if len(info.clusters) > 2:
        named["middle"] = info.clusters[-2].cores
    if cores in named:
        return named[cores]
    all_cores = {core for cluster in info.clusters for core in cluster.cores}
    chosen: list[int] = []
    for part in cores.split(","):
        numbers = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        if numbers is None:
            break
        chosen += range(int(numbers[1]), int(numbers[2] or numbers[1]) + 1)
    else:
        if chosen and all_cores.issuperset(chosen):
            return tuple(sorted(set(chosen)))
    kinds = ", ".join(f"{name} ({','.join(map(str, ids))})" for name, ids in named.items())
    raise DeviceError(
        f"cores is {cores!r}; this device has {kinds or 'reported no cores'}. Expected one "
        "of these names, or numbers like '0-3' or '4,5'."
    )
