"""Devices by name: `open_device("adb:SERIAL")`."""

from __future__ import annotations

import urllib.parse

from cprune_tf.devices.base import Device

_EXPECTED = (
    "expected 'local', 'rpc://HOST:PORT?key=KEY', 'tracker://HOST:PORT?key=KEY' or 'adb:SERIAL'"
)
_OPTIONS = {
    "rpc": ("key", "cpu", "reconnect_sec"),
    "tracker": ("key", "cpu", "reconnect_sec"),
    "adb": ("cpu", "reconnect_sec"),
}
DEFAULT_PORTS = {"rpc": 9090, "tracker": 9190}


def open_device(name: str, cores: str = "") -> Device:
    """Opens a device by name.

    Args:
        name: "local": this machine; "rpc://HOST:PORT?key=KEY": a board running
            `cprune_tf.devices.server`; "tracker://HOST:PORT?key=KEY": all boards that TVM's RPC
            tracker has under a key; "adb:SERIAL": a phone, "adb:": the only one. All but the first
            take `?cpu=NAME` (LLVM's name of the processor) and `?reconnect_sec=N` (how long a
            device that is gone is waited for).
        cores: What to run on; see base.Device.

    Returns:
        The device; use it as a context manager, or close it.

    Raises:
        ValueError: For anything else; says what there is.
        DeviceUnreachableError: A phone cannot be used; says what to do.
    """
    if name == "local":
        from cprune_tf.devices.local import LocalDevice

        return LocalDevice(cores)
    if name.startswith(("rpc:", "tracker:")):
        return _open_rpc(name, cores)
    if name.startswith("adb:"):
        return _open_adb(name, cores)
    raise ValueError(f"Unknown device {name!r}; {_EXPECTED}.")


def _open_adb(name: str, cores: str) -> Device:
    from cprune_tf.devices.adb import AdbDevice

    serial, _, query = name.removeprefix("adb:").partition("?")
    try:
        options = _options("adb", query)
        reconnect_sec = float(options.get("reconnect_sec", "30"))
    except ValueError as error:
        raise ValueError(f"Device {name!r}: {error}; {_EXPECTED}.") from error
    cpu = options.get("cpu", "")
    return AdbDevice(serial, cpu=cpu, cores=cores, reconnect_sec=reconnect_sec)


def _open_rpc(name: str, cores: str) -> Device:
    from cprune_tf.devices.connection import Address
    from cprune_tf.devices.rpc import RpcDevice

    url = urllib.parse.urlsplit(name)
    try:
        host, port = url.hostname, url.port or DEFAULT_PORTS[url.scheme]
        options = _options(url.scheme, url.query)
        reconnect_sec = float(options.get("reconnect_sec", "30"))
    except ValueError as error:
        raise ValueError(f"Device {name!r}: {error}; {_EXPECTED}.") from error
    if not host or url.path not in ("", "/"):
        raise ValueError(f"Device {name!r} names no host; {_EXPECTED}.")
    if url.scheme == "tracker" and not options.get("key"):
        raise ValueError(
            f"Device {name!r} names no key: a tracker finds boards by it; {_EXPECTED}."
        )
    return RpcDevice(
        Address(url.scheme, host, port, options.get("key", "")),
        name,
        cpu=options.get("cpu", ""),
        cores=cores,
        reconnect_sec=reconnect_sec,
    )


def _options(scheme: str, query: str) -> dict[str, str]:
    options = dict(urllib.parse.parse_qsl(query, strict_parsing=bool(query)))
    for option in options:
        if option not in _OPTIONS[scheme]:
            raise ValueError(f"unknown option {option!r}, not one of {', '.join(_OPTIONS[scheme])}")
    return options
