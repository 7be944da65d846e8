"""One writer for one run directory."""

from __future__ import annotations

import fcntl
import os
import pathlib
import weakref

from cprune_tf.errors import UserError
from cprune_tf.storage import files


class LockedError(UserError, RuntimeError):
    """Another process is working on the same run."""


class FileLock:
    """An advisory lock that the operating system drops when its process ends, however it ends.

    The file itself stays: removing it would let two processes lock two files of one name.
    """

    def __init__(
        self, path: str | os.PathLike[str], otherwise: str = "choose another --workdir"
    ) -> None:
        """Takes the lock.

        Args:
            path: The lock file, made where missing.
            otherwise: What its user can do instead of waiting, for the error.

        Raises:
            LockedError: Where another process (or another FileLock of this one) holds it.
            StorageError: Where the file cannot be made.
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
        """Gives the lock up; safe to call again."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


_open_locks: weakref.WeakSet[FileLock] = weakref.WeakSet()


def _release_in_child() -> None:
    # A forked worker shares the lock: were it to outlive a killed parent, nobody could resume.
    for lock in list(_open_locks):
        lock.release()


os.register_at_fork(after_in_child=_release_in_child)
