from __future__ import annotations

import multiprocessing
import os

import pytest

from cprune_tf.storage import lock


def test_a_second_lock_names_the_holder_and_what_else_to_do(tmp_path):
    held = lock.FileLock(tmp_path / "sub" / "x.lock")
    with pytest.raises(lock.LockedError, match=rf"process {os.getpid()};.*another --workdir"):
        lock.FileLock(tmp_path / "sub" / "x.lock")
    with pytest.raises(lock.LockedError, match="read it only"):
        lock.FileLock(tmp_path / "sub" / "x.lock", otherwise="read it only")
    held.release()
    held.release()
    lock.FileLock(tmp_path / "sub" / "x.lock").release()


def _sleep_until(ready, event) -> None:
    ready.set()
    event.wait(60)


def test_forked_child_does_not_keep_the_lock(tmp_path):
    context = multiprocessing.get_context("fork")
    ready, event = context.Event(), context.Event()
    held = lock.FileLock(tmp_path / "lock")
    child = context.Process(target=_sleep_until, args=(ready, event))
    child.start()
    try:
        assert ready.wait(60)
        with pytest.raises(lock.LockedError):
            lock.FileLock(tmp_path / "lock")
        held.release()
        lock.FileLock(tmp_path / "lock").release()
    finally:
        event.set()
        child.join()
