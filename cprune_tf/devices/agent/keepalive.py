"""Tells a connection whose other side is gone without a word: power cut, cable pulled, host asleep.

Nothing arrives then, and whoever waits for an answer would wait until the call's own limit. The
kernel asks the other side now and then, and ends the connection where nothing answers. It answers
there without the process, so a measurement is not disturbed and one that hangs is still "there".
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import socket

# A board that is gone is noticed within this time.
SILENCE_SEC = 20
_PROBES = 3
_PROBE_SEC = SILENCE_SEC // (_PROBES + 1)
_OPEN_FILES = pathlib.Path("/proc/self/fd")


def keep_alive(connection: socket.socket) -> None:
    """Ends a TCP connection some SILENCE_SEC after its other side has gone.

    Args:
        connection: Connected.
    """
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    # Where the system cannot be told when to ask, it asks after two hours.
    for name, value in (
        ("TCP_KEEPIDLE", _PROBE_SEC),
        ("TCP_KEEPINTVL", _PROBE_SEC),
        ("TCP_KEEPCNT", _PROBES),
        ("TCP_USER_TIMEOUT", SILENCE_SEC * 1000),  # for what was sent and not acknowledged
    ):
        option = getattr(socket, name, None)
        if option is not None:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)


def keep_own_connections_alive() -> None:
    """Does so with all connections of this process: TVM's client gives no access to its own."""
    with contextlib.suppress(FileNotFoundError):  # only Linux lists them
        for entry in os.listdir(_OPEN_FILES):
            # Pipes, files, listening sockets, and what was closed meanwhile.
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(int(entry))) as found:
                if found.family in (socket.AF_INET, socket.AF_INET6):
                    found.getpeername()
                    keep_alive(found)
