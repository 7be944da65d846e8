"""Boards over TVM RPC: one server, or all boards that a tracker has under one key."""

from __future__ import annotations

import importlib.metadata
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from cprune_tf.devices import connection
from cprune_tf.devices.agent import wire
from cprune_tf.devices.agent.environment import process_environment
from cprune_tf.devices.agent.session import PROTOCOL
from cprune_tf.devices.agent.storage import file_name
from cprune_tf.devices.base import Device
from cprune_tf.devices.connection import Address
from cprune_tf.devices.errors import (
    DeviceCrashError,
    DeviceError,
    DeviceTimeoutError,
    DeviceUnreachableError,
)
from cprune_tf.devices.process import WorkerProcess
from cprune_tf.devices.targets import target_for

Item = TypeVar("Item")
Result = TypeVar("Result")

_CONNECTION = "cprune_tf.devices.connection"
# A session ends itself on time; what comes on top is the way there and back.
_GRACE_SEC = 15.0
_CONNECT_TIMEOUT_SEC = 30.0
_RETRY_SEC = 1.0
# A board in use is waited for so long: a run that was stopped just now may still be leaving it.
_BUSY_SEC = 10.0
_SLOWEST_BYTES_PER_SEC = 100e3


class Link:
    """One session with one board, held by a child process, connected again when it was lost.

    Args:
        address: Address of the server or tracker.
        name: The device as the user named it, for messages.
        reconnect_sec: How long a board that is gone is waited for.
        revive: Called when the board cannot be reached, before it is tried again; raises
            DeviceError with the reason where it cannot help.
    """

    def __init__(
        self,
        address: Address,
        name: str,
        reconnect_sec: float,
        revive: Callable[[], None] | None = None,
    ) -> None:
        self._address = address
        self._name = name
        self._reconnect_sec = reconnect_sec
        self._revive = revive
        self._worker = WorkerProcess(process_environment(1))
        self._was_connected = False

    def call(self, function: str, timeout_sec: float, arguments: dict[str, Any]) -> Any:
        """Calls a function on the board, after sending the files that it mentions.

        Args:
            function: A function of the session.
            timeout_sec: Time that the function alone may take.
            arguments: See wire.encode.

        Returns:
            Its result.

        Raises:
            DeviceUnreachableError: There is no board, or none that can be used.
            DeviceTimeoutError: It took too long.
            DeviceCrashError: The session's process ended; says how.
            DeviceError: The function raised.
        """
        lost = ""
        for _ in range(2):
            hello = self._connect()
            for file in wire.files_in(arguments):
                self._send(file)
            start = time.monotonic()
            status, value = self._ask("invoke", timeout_sec, function, timeout_sec, arguments)
            if status == "ok":
                return value
            if status == "failed":
                raise DeviceError(f"{function} failed: {value}")
            if time.monotonic() - start >= timeout_sec:
                raise DeviceTimeoutError(
                    f"{function} did not end within {timeout_sec:g} s on {self._name}; its session "
                    "was ended. Raise the time limit if that is too short for this device."
                )
            ended = self._how_ended(hello)
            if ended is not None:
                raise DeviceCrashError(f"{function}: its process on {self._name} {ended}")
            lost = str(value)  # the server itself, or the way to it, was lost: nobody's fault
        raise self._unreachable(f"the connection was lost twice in {function}: {lost}")

    def num_boards(self) -> int:
        """How many boards the tracker knows; 0 where it cannot be asked."""
        status, value = self._ask("num_boards", 0.0)
        return int(value) if status == "ok" else 0

    def close(self) -> None:
        """Ends the session."""
        self._worker.close()

    def _connect(self) -> dict[str, Any]:
        start = time.monotonic()
        deadline = start + self._reconnect_sec
        # Where there was a session before, the one under way may be what is left of it.
        busy_sec = max(_BUSY_SEC, self._reconnect_sec) if self._was_connected else _BUSY_SEC
        revived = False
        while True:
            status, value = self._ask("connect", _CONNECT_TIMEOUT_SEC - _GRACE_SEC)
            if status == "ok":
                self._check_versions(value)
                self._was_connected = True
                return dict(value)
            reason = str(value)
            if status == "busy":
                if time.monotonic() > start + busy_sec:
                    raise self._in_use(reason, busy_sec)
                time.sleep(_RETRY_SEC)
                continue
            if self._revive is None and status == "refused":
                raise self._unreachable(reason, waited=False)
            if self._revive is not None:
                try:
                    self._revive()
                    if not revived:  # that may have taken its time
                        revived, deadline = True, time.monotonic() + self._reconnect_sec
                except DeviceError as error:
                    reason = str(error)
            if time.monotonic() > deadline:
                raise self._unreachable(reason)
            time.sleep(_RETRY_SEC)

    def _send(self, file: wire.StoredFile) -> None:
        timeout_sec = 30 + os.path.getsize(file.path) / _SLOWEST_BYTES_PER_SEC
        status, value = self._ask("send", timeout_sec, file.name, file.path)
        if status == "lost":  # what arrived is kept there, and the rest follows
            self._connect()
            status, value = self._ask("send", timeout_sec, file.name, file.path)
        if status == "lost":
            raise self._unreachable(f"the connection was lost twice sending {file.path}: {value}")
        if status != "ok":
            raise DeviceError(f"{file.path} could not be sent to {self._name}: {value}")

    def _how_ended(self, hello: dict[str, Any]) -> str | None:
        """How the session that was lost ended; None where its server is not there any more."""
        now = self._connect()
        if now["server_id"] != hello["server_id"]:
            return None
        arguments = {"session_id": hello["session_id"]}
        status, ended = self._ask("invoke", _GRACE_SEC, "how_ended", _GRACE_SEC, arguments)
        return str(ended) if status == "ok" and ended is not None else None

    def _ask(self, function: str, timeout_sec: float, *arguments: Any) -> connection.Answer:
        try:
            return self._worker.call(
                f"{_CONNECTION}:{function}",
                self._address,
                *arguments,
                timeout_sec=timeout_sec + _GRACE_SEC,
            )
        except (DeviceTimeoutError, DeviceCrashError) as error:
            waited = f"no answer within {timeout_sec + _GRACE_SEC:g} s"
            return "lost", waited if isinstance(error, DeviceTimeoutError) else str(error)

    def _check_versions(self, hello: dict[str, Any]) -> None:
        own = importlib.metadata.version("apache-tvm")
        if hello["protocol"] != PROTOCOL or _minor(hello["tvm"]) != _minor(own):
            raise DeviceUnreachableError(
                f"Version mismatch: {self._name} has apache-tvm {hello['tvm']} and protocol "
                f"{hello['protocol']} of cprune_tf's server, this machine {own} and {PROTOCOL}. "
                f"Install apache-tvm=={own} and this version of cprune_tf on the device."
            )

    def _unreachable(self, reason: str, *, waited: bool = True) -> DeviceUnreachableError:
        address = self._address
        what = "tracker" if address.scheme == "tracker" else "server"
        tried = f"Tried the {what} at host {address.host}, port {address.port}, key {address.key!r}"
        if self._revive is not None:
            tried = "Tried"  # that address is no business of the user's
        if waited:
            tried += f" for {self._reconnect_sec:g} s"
        return DeviceUnreachableError(
            f"{self._name} cannot be reached: {reason.rstrip('.')}. {tried}. "
            f"`python tools/doctor.py --device='{self._name}'` checks step by step. A run that was "
            "stopped by this goes on with --resume."
        )

    def _in_use(self, reason: str, waited_sec: float) -> DeviceUnreachableError:
        return DeviceUnreachableError(
            f"{self._name} is in use: {reason}. Waited {waited_sec:g} s for it. End what else "
            "measures there, or wait until it has ended; several boards can be shared with a "
            "tracker (docs/devices.md). A run that was stopped by this goes on with --resume."
        )


