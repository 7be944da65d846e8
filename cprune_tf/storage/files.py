"""Files that are either whole or absent, whatever kills the process that writes them."""

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
    """The file system refused a write; says the file, the cause and what to do."""


def storage_error(path: pathlib.Path, cause: OSError) -> StorageError:
    """Explains a failed write.

    Args:
        path: The file that was being written.
        cause: What the operating system said.

    Returns:
        An error with the same errno, ready to be raised from `cause`.
    """
    name = cause.strerror or str(cause)
    if cause.errno in (errno.ENOSPC, errno.EDQUOT):
        free = _free_megabytes(path)
        advice = f"{free} left there; free some space and go on with --resume"
    else:
        advice = "check the path and its permissions, then go on with --resume"
    return StorageError(cause.errno, f"Cannot write {path}: {name} ({advice})")


def _free_megabytes(path: pathlib.Path) -> str:
    try:
        return f"{shutil.disk_usage(path.parent).free / 1e6:.1f} MB"
    except OSError:
        return "nothing is known to be"


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives a temporary file to write; it becomes `path` in one step when the block succeeds.

    Args:
        path: The file to be made or replaced; its folder is made where missing.

    Yields:
        A path in the same folder with the same suffix, which does not exist yet.

    Raises:
        StorageError: Where the file system refuses; `path` is as it was before.
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
    """Writes a value (see `plain.to_plain`) as indented JSON, atomically."""
    text = json.dumps(plain.to_plain(value), indent=2, ensure_ascii=False, allow_nan=False)
    write_bytes(path, (text + "\n").encode("utf-8"))


def remove_partial(directory: pathlib.Path) -> tuple[str, ...]:
    """Removes what a killed writer left behind.

    Args:
        directory: Searched with all its folders.

    Returns:
        The removed files' paths relative to it.
    """
    left = sorted(p for p in directory.rglob(f"{_PARTIAL_PREFIX}*") if p.is_file())
    for path in left:
        path.unlink()
    return tuple(str(path.relative_to(directory)) for path in left)


def sync_file(path: pathlib.Path) -> None:
    """Returns when the file's bytes are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_directory(path: pathlib.Path) -> None:
    """Returns when the folder's entries (a new or renamed file) are on the disk."""
    sync_file(path)
