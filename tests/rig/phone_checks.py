"""The emulated phone: real adb, real adbd, an aarch64 userland.

Run by tests/devices/phone_test.py inside a private network namespace, never from outside: adbd is
an unauthenticated shell.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from cprune_tf.devices import DeviceUnreachableError, ModelFile, adb
from tests.devices.servers import accepts, wait_for

pytestmark = pytest.mark.skipif(
    "CPRUNE_TF_PRIVATE_NETWORK" not in os.environ, reason="only inside a private network namespace"
)

PORT = 5599
SERIAL = f"127.0.0.1:{PORT}"


class EmulatedPhone:
    """A phone that can be plugged in and out."""

    def __init__(self, rig, megabytes=1024):
        self._rig = rig
        self._environment = {**os.environ, "ADBD_PORT": str(PORT), "PHONE_MB": str(megabytes)}
        self._environment["PYTHON"] = sys.executable
        self._process = None

    def plug_in(self):
        self._process = subprocess.Popen(
            [self._rig.phone],
            env=self._environment,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_for(lambda: accepts(PORT), 20)
        subprocess.run([self._rig.adb, "connect", SERIAL], capture_output=True, check=True)
        wait_for(lambda: adb.Adb("", str(self._rig.adb)).states().get(SERIAL) == "device", 20)

    def pull_out(self):
        """As if its cable was pulled: everything on it is gone, with a phone's RAM disk."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(10)
        self._process = None


@pytest.fixture(scope="module", autouse=True)
def adb_server(rig, tmp_path_factory):
    os.environ["HOME"] = str(tmp_path_factory.mktemp("home"))
    os.environ["ADB"] = str(rig.adb)
    server = subprocess.Popen(
        [rig.adb, "nodaemon", "server"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wait_for(lambda: accepts(int(os.environ["ANDROID_ADB_SERVER_PORT"])), 20)
    yield
    server.kill()
    server.wait(10)


@pytest.fixture(scope="module")
def phone(rig, adb_server):
    emulated = EmulatedPhone(rig)
    emulated.plug_in()
    yield emulated
    emulated.pull_out()


@pytest.fixture(scope="module")
def device(rig, phone):
    with adb.AdbDevice(SERIAL, bundle_dir=rig.bundles, reconnect_sec=20) as opened:
        yield opened


@pytest.fixture(scope="module")
def dense(device, tmp_path_factory):
    """A small model compiled for the phone, and what it computes."""
    import tvm

    from cprune_tf.compiler.linker import linker_for
    from tests.devices.libraries import dense_module

    weights = np.random.default_rng(1).normal(size=(16, 4)).astype(np.float32)
    path = tmp_path_factory.mktemp("dense") / "dense.so"
    target = tvm.target.Target(device.target())
    with target:
        built = tvm.compile(dense_module(16, 4, weights=weights), target=target)
    built.export_library(str(path), fcompile=linker_for(target))
    return ModelFile("dense", "tvm", path), weights


def computes(device, dense):
    file, weights = dense
    x = np.random.default_rng(0).normal(size=(3, 16)).astype(np.float32)
    outputs = device.run_model(file, x)[0]
    np.testing.assert_allclose(outputs, np.maximum(x @ weights, 0), atol=1e-5)


def test_a_phone_that_is_not_there_is_named():
    with pytest.raises(DeviceUnreachableError, match=r"no phone 0123.*adb sees: .*USB debugging"):
        adb.AdbDevice("0123")


def test_the_only_phone_needs_no_serial(phone):
    assert adb.Adb("").selected().serial == SERIAL


def test_it_is_an_arm_phone_and_computes(device, dense):
    info = device.info()
    assert (info.kind, info.abi, info.emulated) == ("adb", "aarch64", True)
    assert all(info.runtimes.values())
    computes(device, dense)


def test_litert_runs_there_in_the_same_session(device, dense, tmp_path):
    import keras

    from cprune_tf import litert
    from cprune_tf.config import MeasureConfig

    model = keras.Sequential([keras.Input((8, 8, 2)), keras.layers.Conv2D(3, 3)])
    path = tmp_path / "conv.tflite"
    path.write_bytes(litert.convert(model))
    x = np.random.default_rng(0).random((2, 8, 8, 2), dtype=np.float32)
    file = ModelFile("conv", "litert", path)
    np.testing.assert_allclose(device.run_model(file, x)[0], model(x).numpy(), atol=1e-5)
    quick = MeasureConfig(warmup_ms=1, min_samples=3, max_time_sec=0.1, stable_fraction=0.9)
    for latency in device.time_models([file, dense[0]], 1, quick):
        assert latency.conditions.emulated
    (operator,) = device.profile_litert(path, 1, quick)
    assert operator.name.startswith("Convolution")


def test_the_bundle_is_not_pushed_twice(device, dense):
    ask = f"stat -c '%n %Y' {adb.ROOT}/bundle-*/complete"
    before = adb.Adb(SERIAL).shell(ask)
    device.close()
    computes(device, dense)
    assert adb.Adb(SERIAL).shell(ask) == before
    assert "parts" not in adb.Adb(SERIAL).shell(f"ls {adb.ROOT}")


def test_a_server_that_android_killed_is_started_again(device, dense):
    computes(device, dense)
    adb.Adb(SERIAL).shell(f"kill -9 {device._phone._process_id}")
    time.sleep(3)
    computes(device, dense)


def test_cleaning_up_leaves_nothing_and_it_can_be_used_again(device, dense):
    device.close()
    adb.clean_up(SERIAL)
    assert "cprune_tf" not in adb.Adb(SERIAL).shell("ls /data/local/tmp")
    wait_for(lambda: "devices.server" not in adb.Adb(SERIAL).shell("ps -o args"), 20)
    computes(device, dense)


def test_pulled_out_and_plugged_in_again_it_goes_on(device, phone, dense):
    phone.pull_out()
    wait_for(lambda: adb.Adb("").states().get(SERIAL) != "device", 20)
    with pytest.raises(DeviceUnreachableError, match=rf"adb:{SERIAL} cannot be reached.*--resume"):
        device.time_kernel(dense[0].path, "main", [])
    phone.plug_in()
    computes(device, dense)


def test_a_push_that_was_interrupted_goes_on(rig, phone, monkeypatch):
    """The phone is pulled out in the middle; here, two parts are there and one is cut short."""
    small = adb.Phone(adb.Adb(SERIAL), rig.bundles)
    monkeypatch.setattr(adb, "_PART_BYTES", 16 << 20)
    packed = adb.bundle.find_bundle(rig.bundles)
    small._push_parts(packed)
    names = adb.Adb(SERIAL).shell(f"cd {adb.ROOT}/parts; ls").split()
    adb.Adb(SERIAL).shell(
        f"cd {adb.ROOT}/parts; rm {names[0]}; echo x > {names[1]}; touch -t 200001010000 {names[2]}"
    )
    assert small._push_parts(packed) == names
    listed = adb.Adb(SERIAL).shell(f"cd {adb.ROOT}/parts; cat * | sha256sum; ls -l {names[2]}")
    assert packed.sha256 in listed
    assert "2000" in listed  # the part that was whole was left alone
    small.clean_up()


def test_a_full_phone_says_so(rig, phone):
    phone.pull_out()
    crowded = EmulatedPhone(rig, megabytes=60)
    crowded.plug_in()
    try:
        with pytest.raises(DeviceUnreachableError, match=r"has \d+ MB free.*MB are needed"):
            adb.AdbDevice(SERIAL, bundle_dir=rig.bundles)
    finally:
        crowded.pull_out()