class RpcDevice(Device):
    """A board, or several of the same kind that measure in parallel.

    Args:
        address: Address of the server or tracker.
        name: The device as the user named it.
        cpu: LLVM's name of the processor; "": as the device describes itself.
        cores: What to run on: see base.Device.
        reconnect_sec: How long a board that is gone is waited for.
        kind: "rpc", or what the link is made of, e.g. "adb".
        revive: See Link.
        linker: See base.Device.
        gpu: See base.Device.
    """

    def __init__(
        self,
        address: Address,
        name: str,
        *,
        cpu: str = "",
        cores: str = "",
        reconnect_sec: float = 30.0,
        kind: str = "rpc",
        revive: Callable[[], None] | None = None,
        linker: str = "",
        gpu: str = "",
    ) -> None:
        super().__init__(cores, linker, gpu)
        self._kind = kind
        self._cpu = cpu
        self._make_link = lambda: Link(address, name, reconnect_sec, revive)
        self._links = [self._make_link()]
        self._has_tracker = address.scheme == "tracker"
        # The one used last is asked first: its process and buffers are warm.
        self._free: queue.LifoQueue[Link] = queue.LifoQueue()
        self._free.put(self._links[0])
        self._lock = threading.Lock()

    @property
    def kind(self) -> str:
        """See Device."""
        return self._kind

    def _cpu_target(self, num_threads: int) -> dict[str, Any]:
        """See Device."""
        return target_for(self.info(), num_threads, cpu=self._cpu, cores=self.core_ids())

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """See Device; as many at a time as there are boards."""
        if self._has_tracker:
            for _ in range(self._links[0].num_boards() - len(self._links)):
                self._links.append(self._make_link())
                self._free.put(self._links[-1])
        if len(self._links) == 1:
            yield from map(function, items)
            return
        executor = ThreadPoolExecutor(len(self._links))
        try:
            yield from executor.map(function, items)
        finally:
            executor.shutdown(cancel_futures=True)

    def close(self) -> None:
        """See Device."""
        for link in self._links:
            link.close()

    def _call(self, function: str, timeout_sec: float, **arguments: Any) -> Any:
        while True:
            link = self._free.get()
            try:
                return link.call(function, timeout_sec, arguments)
            except DeviceUnreachableError:
                if not self._retire(link):
                    raise
            finally:
                if link in self._links:
                    self._free.put(link)

    def _retire(self, link: Link) -> bool:
        """Gives a link up, unless it is the last: boards come and go, another one does the work."""
        with self._lock:
            if len(self._links) == 1:
                return False
            self._links.remove(link)
        link.close()
        return True

    def _upload(self, path: str) -> Any:
        absolute = os.path.abspath(path)
        if not os.path.isfile(absolute):
            raise DeviceError(f"There is no file {absolute} to run or time on the device.")
        return wire.StoredFile(file_name(absolute), absolute)


def _minor(version: str) -> tuple[str, ...]:
    return tuple(version.split(".")[:2])
