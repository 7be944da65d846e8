"""Detects connections whose other side vanished: power cut, cable pulled, host asleep.

No message announces such a loss, so a caller would wait for its answer until the call's time limit.
With TCP keep-alive, the kernel probes the other side now and then and ends the connection if
nothing answers. The other kernel answers without its process, so probes neither disturb a
measurement nor mistake a hanging process for a lost one.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import socket

# A lost board is noticed within about this time.
SILENCE_SEC = 20
_PROBES = 3
_PROBE_SEC = SILENCE_SEC // (_PROBES + 1)
_OPEN_FILES = pathlib.Path("/proc/self/fd")


def keep_alive(connection: socket.socket) -> None:
    """Lets the kernel end a TCP connection about SILENCE_SEC after its other side vanished.

    Args:
        connection: A connected TCP socket.
    """
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    # A system without these options probes only after two hours.
    for name, value in (
        ("TCP_KEEPIDLE", _PROBE_SEC),
        ("TCP_KEEPINTVL", _PROBE_SEC),
        ("TCP_KEEPCNT", _PROBES),
        ("TCP_USER_TIMEOUT", SILENCE_SEC * 1000),  # for sent data without acknowledgement
    ):
        option = getattr(socket, name, None)
        if option is not None:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)


def keep_own_connections_alive() -> None:
    """Applies keep_alive to all TCP connections of this process.

    TVM's client gives no access to its socket, so all open files are searched.
    """
    with contextlib.suppress(FileNotFoundError):  # only Linux lists open files
        for entry in os.listdir(_OPEN_FILES):
            # OSError: a pipe, a file, a listening socket, or a file that was closed meanwhile.
            with (
                contextlib.suppress(OSError),
                socket.socket(fileno=os.dup(int(entry))) as connection,
            ):
                if connection.family in (socket.AF_INET, socket.AF_INET6):
                    connection.getpeername()
                    keep_alive(connection)
