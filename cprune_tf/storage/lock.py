"""Locks files, so that only one process at a time works on a run."""

from __future__ import annotations

import fcntl
import os
import pathlib
import weakref

from cprune_tf.errors import UserError
from cprune_tf.storage import files


class LockedError(UserError, RuntimeError):
    """Raised if another process works on the same run; says what to do."""


class FileLock:
    """An advisory lock, which the operating system releases when the process ends for any reason.

    The lock file is never removed: removing it would let two processes lock two different files of
    the same name.
    """

    def __init__(
        self, path: str | os.PathLike[str], otherwise: str = "choose another --workdir"
    ) -> None:
        """Takes the lock.

        Args:
            path: The lock file; it is created if it does not exist.
            otherwise: What the user can do instead of waiting, for the error text.

        Raises:
            LockedError: If another process, or another FileLock of this process, holds the lock.
            StorageError: If the lock file cannot be created.
        """
        self._path = pathlib.Path(path)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise files.storage_error(self._path, error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise LockedError(
                f"{self._path.parent} is in use by process {holder or '(unknown)'}; wait until it "
                f"ends, stop it, or {otherwise}."
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0)
        self._descriptor: int | None = descriptor
        _open_locks.add(self)

    def release(self) -> None:
        """Releases the lock; calling it again does nothing."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


_open_locks: weakref.WeakSet[FileLock] = weakref.WeakSet()


def _release_in_child() -> None:
    # A forked worker shares the lock. If it outlived a killed parent, the run could not be resumed.
    for lock in list(_open_locks):
        lock.release()


os.register_at_fork(after_in_child=_release_in_child)
