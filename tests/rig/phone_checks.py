"""The emulated phone: real adb, real adbd, an aarch64 userland.

Run by tests/devices/phone_test.py inside a private network namespace, never from outside: adbd is
an unauthenticated shell.
"""

from __future__ import annotations

import time

import numpy as np
import pytest

from cprune_tf.devices import DeviceUnreachableError, ModelFile, adb
from tests.devices import private_network
from tests.devices.servers import wait_for
from tests.rig import phone as emulated_phone
from tests.rig.phone import SERIAL, computes

pytestmark = [
    pytest.mark.skipif(not private_network.is_private(), reason="only in a private network"),
    pytest.mark.usefixtures("adb_server"),
]


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


def test_taken_away_and_brought_back_it_goes_on(device, phone, dense):
    phone.take_away()
    wait_for(lambda: adb.Adb("").states().get(SERIAL) != "device", 20)
    with pytest.raises(DeviceUnreachableError, match=rf"adb:{SERIAL} cannot be reached.*--resume"):
        device.time_kernel(dense[0].path, "main", [])
    phone.plug_in()
    computes(device, dense)
    device.close()


def test_a_full_phone_says_so(rig, phone):
    phone.take_away()
    with (
        emulated_phone.plugged_in(rig, megabytes=60),
        pytest.raises(DeviceUnreachableError, match=r"has \d+ MB free.*MB are needed"),
    ):
        adb.AdbDevice(SERIAL, bundle_dir=rig.bundles)
