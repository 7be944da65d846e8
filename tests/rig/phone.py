"""The emulated phone as tests handle it: plugged in and out, in a private network namespace.

Only started by `in_private_network`, never outside: adbd is an unauthenticated shell.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np

from cprune_tf.devices import adb
from tests.devices import private_network
from tests.devices.servers import accepts, wait_for

PORT = 5599
SERIAL = f"127.0.0.1:{PORT}"


def in_private_network(rig, arguments, timeout_sec):
    """Runs Python with arguments where a phone may be; gives what came of it."""
    environment = {"CPRUNE_TF_RIG": str(rig.root), "ANDROID_ADB_SERVER_PORT": "5099"}
    return private_network.run_python(arguments, environment, timeout_sec)


@contextlib.contextmanager
def adb_server(rig, home):
    """adb's server, with a home of its own for its keys."""
    os.environ["HOME"] = str(home)
    os.environ["ADB"] = str(rig.adb)
    server = subprocess.Popen(
        [rig.adb, "nodaemon", "server"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_for(lambda: accepts(int(os.environ["ANDROID_ADB_SERVER_PORT"])), 20)
        yield
    finally:
        server.kill()
        server.wait(10)


class EmulatedPhone:
    """A phone that can be plugged in and out."""

    def __init__(self, rig, megabytes=1024):
        self._rig = rig
        self._environment = {**os.environ, "ADBD_PORT": str(PORT), "PHONE_MB": str(megabytes)}
        self._environment["PYTHON"] = sys.executable
        self._process = None

    @property
    def storage(self):
        """The phone's /data/local/tmp, seen from here."""
        return pathlib.Path(f"/proc/{self._process.pid}/root/data/local/tmp")

    def plug_in(self):
        """Starts it, if it was taken away, and waits until adb may use it."""
        if self._process is None:
            self._process = subprocess.Popen(
                [self._rig.phone],
                env=self._environment,
                start_new_session=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            wait_for(lambda: accepts(PORT), 20)
        subprocess.run([self._rig.adb, "connect", SERIAL], capture_output=True, check=True)
        wait_for(lambda: self._state() == "device", 20)

    def unplug(self):
        """As if its cable was pulled: the phone runs on, but the way to it is gone."""
        subprocess.run([self._rig.adb, "disconnect", SERIAL], capture_output=True, check=True)
        wait_for(lambda: self._state() is None, 20)

    def freeze(self):
        """Nothing moves on either side of the cable."""
        os.kill(self._process.pid, signal.SIGSTOP)

    def thaw(self):
        os.kill(self._process.pid, signal.SIGCONT)

    def take_away(self):
        """Ends it: everything on it is gone, with a phone's RAM disk."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(10)
        self._process = None

    def _state(self):
        return adb.Adb("", str(self._rig.adb)).states().get(SERIAL)


@contextlib.contextmanager
def plugged_in(rig, megabytes=1024):
    phone = EmulatedPhone(rig, megabytes)
    phone.plug_in()
    try:
        yield phone
    finally:
        phone.take_away()


def computes(device, dense):
    """Checks a model's outputs there; see the fixture `dense`."""
    file, weights = dense
    x = np.random.default_rng(0).normal(size=(3, 16)).astype(np.float32)
    outputs = device.run_model(file, x)[0]
    np.testing.assert_allclose(outputs, np.maximum(x @ weights, 0), atol=1e-5)
