"""A child process that runs named functions, so that a crash or hang costs only one call.

The parent measures the time itself and reads the child's exit status. So it knows the reason for a
failure (which signal, how long), even if native code keeps the child from answering.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from typing import IO, Any

from cprune_tf.devices.agent.exits import describe_exit
from cprune_tf.devices.agent.worker import HEADER
from cprune_tf.devices.errors import DeviceCrashError, DeviceError, DeviceTimeoutError

_START_TIMEOUT_SEC = 120.0
_LOG_EXCERPT_BYTES = 600
_PACKAGE_PARENT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


class _EndOfStreamError(Exception):
    pass


class _DeadlineError(Exception):
    pass


class WorkerProcess:
    """One child process, started at the first call and again after every crash or timeout.

    Functions are named "package.module:function" and run one at a time; arguments and results are
    pickled. The child ends when the parent ends. Several threads may share one worker.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        """Prepares the worker; the process starts with the first call.

        Args:
            environment: Environment variables of the child, in addition to this process's.
        """
        self._environment = dict(environment or {})
        self._lock = threading.RLock()
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None
        self._to_child = -1
        self._from_child = -1

    @property
    def pid(self) -> int | None:
        """The child's process id, or None while there is no child."""
        return self._process.pid if self._process is not None else None

    def call(self, function: str, *args: Any, timeout_sec: float, **kwargs: Any) -> Any:
        """Runs a function in the child and returns its result.

        Args:
            function: "package.module:function".
            *args: Positional arguments, picklable.
            timeout_sec: Time the function may take, without the start of the child.
            **kwargs: Keyword arguments, picklable.

        Returns:
            The function's result.

        Raises:
            DeviceTimeoutError: The call took too long; the child was killed.
            DeviceCrashError: The child ended; the message names the signal or exit status.
            DeviceError: The function raised; the message says what. The child lives on.
        """
        request = pickle.dumps((function, args, kwargs, timeout_sec), protocol=5)
        with self._lock:
            self._start()
            try:
                assert self._log is not None
                self._log.truncate(0)
                deadline = time.monotonic() + timeout_sec
                self._write(request, deadline)
                ok, value = pickle.loads(self._read(deadline))
            except (_EndOfStreamError, BrokenPipeError):
                raise self._crash(function) from None
            except _DeadlineError:
                self.kill()
                raise DeviceTimeoutError(
                    f"{_short(function)} did not end within {timeout_sec:g} s; its process was "
                    "killed. Raise the time limit if that is too short for this device."
                ) from None
            except BaseException:  # the next call must not read the interrupted call's answer
                self.kill()
                raise
        if not ok:
            raise DeviceError(f"{_short(function)} failed: {value}")
        return value

    def kill(self) -> None:
        """Ends the child now; the next call starts another."""
        with self._lock:
            if self._process is None:
                return
            self._process.kill()
            self._process.wait()
            self._forget()

    def close(self) -> None:
        """Closes the child's input, waits for the child to end, and kills it if it does not."""
        with self._lock:
            if self._process is None:
                return
            os.close(self._to_child)
            self._to_child = -1
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=2.0)
            self.kill()

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _start(self) -> None:
        if self._process is not None and self._process.poll() is None:
            return
        if self._process is not None:
            self._forget()
        child_in, self._to_child = os.pipe()
        self._from_child, child_out = os.pipe()
        os.set_blocking(self._to_child, False)
        path = os.environ.get("PYTHONPATH", "")
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, (_PACKAGE_PARENT, path))),
            **self._environment,
        }
        # In append mode the parent may truncate the file while the child has it open.
        self._log = tempfile.TemporaryFile(mode="a+b")  # noqa: SIM115 - lives as long as the child
        try:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "cprune_tf.devices.agent.worker",
                    str(child_in),
                    str(child_out),
                ],
                pass_fds=(child_in, child_out),
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                env=environment,
                start_new_session=True,  # so that only the parent receives Ctrl-C
            )
        except OSError:
            self._forget()
            raise
        finally:
            os.close(child_in)
            os.close(child_out)
        try:
            self._read(time.monotonic() + _START_TIMEOUT_SEC)
        except _EndOfStreamError:
            raise self._crash("the start of the worker process") from None
        except _DeadlineError:
            self.kill()
            raise DeviceTimeoutError(
                f"The worker process did not start within {_START_TIMEOUT_SEC:g} s."
            ) from None

    def _forget(self) -> None:
        for descriptor in (self._to_child, self._from_child):
            if descriptor >= 0:
                os.close(descriptor)
        self._to_child = self._from_child = -1
        if self._log is not None:
            self._log.close()
        self._log = None
        self._process = None

    def _write(self, data: bytes, deadline: float) -> None:
        view = memoryview(HEADER.pack(len(data)) + data)
        while view:
            _wait(self._to_child, select.POLLOUT, deadline)
            with contextlib.suppress(BlockingIOError):
                view = view[os.write(self._to_child, view) :]

    def _read(self, deadline: float) -> bytes:
        (size,) = HEADER.unpack(self._read_exactly(HEADER.size, deadline))
        return self._read_exactly(size, deadline)

    def _read_exactly(self, size: int, deadline: float) -> bytes:
        parts = []
        while size:
            _wait(self._from_child, select.POLLIN, deadline)
            part = os.read(self._from_child, min(size, 1 << 20))
            if not part:
                raise _EndOfStreamError
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def _crash(self, function: str) -> DeviceCrashError:
        assert self._process is not None
        try:
            status: int | None = self._process.wait(timeout=5.0)
        except subprocess.TimeoutExpired:
            status = None
        printed = self._log_excerpt()
        self.kill()
        reason = "closed its connection" if status is None else describe_exit(status)
        printed = f" It printed:\n{printed}" if printed else ""
        return DeviceCrashError(f"{_short(function)}: its process {reason}.{printed}")

    def _log_excerpt(self) -> str:
        """Returns the first lines the child printed in this call; later ones are mostly traces."""
        if self._log is None:
            return ""
        excerpt = os.pread(self._log.fileno(), _LOG_EXCERPT_BYTES, 0)
        return excerpt.decode("utf-8", "replace").strip()


def _wait(descriptor: int, event: int, deadline: float) -> None:
    poller = select.poll()
    poller.register(descriptor, event)
    while True:
        remaining_sec = deadline - time.monotonic()
        if remaining_sec <= 0:
            raise _DeadlineError
        if poller.poll(min(remaining_sec, 3600.0) * 1000 + 1):
            return


def _short(function: str) -> str:
    return function.rpartition(":")[2]
