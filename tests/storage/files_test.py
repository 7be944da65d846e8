from __future__ import annotations

import json

import pytest

from cprune_tf.storage import files


def test_failed_write_keeps_the_old_file_and_says_why(tmp_path):
    path = tmp_path / "model.bin"
    files.write_bytes(path, b"old")
    with pytest.raises(ZeroDivisionError), files.replacing(path) as temporary:
        temporary.write_bytes(b"half")
        raise ZeroDivisionError
    assert path.read_bytes() == b"old"
    with pytest.raises(files.StorageError, match=r"Cannot write .*bin"), files.replacing(path):
        pass  # never written
    (tmp_path / "file").write_text("")
    with pytest.raises(files.StorageError, match="Cannot write"):
        files.write_bytes(tmp_path / "file" / "x", b"")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "model.bin"]


def test_json_is_written_whole(tmp_path):
    files.write_json(tmp_path / "sub" / "a.json", {"b": (1, float("nan"))})
    assert json.loads((tmp_path / "sub" / "a.json").read_text()) == {"b": [1, None]}
    with pytest.raises(TypeError, match="object"):
        files.write_json(tmp_path / "sub" / "a.json", {"b": object()})
    assert json.loads((tmp_path / "sub" / "a.json").read_text()) == {"b": [1, None]}


def test_what_a_killed_writer_left_is_removed(tmp_path):
    files.write_bytes(tmp_path / "models" / "a.bin", b"whole")
    (tmp_path / "models" / ".partial-a.bin").write_bytes(b"ha")
    assert files.remove_partial(tmp_path) == ("models/.partial-a.bin",)
    assert [p.name for p in (tmp_path / "models").iterdir()] == ["a.bin"]
