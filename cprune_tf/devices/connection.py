"""The host's side of RPC sessions, run in a child process by `rpc.Link`.

TVM's client blocks in native code and aborts on some broken connections; in a child that costs one
call. Functions here return ("ok", value), ("failed", reason) or, where the connection is at fault,
("lost", reason); ("busy", reason) where the board serves another session, ("refused", reason) where
trying again is no use.
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
# After a pause the session may have ended (idle, too old, server restarted).
_FRESH_SEC = 2.0
_SHORT_CALL_SEC = 30.0


@dataclasses.dataclass(frozen=True)
class Address:
    """Where a session comes from.

    Attributes:
        scheme: "rpc": the server itself; "tracker": any free board of the key.
        host: Name or IP address.
        port: TCP port.
        key: What the server was started with.
    """

    scheme: str
    host: str
    port: int
    key: str


@dataclasses.dataclass
class _Session:
    call: Any
    last_used: float


# This child process's connections; it has one at most, but for addresses that change.
_SESSIONS: dict[Address, _Session] = {}


def connect(address: Address) -> Answer:
    """Makes sure that there is a session.

    Args:
        address: Where to.

    Returns:
        What the session says of itself (session.Session._hello), or why there is none.
    """
    session = _SESSIONS.get(address)
    stale = session is not None and time.monotonic() - session.last_used > _FRESH_SEC
    if stale and invoke(address, "hello", _SHORT_CALL_SEC, {})[0] != "ok":
        session = None
    try:
        if session is None:
            _SESSIONS[address] = _Session(_open(address), time.monotonic())
    except Exception as error:  # TVM raises whatever its native side says
        # The words of TVM's client for the server's IN_USE.
        if "server already have key" in str(error):
            return "busy", "its server has one session at a time, and another one is under way"
        # Its words for MISMATCH. A tracker's board has a new key for each session: trying helps.
        if "cannot find server that matches key" in str(error) and address.scheme == "rpc":
            return "refused", "the server was started with another key"
        return "lost", _reason(error)
    return invoke(address, "hello", _SHORT_CALL_SEC, {})


def send(address: Address, name: str, path: str) -> Answer:
    """Makes sure that a file is in the board's storage; goes on where it stopped.

    Args:
        address: Address of a connected session.
        name: storage.file_name of the file.
        path: The file on this machine.

    Returns:
        The number of bytes stored.
    """
    size = os.path.getsize(path)
    status, have = invoke(address, "stored_bytes", _SHORT_CALL_SEC, {"name": name})
    if status != "ok" or have == size > 0:
        return status, have
    if have > size:
        have = 0
    with open(path, "rb") as file:
        while True:
            file.seek(have)
            data = np.frombuffer(file.read(_CHUNK_BYTES), np.uint8)
            part = {"name": name, "size": size, "offset": have, "data": data}
            status, have = invoke(address, "store", _SHORT_CALL_SEC, part)
            if status != "ok" or have >= size:
                return status, have


def invoke(
    address: Address, function: str, timeout_sec: float, arguments: dict[str, Any]
) -> Answer:
    """Calls a function of the session.

    Args:
        address: Address of a connected session.
        function: Its name there.
        timeout_sec: The session ends itself if it takes longer.
        arguments: See wire.encode.

    Returns:
        Its result.
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
    """How many boards of the address's key a tracker knows, free or not.

    Args:
        address: Address of a tracker.

    Returns:
        Their number.
    """
    import tvm.rpc

    try:
        socket.create_connection((address.host, address.port), _CONNECT_TIMEOUT_SEC).close()
        tracker = tvm.rpc.connect_tracker(address.host, address.port)
        return "ok", len(_boards(tracker.summary(), address.key))
    except Exception as error:
        return "lost", _reason(error)


def _open(address: Address) -> Any:
    """A new session's function `CALL`."""
    import tvm.rpc

    # TVM waits a minute where nothing listens, and says less of it.
    socket.create_connection((address.host, address.port), _CONNECT_TIMEOUT_SEC).close()
    if address.scheme == "tracker":
        tracker = tvm.rpc.connect_tracker(address.host, address.port)
        listed = tracker.summary()
        boards, queue = _boards(listed, address.key), listed["queue_info"].get(address.key, {})
        # A request that waits for a board stays with the tracker even if we give up: never wait.
        if not queue.get("free"):
            known = f"{len(boards)} boards of key {address.key!r}, none of them free"
            raise ConnectionError(f"the tracker knows {known}")
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
