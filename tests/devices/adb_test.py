"""What can be known of a phone's use without a phone."""

from __future__ import annotations

import stat
import tempfile

import pytest

from cprune_tf.devices import DeviceUnreachableError, adb


@pytest.fixture
def program(tmp_path, monkeypatch):
    """A stand-in for adb that sees one phone and does nothing; locks lie in a folder of our own."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    path = tmp_path / "adb"
    path.write_text("#!/bin/sh\n[ $1 = devices ] && printf 'List\\nR5CT\\tdevice\\n'; exit 0\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_a_phone_serves_one_process_at_a_time(program, tmp_path):
    user, other = (adb.Phone(adb.Adb("R5CT", program)) for _ in range(2))
    user._reserve()
    assert [path.name for path in tmp_path.glob("*.lock")] != []
    with pytest.raises(DeviceUnreachableError, match="R5CT is in use by another run or tool"):
        other.clean_up()
    user.stop()
    other.clean_up()
    user.clean_up()  # the other gave it up when it was done
