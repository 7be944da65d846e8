from __future__ import annotations

import json

import pytest

from cprune_tf.storage import jsonl

_WHOLE = b'{"a": 1}\n{"a": 2}\n'


@pytest.mark.parametrize("data", [b"", _WHOLE])
def test_a_whole_file_stays_as_it_is(tmp_path, data):
    path = tmp_path / "x.jsonl"
    path.write_bytes(data)
    lines = jsonl.read(path, json.loads)
    assert lines.values == tuple(json.loads(line) for line in data.splitlines())
    assert (lines.torn, lines.valid_bytes, lines.is_closed) == (b"", len(data), True)
    jsonl.repair(path, lines, keep_in=tmp_path / "torn")
    assert path.read_bytes() == data
    assert not (tmp_path / "torn").exists()


@pytest.mark.parametrize("tail", [b"{", b'{"a": 3\n', b"\0\0\0", b"\n"])
@pytest.mark.parametrize("whole", [b"", _WHOLE])
def test_an_unfinished_last_line_is_cut_off(tmp_path, whole, tail, caplog):
    path = tmp_path / "x.jsonl"
    path.write_bytes(whole + tail)
    lines = jsonl.read(path, json.loads)
    assert (lines.torn, lines.valid_bytes) == (tail, len(whole))
    assert path.read_bytes() == whole + tail, "reading must not change the file"
    jsonl.repair(path, lines)
    assert path.read_bytes() == whole
    assert f"unfinished line of {len(tail)} bytes" in caplog.text


def test_cut_off_bytes_are_kept_where_asked(tmp_path):
    path, torn = tmp_path / "x.jsonl", tmp_path / "x.jsonl.torn"
    for tail in (b'{"a": 3', b'{"a": 4\n'):
        path.write_bytes(_WHOLE + tail)
        jsonl.repair(path, jsonl.read(path, json.loads), keep_in=torn)
    assert torn.read_bytes() == b'{"a": 3\n{"a": 4\n'


def test_a_whole_last_line_is_closed(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(_WHOLE.rstrip(b"\n"))
    lines = jsonl.read(path, json.loads)
    assert not lines.is_closed
    jsonl.repair(path, lines)
    assert path.read_bytes() == _WHOLE


def test_damage_before_the_last_line_is_no_unfinished_line(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a\n{"a": 3}\n')
    with pytest.raises(jsonl.LineError) as caught:
        jsonl.read(path, json.loads)
    assert (caught.value.number, caught.value.line) == (2, b'{"a\n')
