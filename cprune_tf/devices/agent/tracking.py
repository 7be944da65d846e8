"""A board's registration with TVM's RPC tracker, renewed when the tracker restarts."""

from __future__ import annotations

import socket
import time
from typing import Any

_RETRY_SEC = 2.0
_ANSWER_TIMEOUT_SEC = 10.0
# If a host was assigned this board and does not connect within this time, the offer is void.
_UNUSED_OFFER_SEC = 10.0


class TrackerLink:
    """Offers this server to a tracker under its key.

    Args:
        address: The tracker's address, "HOST:PORT".
        key: The key under which hosts ask the tracker for a board.
        port: The TCP port that this server listens on.
    """

    PERIOD_SEC = 1.0

    def __init__(self, address: str, key: str, port: int) -> None:
        host, _, tracker_port = address.rpartition(":")
        self._address = (host, int(tracker_port))
        self._key = key
        self._port = port
        self._socket: socket.socket | None = None
        self._match_key = ""
        self._assigned_since: float | None = None

    def offer(self) -> str:
        """Tells the tracker that this board is free; retries until a tracker answers.

        Returns:
            The key that the next host will send; the tracker hands it out, and it is used once.
        """
        from tvm.rpc import base

        while True:
            self._match_key = base.random_key(self._key)
            self._assigned_since = None
            try:
                self._ask([base.TrackerCode.PUT, self._key, (self._port, self._match_key), None])
                return self._match_key
            except OSError as error:
                self._drop()
                print(f"tracker {self._address[0]}:{self._address[1]}: {error}", flush=True)
                time.sleep(_RETRY_SEC)

    def is_offered(self) -> bool:
        """Asks the tracker whether a host may still connect with the key."""
        from tvm.rpc import base

        try:
            pending = self._ask([base.TrackerCode.GET_PENDING_MATCHKEYS])
        except OSError:
            self._drop()
            return False
        if self._match_key in pending:
            self._assigned_since = None
            return True
        now = time.monotonic()
        self._assigned_since = self._assigned_since or now
        return now - self._assigned_since < _UNUSED_OFFER_SEC

    def _ask(self, message: list[Any]) -> Any:
        from tvm.rpc import base

        if self._socket is None:
            self._connect()
        base.sendjson(self._socket, message)
        return base.recvjson(self._socket)

    def _connect(self) -> None:
        from tvm.rpc import base

        connection = socket.create_connection(self._address, timeout=_ANSWER_TIMEOUT_SEC)
        self._socket = connection
        word = base.RPC_TRACKER_MAGIC.to_bytes(4, "little")
        connection.sendall(word)
        if base.recvall(connection, 4) != word:
            raise OSError("this is no TVM RPC tracker")
        info = {"key": f"server:{self._key}", "addr": (None, self._port)}
        base.sendjson(connection, [base.TrackerCode.UPDATE_INFO, info])
        base.recvjson(connection)

    def _drop(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket = None
