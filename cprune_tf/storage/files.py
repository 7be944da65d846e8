"""Writes files that are either whole or absent, even if the writing process is killed."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

from cprune_tf.errors import UserError
from cprune_tf.storage import plain

_PARTIAL_PREFIX = ".partial-"


class StorageError(UserError, OSError):
    """Raised if a file cannot be written; says which file, why, and what to do."""

    def __str__(self) -> str:
        # An OSError would put its number in front.
        return self.strerror or super().__str__()


def storage_error(path: pathlib.Path, cause: OSError) -> StorageError:
    """Makes the error for a failed write.

    Args:
        path: The file that was being written.
        cause: The operating system's error.

    Returns:
        An error with the same errno, to be raised from `cause`.
    """
    reason = cause.strerror or str(cause)
    if cause.errno in (errno.ENOSPC, errno.EDQUOT):
        advice = f"{_free_space(path)}; free some space"
    else:
        advice = "check the path and its permissions"
    advice += ", then run the command again; a pruning run continues with --resume"
    return StorageError(cause.errno, f"Cannot write {path}: {reason} ({advice})")


def _free_space(path: pathlib.Path) -> str:
    try:
        return f"{shutil.disk_usage(path.parent).free / 1e6:.1f} MB are free there"
    except OSError:
        return "the free space there is unknown"


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Replaces a file in one step, with a temporary file that the block writes.

    Args:
        path: The file to create or replace; its folder is created if it does not exist.

    Yields:
        The temporary path: in the same folder, with the same suffix, not existing yet. If the block
        succeeds, this file becomes `path`.

    Raises:
        StorageError: If a file cannot be written; `path` is then unchanged.
    """
    temporary = path.with_name(f"{_PARTIAL_PREFIX}{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        yield temporary
        sync_file(temporary)
        os.replace(temporary, path)
        sync_directory(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and not isinstance(error, StorageError):
            raise storage_error(path, error) from error
        raise


def write_bytes(path: pathlib.Path, data: bytes) -> None:
    """Writes a file atomically; see `replacing`."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes a value as indented JSON, atomically; see `plain.to_plain` for its type."""
    text = json.dumps(plain.to_plain(value), indent=2, ensure_ascii=False, allow_nan=False)
    write_bytes(path, (text + "\n").encode("utf-8"))


def remove_partial(directory: pathlib.Path) -> tuple[str, ...]:
    """Removes temporary files that a killed process left behind.

    Args:
        directory: The directory to search, including all its subdirectories.

    Returns:
        The paths of the removed files, relative to `directory`.
    """
    partial_files = sorted(p for p in directory.rglob(f"{_PARTIAL_PREFIX}*") if p.is_file())
    for path in partial_files:
        path.unlink()
    return tuple(str(path.relative_to(directory)) for path in partial_files)


def sync_file(path: pathlib.Path) -> None:
    """Waits until the file's bytes are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_directory(path: pathlib.Path) -> None:
    """Waits until the folder's entries (e.g. a new or renamed file) are on the disk."""
    sync_file(path)
