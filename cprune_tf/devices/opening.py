"""Devices by name: `open_device("adb:SERIAL")`."""

from __future__ import annotations

import os
import shlex
import shutil
import typing
import urllib.parse

from cprune_tf.devices.agent.accelerators import KINDS
from cprune_tf.devices.base import Device
from cprune_tf.devices.errors import DeviceNameError

if typing.TYPE_CHECKING:
    from cprune_tf.devices.connection import Address

_EXPECTED = (
    "expected 'local', 'rpc://HOST:PORT?key=KEY', 'tracker://HOST:PORT?key=KEY' or 'adb:SERIAL'"
)
_OPTIONS = {
    "local": ("cpu", "gpu", "linker"),
    "rpc": ("key", "cpu", "gpu", "linker", "reconnect_sec"),
    "tracker": ("key", "cpu", "gpu", "linker", "reconnect_sec"),
    "adb": ("cpu", "linker", "reconnect_sec"),
}
_DEFAULT_PORTS = {"rpc": 9090, "tracker": 9190}


def open_device(name: str, cores: str = "") -> Device:
    """Opens a device by name.

    Args:
        name: "local" is this machine. "rpc://HOST:PORT?key=KEY" is a board running
            `cprune_tf.devices.agent.server`. "tracker://HOST:PORT?key=KEY" stands for all boards
            that TVM's RPC tracker lists under a key. "adb:SERIAL" is a phone, "adb:" the only
            phone. All of them accept `?cpu=NAME` (LLVM's name of the processor to compile for) and
            `?linker=COMMAND` (see Device.linker). All but "local" accept `?reconnect_sec=N` (how
            many seconds to wait for a device that was lost). All but phones accept `?gpu=KIND`:
            "cuda", or "opencl" or "vulkan" if TVM's runtime on the device was built with it.
        cores: The cores to run on; see base.Device.

    Returns:
        The device; use it as a context manager, or close it.

    Raises:
        DeviceNameError: The name is none of these, or its linker does not exist; the message says
            what is expected.
        DeviceUnreachableError: A phone cannot be used; the message says what to do.
    """
    if name == "local" or name.startswith("local?"):
        return _open_local(name, cores)
    if name.startswith(("rpc:", "tracker:")):
        return _open_rpc(name, cores)
    if name.startswith("adb:"):
        return _open_adb(name, cores)
    raise DeviceNameError(f"Unknown device {name!r}; {_EXPECTED}.")


def _open_local(name: str, cores: str) -> Device:
    from cprune_tf.devices.local import LocalDevice

    try:
        options = _options("local", name.partition("?")[2])
    except ValueError as error:
        raise DeviceNameError(f"Device {name!r}: {error}; {_EXPECTED}.") from error
    return LocalDevice(
        cores, options.get("linker", ""), options.get("gpu", ""), cpu=options.get("cpu", "")
    )


def _open_adb(name: str, cores: str) -> Device:
    from cprune_tf.devices.adb import AdbDevice

    serial, _, query = name.removeprefix("adb:").partition("?")
    try:
        options = _options("adb", query)
        reconnect_sec = float(options.get("reconnect_sec", "30"))
    except ValueError as error:
        raise DeviceNameError(f"Device {name!r}: {error}; {_EXPECTED}.") from error
    return AdbDevice(
        serial,
        cpu=options.get("cpu", ""),
        cores=cores,
        reconnect_sec=reconnect_sec,
        linker=options.get("linker", ""),
    )


def server_address(name: str) -> Address:
    """Returns the address of the server or tracker in a device's name.

    Args:
        name: "rpc://HOST:PORT..." or "tracker://HOST:PORT...".

    Returns:
        The address.

    Raises:
        DeviceNameError: The name has another form.
    """
    return _parse_server(name)[0]


def _open_rpc(name: str, cores: str) -> Device:
    from cprune_tf.devices.rpc import RpcDevice

    address, options = _parse_server(name)
    return RpcDevice(
        address,
        name,
        cpu=options.get("cpu", ""),
        cores=cores,
        reconnect_sec=float(options.get("reconnect_sec", "30")),
        linker=options.get("linker", ""),
        gpu=options.get("gpu", ""),
    )


def _parse_server(name: str) -> tuple[Address, dict[str, str]]:
    """Returns the address and the options of a device's name that contains a host."""
    from cprune_tf.devices.connection import Address

    try:
        url = urllib.parse.urlsplit(name)
        host, port = url.hostname, url.port or _DEFAULT_PORTS[url.scheme]
        options = _options(url.scheme, url.query)
        float(options.get("reconnect_sec", "30"))
    except ValueError as error:
        raise DeviceNameError(f"Device {name!r}: {error}; {_EXPECTED}.") from error
    if not host or url.path not in ("", "/"):
        raise DeviceNameError(f"Device {name!r} names no host; {_EXPECTED}.")
    if url.scheme == "tracker" and not options.get("key"):
        raise DeviceNameError(
            f"Device {name!r} names no key: a tracker finds boards by it; {_EXPECTED}."
        )
    return Address(url.scheme, host, port, options.get("key", "")), options


def _options(scheme: str, query: str) -> dict[str, str]:
    options = {}
    for pair in query.split("&") if query else ():
        option, equals, value = pair.partition("=")
        if (option, scheme) == ("gpu", "adb"):
            raise ValueError(
                "phones are measured on their CPU: OpenCL and Vulkan need a TVM runtime that is "
                "built for the phone, which the bundle is not (docs/devices.md); leave gpu out"
            )
        if option not in _OPTIONS[scheme]:
            raise ValueError(f"unknown option {option!r}, not one of {', '.join(_OPTIONS[scheme])}")
        if not equals:
            raise ValueError(f"option {option!r} has no value, expected {option}=VALUE")
        options[option] = urllib.parse.unquote(value)  # a "+" stays: clang++
    if options.get("gpu", KINDS[0]) not in KINDS:
        raise ValueError(f"gpu is {options['gpu']!r}, not one of {', '.join(KINDS)}")
    if options.get("linker"):
        options["linker"] = _with_absolute_path(options["linker"])
    return options


def _with_absolute_path(command: str) -> str:
    """Returns a linker's command with its program's full path, valid from any folder."""
    words = shlex.split(command)
    program = shutil.which(os.path.expanduser(words[0])) if words else None
    if program is None:
        raise ValueError(
            f"there is no program {words[0] if words else command!r} for linker={command!r}; "
            "give a compiler or linker for the device that is in PATH, or its path, e.g. "
            "linker=aarch64-linux-gnu-gcc"
        )
    return shlex.join([os.path.abspath(program), *words[1:]])
