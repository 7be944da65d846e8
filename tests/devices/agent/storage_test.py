from __future__ import annotations

import hashlib
import os

import numpy as np
import pytest

from cprune_tf.devices.agent import wire
from cprune_tf.devices.agent.storage import Storage, StoredFileError, file_name

DATA = bytes(range(256)) * 40


@pytest.fixture
def storage(tmp_path):
    return Storage(tmp_path / "files", limit_bytes=30_000)


@pytest.fixture
def name(tmp_path):
    path = tmp_path / "model.TFLITE"
    path.write_bytes(DATA)
    return file_name(str(path))


def test_names_are_contents(name):
    assert name == hashlib.sha256(DATA).hexdigest() + ".tflite"


def test_parts_make_a_whole_and_an_upload_goes_on_where_it_stopped(storage, name):
    assert storage.stored_bytes(name) == 0
    assert storage.store(name, len(DATA), 0, DATA[:4000]) == 4000
    with pytest.raises(StoredFileError, match="does not hold"):
        storage.path(name)
    assert storage.stored_bytes(name) == 4000
    with pytest.raises(StoredFileError, match="does not follow"):
        storage.store(name, len(DATA), 5000, DATA[5000:])
    assert storage.store(name, len(DATA), 4000, DATA[4000:]) == len(DATA)
    with open(storage.path(name), "rb") as file:
        assert file.read() == DATA


def test_what_was_corrupted_on_the_way_is_refused_and_can_be_sent_again(storage, name):
    storage.store(name, len(DATA), 0, DATA[:4000])
    with pytest.raises(StoredFileError, match="checksum of the received file differs"):
        storage.store(name, len(DATA), 4000, DATA[4000:-1] + b"?")
    assert storage.stored_bytes(name) == 0
    storage.store(name, len(DATA), 0, DATA)
    assert storage.path(name)


@pytest.mark.parametrize(
    "bad", ["../x", "/etc/passwd", "", "a.so", "0" * 64 + "/x", "0" * 64 + ".."]
)
def test_other_names_are_refused(storage, bad):
    for call in (storage.path, storage.stored_bytes, lambda n: storage.store(n, 1, 0, b"x")):
        with pytest.raises(StoredFileError, match="no name of a stored file"):
            call(bad)


def test_what_was_used_longest_ago_makes_room(storage):
    names = []
    for i in range(4):
        data = bytes([i]) * 10_000
        names.append(hashlib.sha256(data).hexdigest())
        storage.store(names[-1], len(data), 0, data)
        os.utime(storage.path(names[-1]), (i, i))
    assert [storage.stored_bytes(n) > 0 for n in names] == [False, True, True, True]


def test_a_full_disk_is_said(tmp_path, name, monkeypatch):
    """The kernel's own answer: /dev/full is a disk without room."""
    storage = Storage(tmp_path / "files", limit_bytes=1 << 30)
    os.symlink("/dev/full", tmp_path / "files" / (name + ".partial"))
    with pytest.raises(StoredFileError, match=r"disk is full.*--work_dir"):
        storage.store(name, len(DATA), 0, DATA)


def test_messages_survive_the_wire():
    value = {
        "numbers": [1, 2.5, None, True, np.float32(0.5)],
        "arrays": (np.arange(6, dtype=np.int8).reshape(2, 3), np.zeros((0, 2), np.float32)),
        "file": wire.StoredFile("name", "/host/path"),
    }
    back = wire.decode(wire.encode(value), lambda name: f"/device/{name}")
    assert back["numbers"] == [1, 2.5, None, True, 0.5]
    for before, after in zip(value["arrays"], back["arrays"], strict=True):
        np.testing.assert_array_equal(before, after)
        assert before.dtype == after.dtype
    assert back["file"] == "/device/name"
    assert wire.files_in(value) == (value["file"],)


@pytest.mark.parametrize("data", [b"", b"no archive", b"PK\x03\x04 cut short"])
def test_what_is_no_message_is_refused(data):
    with pytest.raises(ValueError, match=r"no message of cprune_tf"):
        wire.decode(data)


def test_nothing_that_runs_code_is_read_or_written():
    with pytest.raises(TypeError):
        wire.encode({"x": np.array([object()], dtype=object)})
    with pytest.raises(TypeError):
        wire.encode({"x": object()})
