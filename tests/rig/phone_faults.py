"""The emulated phone when something goes wrong in the middle; run as phone_checks.py is."""

from __future__ import annotations

import threading
import time

import pytest

from cprune_tf.devices import DeviceUnreachableError, adb
from tests.devices import libraries, private_network
from tests.rig.conftest import RECONNECT_SEC
from tests.rig.phone import SERIAL, computes

pytestmark = [
    pytest.mark.skipif(not private_network.is_private(), reason="only in a private network"),
    pytest.mark.usefixtures("adb_server"),
]


def test_unplugged_in_the_middle_of_a_measurement_it_says_so_in_time(
    device, phone, dense, tmp_path
):
    """At most reconnect_sec and 15 s after the cable was pulled; the measurement took minutes."""
    library = libraries.build_native_for_aarch64(tmp_path)
    doze_ms = device.time_kernel(library, "doze", [], number=1, repeat=1, min_repeat_ms=0)
    assert doze_ms[0] >= 100
    unplugged = []

    def unplug():
        phone.unplug()
        unplugged.append(time.monotonic())

    cable = threading.Timer(3.0, unplug)
    cable.start()
    with pytest.raises(DeviceUnreachableError, match=r"There is no phone.*--resume"):
        device.time_kernel(
            library, "doze", [], number=1, repeat=3000, min_repeat_ms=0, timeout_sec=400
        )
    assert unplugged and time.monotonic() - unplugged[0] <= RECONNECT_SEC + 15
    phone.plug_in()
    computes(device, dense)


def test_a_phone_in_use_is_left_alone(device, rig, dense):
    computes(device, dense)
    for attempt in (
        lambda: adb.AdbDevice(SERIAL, bundle_dir=rig.bundles),
        lambda: adb.clean_up(SERIAL),
    ):
        with pytest.raises(DeviceUnreachableError, match="is in use by another run or tool"):
            attempt()
    computes(device, dense)
    device.close()


def test_unplugged_in_the_middle_of_a_push_the_next_attempt_resumes(rig, phone, monkeypatch):
    adb.clean_up(SERIAL)
    parts = phone.storage / "cprune_tf" / "parts"
    cut = []

    def unplug_in_the_middle():
        while not cut:
            under_way = _unfinished(parts)
            if under_way is not None:
                phone.freeze()
                if _unfinished(parts) == under_way:
                    cut.append(under_way.name)
                    phone.unplug()
                phone.thaw()

    cable = threading.Thread(target=unplug_in_the_middle, daemon=True)
    cable.start()
    with pytest.raises(DeviceUnreachableError, match=r"adb .*push .* failed: .*"):
        adb.Phone(adb.Adb(SERIAL), rig.bundles).start()
    cable.join()
    whole = {path.name for path in parts.iterdir()} - set(cut)
    assert whole
    phone.plug_in()
    pushed = []
    call = adb.Adb.__call__

    def recorded(self, *arguments, **options):
        if arguments[0] == "push" and arguments[-1].endswith("/parts/"):
            pushed.append(arguments[1].rpartition("/")[2])
        return call(self, *arguments, **options)

    monkeypatch.setattr(adb.Adb, "__call__", recorded)
    again = adb.Phone(adb.Adb(SERIAL), rig.bundles)
    again.start()  # unpacks what is whole by its checksum, and runs it
    assert cut[0] in pushed
    assert not whole & set(pushed)
    again.clean_up()


def _unfinished(parts):
    """The part that is being pushed, once another is there; the last of all may be short too."""
    try:
        there = sorted(parts.iterdir())
        size = there[-1].stat().st_size if len(there) > 1 else 0
    except OSError:
        return None
    return there[-1] if 0 < size < adb._PART_BYTES else None


def test_a_push_that_was_interrupted_goes_on(rig, phone, monkeypatch):
    """Two parts are there and one is cut short."""
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
