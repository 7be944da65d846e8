r"""The server on a board or phone: offers TVM and LiteRT over TVM RPC, one session at a time.

    python -m cprune_tf.devices.agent.server                                  this machine only
    python -m cprune_tf.devices.agent.server --host=0.0.0.0 --key=SECRET      on a trusted network
    python -m cprune_tf.devices.agent.server --key=rpi4 --tracker=HOST:9190   one of several boards

The server needs only numpy, apache-tvm, apache-tvm-ffi and ai-edge-litert (or tflite-runtime). Each
session runs in a forked process, so that its crashes do not end the server.
"""

from __future__ import annotations

import argparse
import hmac
import json
import os
import pathlib
import select
import shutil
import signal
import socket
import struct
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from cprune_tf.devices.agent.environment import available_cores, process_environment
from cprune_tf.devices.agent.keepalive import keep_alive

if TYPE_CHECKING:
    from cprune_tf.devices.agent.tracking import TrackerLink

LOOPBACK = ("127.0.0.1", "::1", "localhost")
# TVM's handshake: the client sends [magic, length, "client:KEY options..."]. TVM's proxy answers
# IN_USE for a key that another client uses already.
MAGIC, IN_USE, MISMATCH = 0xFF271, 0xFF272, 0xFF273
_WORD = struct.Struct("<i")
_HANDSHAKE_TIMEOUT_SEC = 10.0
_WAKE_SEC = 5.0
_MAX_KEY_BYTES = 4096
_LOG_EXCERPT_BYTES = 600
_REMEMBERED_SESSIONS = 100
_TRUST = (
    "TVM RPC is neither encrypted nor authenticated (the key is no password: it is sent in clear "
    "text), and whoever connects can run any code here. Use it on a trusted network only, or "
    "listen on 127.0.0.1 and forward the port with ssh or adb."
)


