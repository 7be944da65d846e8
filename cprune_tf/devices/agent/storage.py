"""Files sent to a device: named by their content, verified, and confined to one folder.

This module runs in the device's process and needs only the standard library.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import pathlib
import re

_NAME = re.compile(r"[0-9a-f]{64}(\.[a-z0-9]{1,8})?")
_PARTIAL = ".partial"


class StoredFileError(ValueError):
    """A file cannot be stored or does not exist; the message says why."""


def file_name(path: str) -> str:
    """Returns the name that a file has in every device's storage.

    Args:
        path: The file on this machine.

    Returns:
        The SHA-256 of the file's content in hexadecimal digits, with the file's suffix.
    """
    suffix = pathlib.Path(path).suffix.lower()
    return sha256_of(path) + (suffix if re.fullmatch(r"\.[a-z0-9]{1,8}", suffix) else "")


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Returns the SHA-256 of a file's content, in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


class Storage:
    """One folder of files.

    Args:
        directory: The folder; made if missing, readable by its owner only.
        limit_bytes: Total size above which the files used longest ago are deleted.
    """

    def __init__(self, directory: pathlib.Path, limit_bytes: int) -> None:
        self._directory = directory
        self._limit_bytes = limit_bytes
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)

    def path(self, name: str) -> str:
        """Returns the path of a stored file.

        Args:
            name: The name that file_name returned on the host.

        Returns:
            The file's path on this device.

        Raises:
            StoredFileError: The name does not have file_name's form, or there is no such file.
        """
        path = self._checked(name)
        if not path.is_file():
            raise StoredFileError(f"The device does not hold the file {name} (any more).")
        with contextlib.suppress(OSError):
            os.utime(path)  # so that it counts as recently used
        return str(path)

    def stored_bytes(self, name: str) -> int:
        """Returns the number of bytes of a file that are stored: all, or those uploaded so far."""
        path = self._checked(name)
        for candidate in (path, _partial(path)):
            if candidate.is_file():
                return candidate.stat().st_size
        return 0

    def store(self, name: str, size: int, offset: int, data: bytes) -> int:
        """Adds a part of a file; the last part makes it complete.

        Args:
            name: The name that file_name returned on the host.
            size: Size of the whole file in bytes.
            offset: Position of the part in the file: the value of stored_bytes, or 0 to start
                again.
            data: The bytes of the part.

        Returns:
            Number of bytes that are stored now.

        Raises:
            StoredFileError: The part does not follow the last one, the checksum of the whole file
                differs from its name (the file is then deleted), or the disk is full.
        """
        path = self._checked(name)
        if path.is_file():
            return path.stat().st_size
        partial = _partial(path)
        stored = partial.stat().st_size if partial.is_file() else 0
        if offset not in (0, stored):
            raise StoredFileError(
                f"The part of {name} at byte {offset} does not follow the {stored} bytes that are "
                f"stored; send the part at {stored}, or start again at 0."
            )
        self._make_room(size - offset, keep=partial)
        try:
            with open(partial, "ab" if offset else "wb") as file:
                file.write(data)
        except OSError as error:
            partial.unlink(missing_ok=True)
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StoredFileError(
                    f"The device's disk is full: {self._directory} has no room for {size} bytes. "
                    "Free some space there, or start the server with another --work_dir."
                ) from error
            raise
        if offset + len(data) < size:
            return offset + len(data)
        if sha256_of(partial) != name[:64]:
            partial.unlink()
            raise StoredFileError(
                f"The checksum of the received file differs from its name {name}; send it again."
            )
        os.replace(partial, path)
        return size

    def _checked(self, name: str) -> pathlib.Path:
        if not _NAME.fullmatch(name):
            raise StoredFileError(
                f"{name!r} is no name of a stored file; expected a SHA-256 and a suffix."
            )
        return self._directory / name

    def _make_room(self, num_bytes: int, keep: pathlib.Path) -> None:
        files = sorted(
            (path for path in self._directory.iterdir() if path != keep and path.is_file()),
            key=lambda path: path.stat().st_mtime,
        )
        total = sum(path.stat().st_size for path in files) + num_bytes
        for path in files:
            if total <= self._limit_bytes:
                return
            total -= path.stat().st_size
            path.unlink(missing_ok=True)


def _partial(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(path.name + _PARTIAL)
