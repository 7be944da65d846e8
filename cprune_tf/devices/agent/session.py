"""The device's side of one RPC session: a process that answers calls of `on_device`'s functions.

It needs only numpy and TVM's runtime, and LiteRT (or tflite-runtime) for `.tflite` files.
"""

from __future__ import annotations

import dataclasses
import faulthandler
import gc
import importlib
import os
import pathlib
import socket
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from cprune_tf.devices.agent import on_device, wire
from cprune_tf.devices.agent.description import package_version
from cprune_tf.devices.agent.runtimes import load_tvm
from cprune_tf.devices.agent.storage import Storage

# To be incremented when hosts and servers of different versions would misunderstand each other.
PROTOCOL = 3
CALL = "cprune_tf.call"

_LONGEST_TIMER_SEC = 1e6
_WATCH_PERIOD_SEC = 1.0
_ON_DEVICE = (
    "describe",
    "profile_litert",
    "run_benchmark_model",
    "run_litert",
    "run_tvm",
    "time_kernel",
    "time_models",
    "why_no_accelerator",
)


@dataclasses.dataclass(frozen=True)
class Limits:
    """The limits of a session.

    Attributes:
        max_call_sec: A call that takes longer ends the session, even if the host allows more time.
        max_session_sec: A session that is older ends as soon as no call is running.
        max_idle_sec: A session ends after this time without a call.
        max_stored_bytes: Largest total size in bytes of the files that hosts sent.
    """

    max_call_sec: float = 3600.0
    max_session_sec: float = 6 * 3600.0
    max_idle_sec: float = 600.0
    max_stored_bytes: int = 1 << 30


@dataclasses.dataclass(frozen=True)
class ServerState:
    """The facts about the server that a session knows.

    Attributes:
        server_id: The identity of the server process; a restart changes it.
        session_id: The number of this session on the server, from 1.
        work_dir: The server's folder.
        ended: For each earlier session that crashed, how it ended, by session_id.
    """

    server_id: str
    session_id: int
    work_dir: pathlib.Path
    ended: Mapping[int, str]


class Session:
    """Answers calls until the connection ends."""

    def __init__(self, state: ServerState, limits: Limits) -> None:
        self._state = state
        self._limits = limits
        self._storage = Storage(state.work_dir / "files", limits.max_stored_bytes)
        self._start = self._last_call = time.monotonic()
        self._busy = False
        self._functions: dict[str, Callable[..., Any]] = {
            "hello": self._hello,
            "how_ended": lambda session_id: state.ended.get(session_id),
            "stored_bytes": self._storage.stored_bytes,
            "store": lambda data, **rest: self._storage.store(data=data.tobytes(), **rest),
            **{name: getattr(on_device, name) for name in _ON_DEVICE},
        }

    def serve(self, descriptor: int) -> None:
        """Serves one connection with TVM's own loop; returns when it is closed.

        Args:
            descriptor: File descriptor of the connected socket, after the handshake.
        """
        load_tvm()
        register = importlib.import_module("tvm_ffi").register_global_func
        register(CALL, self.answer, override=True)
        self._confine_stock_functions(register)
        threading.Thread(
            target=self._watch, args=(descriptor,), daemon=True, name="session-limits"
        ).start()
        importlib.import_module("tvm_ffi").get_global_func("rpc.ServerLoop")(descriptor)

    def answer(self, request: bytes) -> bytearray:
        """Runs one call; an exception becomes part of the answer.

        Args:
            request: The bytes of wire.encode([function, timeout_sec, arguments]).

        Returns:
            The bytes of wire.encode([True, result]) or wire.encode([False, reason]).
        """
        self._busy = True
        try:
            function, timeout_sec, arguments = wire.decode(bytes(request), self._storage.path)
            limit_sec = min(timeout_sec, self._limits.max_call_sec, _LONGEST_TIMER_SEC)
            # This timer needs no interpreter lock, so it also ends native code that hangs.
            faulthandler.dump_traceback_later(limit_sec, exit=True)
            try:
                answer = wire.encode([True, self._find(function)(**arguments)])
            finally:
                faulthandler.cancel_dump_traceback_later()
        except Exception as error:
            traceback.print_exc()
            answer = wire.encode([False, f"{type(error).__name__}: {error}"])
            gc.collect()  # reference cycles of the failed call may keep a library loaded
        finally:
            self._last_call = time.monotonic()
            self._busy = False
        return bytearray(answer)

    def _find(self, function: str) -> Callable[..., Any]:
        if function not in self._functions:
            raise ValueError(
                f"This server has no function {function!r}; it has {', '.join(self._functions)}."
            )
        return self._functions[function]

    def _hello(self) -> dict[str, Any]:
        return {
            "protocol": PROTOCOL,
            "server_id": self._state.server_id,
            "session_id": self._state.session_id,
            "tvm": package_version("apache-tvm"),
            "max_call_sec": self._limits.max_call_sec,
        }

    def _confine_stock_functions(self, register: Callable[..., Any]) -> None:
        """Replaces TVM's file functions, which accept any path, by ones confined to one folder."""
        folder = self._state.work_dir / "stock"
        folder.mkdir(exist_ok=True)

        def confined(name: str) -> str:
            if not name or name != os.path.basename(name) or name in (".", ".."):
                raise ValueError(
                    f"{name!r} is not a plain file name; expected a name without folders."
                )
            return str(folder / name)

        def upload(name: str, data: bytes) -> None:
            pathlib.Path(confined(name)).write_bytes(bytes(data))

        functions: dict[str, Callable[..., Any]] = {
            "workpath": confined,
            "upload": upload,
            "download": lambda name: bytearray(pathlib.Path(confined(name)).read_bytes()),
            "remove": lambda name: pathlib.Path(confined(name)).unlink(missing_ok=True),
            "listdir": lambda _: ",".join(sorted(os.listdir(folder))),
            "load_module": lambda name: load_tvm().runtime.load_module(confined(name)),
        }
        for name, function in functions.items():
            register(f"tvm.rpc.server.{name}", function, override=True)

    def _watch(self, descriptor: int) -> None:
        connection = socket.socket(fileno=os.dup(descriptor))
        while True:
            time.sleep(_WATCH_PERIOD_SEC)
            if self._busy and _is_gone(connection):
                # TVM's loop notices this only after the call, and would keep other hosts out until
                # then.
                print("session ended: its host is gone", flush=True)
                os._exit(0)
            now = time.monotonic()
            too_old = now - self._start > self._limits.max_session_sec
            too_idle = now - self._last_call > self._limits.max_idle_sec
            if not self._busy and (too_old or too_idle):
                print(f"session ended: {'too old' if too_old else 'idle'}", flush=True)
                os._exit(0)


def _is_gone(connection: socket.socket) -> bool:
    """Returns whether the other side has closed the connection.

    A host sends nothing during a call, so nothing of a request is read here.
    """
    try:
        return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
