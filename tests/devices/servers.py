"""Real servers for the tests, here or on the emulated board, and TVM's own tracker."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import select
import signal
import socket
import subprocess
import sys
import time

import psutil

ROOT = pathlib.Path(__file__).resolve().parents[2]
_START_SEC = 400


@dataclasses.dataclass
class Server:
    process: subprocess.Popen
    port: int

    def kill(self):
        """As the out-of-memory killer would; its session notices within two seconds."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def cut_power(self):
        """Its session ends in the same moment, in the middle of whatever it does."""
        sessions = psutil.Process(self.process.pid).children()
        self.process.send_signal(signal.SIGSTOP)  # it shall not see its session end
        for session in sessions:
            session.kill()
        self.kill()


def native_environment(**more):
    return {**os.environ, "PYTHONPATH": str(ROOT), **more}


@contextlib.contextmanager
def running(*options, python=sys.executable, environment=None, port=0):
    """A server on 127.0.0.1, ended with the context."""
    command = [python, "-m", "cprune_tf.devices.agent.server", f"--port={port}", *options]
    process = subprocess.Popen(
        command,
        env=environment or native_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        bufsize=1,
    )
    try:
        yield Server(process, _port(process))
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
        process.kill()
        process.wait(10)
        process.stdout.close()


@contextlib.contextmanager
def tracker(port=None):
    """TVM's RPC tracker; gives its port."""
    port = port or free_port()
    command = [sys.executable, "-m", "tvm.exec.rpc_tracker", "--host=127.0.0.1"]
    process = subprocess.Popen(
        [*command, f"--port={port}", f"--port-end={port + 1}", "--silent"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # it runs in a child of its own
    )
    try:
        wait_for(lambda: accepts(port))
        yield port
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def accepts(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def wait_for(condition, timeout_sec=_START_SEC):
    deadline = time.monotonic() + timeout_sec
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def _port(process):
    lines = []
    while True:
        assert select.select([process.stdout], [], [], _START_SEC)[0], lines
        line = process.stdout.readline()
        lines.append(line)
        assert line, lines
        if line.startswith("LISTENING "):
            return json.loads(line.partition(" ")[2])["port"]
