"""The host's side of RPC sessions, run in a child process by `rpc.Link`.

TVM's client blocks in native code and aborts on some broken connections; in a child process that
costs only one call. The functions here return ("ok", value), ("failed", reason) if the call itself
failed, ("lost", reason) if the connection failed, ("busy", reason) if the board serves another
session, or ("refused", reason) if trying again cannot help.
"""

from __future__ import annotations

import dataclasses
import os
import socket
import time
from typing import Any

import numpy as np

from cprune_tf.devices.agent import wire
from cprune_tf.devices.agent.keepalive import keep_own_connections_alive
from cprune_tf.devices.agent.session import CALL

Answer = tuple[str, Any]

_CHUNK_BYTES = 4 << 20
_CONNECT_TIMEOUT_SEC = 10.0
# A session that was not used for this long may have ended (idle, too old, server restarted).
_STALE_AFTER_SEC = 2.0
_SHORT_CALL_SEC = 30.0


@dataclasses.dataclass(frozen=True)
class Address:
    """The address of the server or tracker that gives sessions.

    Attributes:
        scheme: "rpc" for a server; "tracker" for any free board with the key.
        host: The host's name or IP address.
        port: The TCP port.
        key: The key that the server was started with.
    """

    scheme: str
    host: str
    port: int
    key: str


@dataclasses.dataclass
class _Session:
    call: Any
    last_used: float


# This child process's sessions by address; more than one only if the address changes.
_SESSIONS: dict[Address, _Session] = {}


def connect(address: Address) -> Answer:
    """Opens a session unless a working one exists.

    Args:
        address: The server or tracker to connect to.

    Returns:
        The session's description of itself (session.Session._hello), or why there is no session.
    """
    session = _SESSIONS.get(address)
    stale = session is not None and time.monotonic() - session.last_used > _STALE_AFTER_SEC
    if stale and invoke(address, "hello", _SHORT_CALL_SEC, {})[0] != "ok":
        session = None
    try:
        if session is None:
            _SESSIONS[address] = _Session(_open(address), time.monotonic())
    except Exception as error:  # TVM raises whatever its native side says
        # TVM's client says this when the server answers IN_USE.
        if "server already have key" in str(error):
            return "busy", "its server has one session at a time, and another one is under way"
        # It says this for MISMATCH. A tracker's board has a new key for each session, so trying
        # again helps there.
        if "cannot find server that matches key" in str(error) and address.scheme == "rpc":
            return "refused", "the server was started with another key"
        return "lost", _reason(error)
    return invoke(address, "hello", _SHORT_CALL_SEC, {})


def send(address: Address, name: str, path: str) -> Answer:
    """Sends a file to the board's storage; continues an interrupted transfer.

    Args:
        address: Address of a connected session.
        name: The file's name in the storage, from storage.file_name.
        path: The file on this machine.

    Returns:
        The number of bytes stored.
    """
    size = os.path.getsize(path)
    status, stored = invoke(address, "stored_bytes", _SHORT_CALL_SEC, {"name": name})
    if status != "ok" or stored == size > 0:
        return status, stored
    if stored > size:
        stored = 0
    with open(path, "rb") as file:
        while True:
            file.seek(stored)
            data = np.frombuffer(file.read(_CHUNK_BYTES), np.uint8)
            part = {"name": name, "size": size, "offset": stored, "data": data}
            status, stored = invoke(address, "store", _SHORT_CALL_SEC, part)
            if status != "ok" or stored >= size:
                return status, stored


def invoke(
    address: Address, function: str, timeout_sec: float, arguments: dict[str, Any]
) -> Answer:
    """Calls a function of the session.

    Args:
        address: Address of a connected session.
        function: The function's name in the session.
        timeout_sec: The session ends itself if the call takes longer.
        arguments: Keyword arguments of the types that wire.encode accepts.

    Returns:
        The function's result.
    """
    session = _SESSIONS.get(address)
    if session is None:
        return "lost", "there is no session"
    try:
        answer = session.call(wire.encode([function, timeout_sec, arguments]))
        ok, value = wire.decode(bytes(answer))
    except Exception as error:  # TVM raises whatever its native side says
        _SESSIONS.pop(address, None)
        return "lost", _reason(error)
    session.last_used = time.monotonic()
    return ("ok" if ok else "failed"), value


def num_boards(address: Address) -> Answer:
    """Counts the boards that a tracker lists under the address's key, free or not.

    Args:
        address: Address of a tracker.

    Returns:
        The number of boards.
    """
    import tvm.rpc

    try:
        socket.create_connection((address.host, address.port), _CONNECT_TIMEOUT_SEC).close()
        tracker = tvm.rpc.connect_tracker(address.host, address.port)
        return "ok", len(_boards(tracker.summary(), address.key))
    except Exception as error:
        return "lost", _reason(error)


def _open(address: Address) -> Any:
    """Opens a new session and returns its function `CALL`."""
    import tvm.rpc

    # TVM itself would wait a minute if nothing listens, and then give a vaguer reason.
    socket.create_connection((address.host, address.port), _CONNECT_TIMEOUT_SEC).close()
    if address.scheme == "tracker":
        tracker = tvm.rpc.connect_tracker(address.host, address.port)
        summary = tracker.summary()
        boards, queue = _boards(summary, address.key), summary["queue_info"].get(address.key, {})
        # A request that waits for a board stays in the tracker's queue even if we give up, so none
        # is made unless a board is free.
        if not queue.get("free"):
            raise ConnectionError(
                f"the tracker knows {len(boards)} boards of key {address.key!r}, none of them free"
            )
        session = tracker.request(address.key, max_retry=1)
    else:
        session = tvm.rpc.connect(address.host, address.port, address.key)
    keep_own_connections_alive()
    try:
        return session.get_function(CALL)
    except AttributeError as error:
        raise ConnectionError(
            "a TVM RPC server answers, but not cprune_tf's; start `python -m "
            "cprune_tf.devices.agent.server` there"
        ) from error


def _boards(summary: Any, key: str) -> list[Any]:
    return [server for server in summary["server_info"] if server["key"] == f"server:{key}"]


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else ''}"[:300]