class Server:
    """Accepts one session after the other, each in a forked process."""

    def __init__(self, options: argparse.Namespace, work_dir: pathlib.Path) -> None:
        self._options = options
        self._work_dir = work_dir
        self._server_id = uuid.uuid4().hex
        self._num_sessions = 0
        self._ended: dict[int, str] = {}
        self._listener = socket.create_server((options.host, options.port), backlog=8)
        self._tracker: TrackerLink | None = None
        if options.tracker:
            from cprune_tf.devices.agent.tracking import TrackerLink

            self._tracker = TrackerLink(options.tracker, options.key, self.port)

    @property
    def port(self) -> int:
        """The TCP port that the server listens on."""
        return int(self._listener.getsockname()[1])

    def serve(self) -> NoReturn:
        """Serves for ever."""
        while True:
            expected = self._options.key if self._tracker is None else self._tracker.offer()
            connection = self._accept(expected)
            if connection is not None:
                with connection:
                    self._session(connection, expected)

    def _accept(self, expected: str) -> socket.socket | None:
        """Waits for a connection with the right key; None if the board must be offered again."""
        start = time.monotonic()
        while True:
            # A tracker is asked often; otherwise this only wakes up to check `exit_after_sec`.
            wait_sec = _WAKE_SEC if self._tracker is None else self._tracker.PERIOD_SEC
            if select.select([self._listener], [], [], wait_sec)[0]:
                connection = self._greet(expected)
                if connection is not None:
                    return connection
            elif self._tracker is not None and not self._tracker.is_offered():
                return None
            elif 0 < self._options.exit_after_sec < time.monotonic() - start:
                sys.exit(0)

    def _greet(self, expected: str, *, in_use: bool = False) -> socket.socket | None:
        """Accepts the next connection; None if it was refused, of which the client is told."""
        connection, address = self._listener.accept()
        try:
            self._shake_hands(connection, expected, in_use)
        except OSError as error:
            print(f"refused {address[0]}: {error}", flush=True)
            connection.close()
            return None
        return connection

    def _shake_hands(self, connection: socket.socket, expected: str, in_use: bool) -> None:
        connection.settimeout(_HANDSHAKE_TIMEOUT_SEC)
        received = _read_key(connection)
        if not hmac.compare_digest(received.encode(), f"client:{expected}".encode()):
            connection.sendall(_WORD.pack(MISMATCH))
            raise OSError("the key differs")
        if in_use:
            connection.sendall(_WORD.pack(IN_USE))
            raise OSError("a session is under way")
        reply = f"server:{self._options.key}".encode()
        connection.sendall(_WORD.pack(MAGIC) + _WORD.pack(len(reply)) + reply)
        connection.settimeout(None)
        keep_alive(connection)

    def _session(self, connection: socket.socket, expected: str) -> None:
        from cprune_tf.devices.agent.exits import describe_exit

        self._num_sessions += 1
        log = self._work_dir / "session.log"
        start = time.monotonic()
        sys.stdout.flush()
        # Only the child holds the write end, so the read end reports when the child ends.
        child_end, write_end = os.pipe()
        child = os.fork()
        if child == 0:
            self._serve_in_child(connection, log)
        connection.close()
        os.close(write_end)
        # Other clients are refused at once instead of waiting in the queue.
        descriptors: list[int] = [child_end, self._listener.fileno()]
        while child_end not in select.select(descriptors, [], [])[0]:
            self._greet(expected, in_use=True)
        os.close(child_end)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        ended = ""
        if code != 0:
            printed = log.read_bytes()[:_LOG_EXCERPT_BYTES].decode("utf-8", "replace").strip()
            ended = describe_exit(code)
            output = f" It printed:\n{printed}" if printed else ""
            self._ended[self._num_sessions] = f"{ended}.{output}"
            self._ended.pop(self._num_sessions - _REMEMBERED_SESSIONS, None)
        duration = f"{time.monotonic() - start:.0f} s"
        print(f"session {self._num_sessions}: {duration} {ended}".rstrip(), flush=True)

    def _serve_in_child(self, connection: socket.socket, log: pathlib.Path) -> NoReturn:
        status = 1
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            self._listener.close()  # so that the port is free once the server is killed
            from cprune_tf.devices.agent.session import Limits, ServerState, Session
            from cprune_tf.devices.agent.worker import end_with_parent

            end_with_parent()
            with log.open("wb") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            state = ServerState(self._server_id, self._num_sessions, self._work_dir, self._ended)
            limits = Limits(
                max_call_sec=self._options.max_call_sec,
                max_session_sec=self._options.max_session_sec,
                max_idle_sec=self._options.max_idle_sec,
                max_stored_bytes=self._options.max_stored_mb << 20,
            )
            Session(state, limits).serve(connection.fileno())
            status = 0
        finally:
            os._exit(status)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the server until it is stopped.

    Args:
        arguments: The words of the command line; None for those of this process.
    """
    options = _parse(arguments)
    os.environ.update(process_environment(available_cores()))
    import cprune_tf.devices.agent.session  # noqa: F401 - loaded once for all forks
    from cprune_tf.devices.agent.runtimes import litert_interpreter, load_tvm, package_version

    try:
        load_tvm()  # loaded once for all sessions, which are forks of this process
    except ImportError as error:
        sys.exit(f"error: TVM can't be imported here ({error}); pip install apache-tvm==VERSION.")
    try:
        litert = litert_interpreter()[1]
    except ImportError as error:
        litert = f"none: {error}"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    work_dir = pathlib.Path(options.work_dir or tempfile.mkdtemp(prefix="cprune_tf_server_"))
    work_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        server = Server(options, work_dir)
        print(f"LISTENING {json.dumps({'host': options.host, 'port': server.port})}")
        print(f"TVM {package_version('apache-tvm')}; LiteRT: {litert}")
        print(f"a session ends after {options.max_session_sec:g} s; files go to {work_dir}")
        print(_TRUST, flush=True)
        server.serve()
    except OSError as error:
        sys.exit(f"error: cannot listen on {options.host}:{options.port}: {error.strerror}.")
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        if not options.work_dir:
            shutil.rmtree(work_dir, ignore_errors=True)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m cprune_tf.devices.agent.server",
        description=f"Serves TVM libraries and .tflite models of this device. {_TRUST}",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=9090, help="0: any free one")
    parser.add_argument(
        "--key", default="", help="the key that hosts must send; a tracker lists the board under it"
    )
    parser.add_argument(
        "--tracker", default="", help="HOST:PORT of `python -m tvm.exec.rpc_tracker`"
    )
    parser.add_argument(
        "--work_dir", default="", help="where files go; default: a temporary folder"
    )
    parser.add_argument("--max_call_sec", type=float, default=3600.0)
    parser.add_argument("--max_session_sec", type=float, default=6 * 3600.0)
    parser.add_argument("--max_idle_sec", type=float, default=600.0)
    parser.add_argument("--max_stored_mb", type=int, default=1024)
    parser.add_argument(
        "--exit_after_sec", type=float, default=0, help="end after so long without a session"
    )
    options = parser.parse_args(arguments)
    if options.host not in LOOPBACK and not options.key:
        parser.error(f"--host={options.host} needs a --key. {_TRUST}")
    if options.tracker and not options.key:
        parser.error("--tracker needs a --key: the name that hosts ask the tracker for.")
    if options.tracker and not options.tracker.rpartition(":")[2].isdigit():
        parser.error(f"--tracker={options.tracker}; expected HOST:PORT.")
    return options


def _read_key(connection: socket.socket) -> str:
    if _WORD.unpack(_read(connection, 4))[0] != MAGIC:
        raise OSError("no TVM RPC client")
    size = _WORD.unpack(_read(connection, 4))[0]
    if not 0 < size <= _MAX_KEY_BYTES:
        raise OSError(f"a key of {size} bytes")
    # What follows the key are options of TVM's client, e.g. "-timeout=10".
    return (_read(connection, size).decode("utf-8", "replace").split() or [""])[0]


def _read(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise OSError("the connection was closed in the handshake")
        data += part
    return data


if __name__ == "__main__":
    main()
