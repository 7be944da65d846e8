from __future__ import annotations

import pytest

from cprune_tf.latency.points import PointStore, PointStoreError, TaskPoint, WholePoint
from cprune_tf.runs import JournalError
from cprune_tf.storage.lock import LockedError

_POINT = TaskPoint("conv2d(1x8x8x*)", (16, 24), 0.5, 0.01)


_FINGERPRINT = {"runtime": "tvm float32", "target": "llvm", "num_threads": 1}


def _open(path, **changes):
    return PointStore(path, fingerprint={**_FINGERPRINT, **changes})


def test_points_survive_the_process(tmp_path):
    path = tmp_path / "points.jsonl"
    whole = WholePoint({"conv": 16}, 1.0, 1.25)
    with _open(path) as store:
        store.add(_POINT)
        store.add_whole(whole)
    with _open(path) as store:
        assert store.points == (_POINT,) and store.wholes == (whole,)
        assert store.get(_POINT.family, (16, 24)) == _POINT
        assert store.get(_POINT.family, (24, 16)) is None


def test_a_line_that_a_kill_cut_off_costs_that_line_only(tmp_path):
    path = tmp_path / "points.jsonl"
    with _open(path) as store:
        store.add(_POINT)
        store.add(TaskPoint("other", (1, 8), 1.0, 0.0))
    data = path.read_bytes()
    path.write_bytes(data[:-20])
    with _open(path) as store:
        assert store.points == (_POINT,)
        store.add(TaskPoint("third", (1, 8), 1.0, 0.0))
    with _open(path) as store:
        assert [point.family for point in store.points] == [_POINT.family, "third"]


@pytest.mark.parametrize(
    "changes", [{"target": "llvm -mcpu=other"}, {"num_threads": 2}, {"runtime": "litert int8"}]
)
def test_points_of_another_target_are_not_mixed_in(tmp_path, changes):
    path = tmp_path / "points.jsonl"
    _open(path).close()
    _open(path).close()
    with pytest.raises(PointStoreError, match=rf"{next(iter(changes))}: was .*, is "):
        _open(path, **changes)
    with pytest.raises(PointStoreError, match="another --workdir"):
        _open(path, **changes)
    _open(path).close()  # the refused one left no lock behind


def test_two_processes_do_not_write_at_once(tmp_path):
    path = tmp_path / "points.jsonl"
    with _open(path), pytest.raises(LockedError):
        _open(path)


def test_points_of_an_older_version_are_refused(tmp_path):
    path = tmp_path / "points.jsonl"
    path.write_text('{"seq": 0, "event": "opened", "version": 1, "target": "llvm"}\n')
    with pytest.raises(JournalError, match="format 1; this version reads format 2"):
        _open(path)
