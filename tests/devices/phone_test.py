"""The emulated phone, in a network namespace of its own; and what adb says of phones in trouble."""

from __future__ import annotations

import pathlib
import stat

import pytest

from cprune_tf.devices import DeviceUnreachableError, adb
from tests.rig import phone

from . import private_network

RIG = pathlib.Path(__file__).parents[1] / "rig"


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "checks", ["phone_checks.py", pytest.param("phone_faults.py", marks=pytest.mark.slow)]
)
def test_the_emulated_phone(rig, checks):
    if not private_network.is_allowed():
        pytest.skip("this system does not let users make namespaces (unshare -Urn --pid)")
    pytest_command = ["-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--durations=5"]
    done = phone.in_private_network(rig, [*pytest_command, str(RIG / checks)], timeout_sec=1700)
    print(done.stdout[-6000:], done.stderr[-2000:])
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout


@pytest.fixture
def saying(tmp_path):
    """A stand-in for adb that says what a real one says of phones that this rig can't emulate."""

    def make(devices, status=0):
        program = tmp_path / "adb"
        program.write_text(f"#!/bin/sh\nprintf '{devices}'\nexit {status}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        return str(program)

    return make


@pytest.mark.parametrize(
    ("listed", "reason"),
    [
        ("unauthorized", "accept this computer's key"),
        ("offline", "adb reconnect offline"),
        ("no permissions (user in plugdev group?)", "udev rule"),
        ("bootloader", "start Android"),
        ("sideload", "is in state 'sideload'"),
    ],
)
def test_a_phone_in_trouble_is_named_with_the_remedy(saying, listed, reason):
    program = saying(f"List of devices attached\\nR5CT\\t{listed}\\n\\n")
    with pytest.raises(DeviceUnreachableError, match=rf"(?s)R5CT .*{reason}"):
        adb.AdbDevice("R5CT", program=program)


def test_several_phones_need_a_serial(saying):
    program = saying("List of devices attached\\nA1\\tdevice\\nB2\\tdevice\\n\\n")
    with pytest.raises(DeviceUnreachableError, match=r"adb sees: A1, B2.*--device=adb:SERIAL"):
        adb.AdbDevice("", program=program)


def test_no_adb_and_a_broken_adb(saying, monkeypatch):
    with pytest.raises(DeviceUnreachableError, match=r"`adb devices` failed"):
        adb.AdbDevice("A1", program=saying("cannot connect to daemon", status=1))
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("ADB", raising=False)
    with pytest.raises(DeviceUnreachableError, match="apt-get install adb"):
        adb.AdbDevice("A1")


def test_the_servers_code_is_an_archive_of_its_own_that_repeats():
    assert adb.agent_archive() == adb.agent_archive()
