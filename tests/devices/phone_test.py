"""The emulated phone, in a network namespace of its own; and what adb says of phones in trouble."""

from __future__ import annotations

import os
import pathlib
import stat
import subprocess
import sys

import pytest

from cprune_tf.devices import DeviceUnreachableError, adb

CHECKS = pathlib.Path(__file__).parents[1] / "rig" / "phone_checks.py"
ROOT = CHECKS.parents[2]


def test_the_emulated_phone(rig):
    # A process namespace too: whatever is left in it ends with it.
    private = ["unshare", "-Urn", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if subprocess.run([*private, "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("this system does not let users make namespaces (unshare -Urn --pid)")
    # The shell stays: as that namespace's first process, it takes leave of orphans that ended.
    script = 'ip link set lo up; "$@"; exit $?'
    pytest_command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*private, "sh", "-c", script, "sh", *pytest_command, "--durations=5", str(CHECKS)],
        cwd=ROOT,
        env={
            **os.environ,
            "CPRUNE_TF_RIG": str(rig.root),
            "CPRUNE_TF_PRIVATE_NETWORK": "1",
            "ANDROID_ADB_SERVER_PORT": "5099",
        },
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
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
