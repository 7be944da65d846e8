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
# A session enforces the time limit itself; this is for sending the call and the answer.
_GRACE_SEC = 15.0
_CONNECT_TIMEOUT_SEC = 30.0
_RETRY_SEC = 1.0
# How long to wait for a board in use: a run that was just stopped may still be releasing it.
_BUSY_SEC = 10.0
_SLOWEST_BYTES_PER_SEC = 100e3


class Link:
    """One session with one board, held by a child process and connected again after a loss.

    Args:
        address: Address of the server or tracker.
        name: The device as the user named it, for messages.
        reconnect_sec: How many seconds to wait for a board that was lost.
        revive: Called when the board cannot be reached, before the next try; raises DeviceError
            with the reason if it cannot help.
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
        """Calls a function on the board, after sending the files among its arguments.

        Args:
            function: The name of a function of the session.
            timeout_sec: Time that the function alone may take.
            arguments: Keyword arguments of the types that wire.encode accepts.

        Returns:
            The function's result.

        Raises:
            DeviceUnreachableError: There is no board, or none that can be used.
            DeviceTimeoutError: The function took too long.
            DeviceCrashError: The session's process ended; the message says how.
            DeviceError: The function raised.
        """
        loss_reason = ""
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
            # The server or the network failed, not the function, so calling it again can work.
            loss_reason = str(value)
        raise self._unreachable(f"the connection was lost twice in {function}: {loss_reason}")

    def num_boards(self) -> int:
        """Returns how many boards the tracker lists; 0 if the tracker does not answer."""
        status, value = self._ask("num_boards", 0.0)
        return int(value) if status == "ok" else 0

    def close(self) -> None:
        """Ends the session."""
        self._worker.close()

    def _connect(self) -> dict[str, Any]:
        start = time.monotonic()
        deadline = start + self._reconnect_sec
        # The session that keeps the board busy may be our own lost one, which ends by itself.
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
                    if not revived:  # reviving may itself have used up the waiting time
                        revived, deadline = True, time.monotonic() + self._reconnect_sec
                except DeviceError as error:
                    reason = str(error)
            if time.monotonic() > deadline:
                raise self._unreachable(reason)
            time.sleep(_RETRY_SEC)

    def _send(self, file: wire.StoredFile) -> None:
        timeout_sec = 30 + os.path.getsize(file.path) / _SLOWEST_BYTES_PER_SEC
        status, value = self._ask("send", timeout_sec, file.name, file.path)
        if status == "lost":  # the board keeps what arrived; the second try sends the rest
            self._connect()
            status, value = self._ask("send", timeout_sec, file.name, file.path)
        if status == "lost":
            raise self._unreachable(f"the connection was lost twice sending {file.path}: {value}")
        if status != "ok":
            raise DeviceError(f"{file.path} could not be sent to {self._name}: {value}")

    def _how_ended(self, hello: dict[str, Any]) -> str | None:
        """Returns how the lost session ended; None if its server was replaced or does not know."""
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
            silence = f"no answer within {timeout_sec + _GRACE_SEC:g} s"
            return "lost", silence if isinstance(error, DeviceTimeoutError) else str(error)

    def _check_versions(self, hello: dict[str, Any]) -> None:
        host_tvm = importlib.metadata.version("apache-tvm")
        if hello["protocol"] != PROTOCOL or _minor(hello["tvm"]) != _minor(host_tvm):
            raise DeviceUnreachableError(
                f"Version mismatch: {self._name} has apache-tvm {hello['tvm']} and protocol "
                f"{hello['protocol']} of cprune_tf's server; this machine has {host_tvm} and "
                f"{PROTOCOL}. Install apache-tvm=={host_tvm} and this version of cprune_tf on the "
                "device."
            )

    def _unreachable(self, reason: str, *, waited: bool = True) -> DeviceUnreachableError:
        address = self._address
        what = "tracker" if address.scheme == "tracker" else "server"
        tried = f"Tried the {what} at host {address.host}, port {address.port}, key {address.key!r}"
        if self._revive is not None:
            tried = "Tried"  # the user did not choose a phone's address, so it would not help
        if waited:
            tried += f" for {self._reconnect_sec:g} s"
        return DeviceUnreachableError(
            f"{self._name} cannot be reached: {reason.rstrip('.')}. {tried}. "
            f"`python tools/doctor.py --device='{self._name}'` checks step by step. A run that was "
            "stopped by this goes on with --resume."
        )

    def _in_use(self, reason: str, waited_sec: float) -> DeviceUnreachableError:
        return DeviceUnreachableError(
            f"{self._name} is in use: {reason}. Waited {waited_sec:g} s for it. End the "
            "other measurement, or wait until it has ended; several boards can be shared with a "
            "tracker (docs/devices.md). A run that was stopped by this goes on with --resume."
        )


class RpcDevice(Device):
    """A board, or several of the same kind that measure in parallel.

    Args:
        address: Address of the server or tracker.
        name: The device as the user named it.
        cpu: LLVM's name of the processor; "" to take it from the device's description.
        cores: The cores to run on, as in base.Device.
        reconnect_sec: How many seconds to wait for a board that was lost.
        kind: The kind of device: "rpc", or "adb" for a phone.
        revive: Called when the board cannot be reached, as in Link.
        linker: The command that links libraries, as in base.Device.
        gpu: The kind of GPU to use, as in base.Device; "" for none.
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
        # The link used last serves the next call, because its process and buffers are warm.
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
        """See Device; each board works on one item at a time."""
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
        """Gives up a link so that the other boards do its work; returns False if it is the last."""
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
