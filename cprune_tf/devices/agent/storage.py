"""Files sent to a device: named by their content, checked, confined to one folder.

Only the standard library: this runs in the device's process.
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
    """A file that cannot be stored or found; says why."""


def file_name(path: str) -> str:
    """The name a file has in every device's storage.

    Args:
        path: The file on this machine.

    Returns:
        The SHA-256 of its content, with its suffix.
    """
    suffix = pathlib.Path(path).suffix.lower()
    return sha256_of(path) + (suffix if re.fullmatch(r"\.[a-z0-9]{1,8}", suffix) else "")


def sha256_of(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file's content, in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


class Storage:
    """One folder of files.

    Args:
        directory: Made if missing, readable by its owner only.
        limit_bytes: Above it, the files used longest ago go.
    """

    def __init__(self, directory: pathlib.Path, limit_bytes: int) -> None:
        self._directory = directory
        self._limit_bytes = limit_bytes
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)

    def path(self, name: str) -> str:
        """Where a stored file is.

        Args:
            name: As file_name gave it on the host.

        Returns:
            The path here.

        Raises:
            StoredFileError: The name is none of file_name's, or there is no such file.
        """
        path = self._checked(name)
        if not path.is_file():
            raise StoredFileError(f"The device does not hold the file {name} (any more).")
        with contextlib.suppress(OSError):
            os.utime(path)  # what is used stays longest
        return str(path)

    def stored_bytes(self, name: str) -> int:
        """How much of a file is here: all of it, or the part that an upload got to."""
        path = self._checked(name)
        for candidate in (path, _partial(path)):
            if candidate.is_file():
                return candidate.stat().st_size
        return 0

    def store(self, name: str, size: int, offset: int, data: bytes) -> int:
        """Adds a part of a file; the last part makes it complete.

        Args:
            name: As file_name gave it on the host.
            size: Size of the whole file, in bytes.
            offset: Where the part begins: at what stored_bytes says, or 0 to start again.
            data: The part.

        Returns:
            Bytes that are here now.

        Raises:
            StoredFileError: The part does not follow the last one, the whole file is not what its
                name says (it is dropped), or the disk is full.
        """
        path = self._checked(name)
        if path.is_file():
            return path.stat().st_size
        partial = _partial(path)
        have = partial.stat().st_size if partial.is_file() else 0
        if offset not in (0, have):
            raise StoredFileError(
                f"The part at {offset} of {name} does not follow the first {have}."
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
                f"What arrived as {name} is not what was sent: its checksum differs."
            )
        os.replace(partial, path)
        return size

    def _checked(self, name: str) -> pathlib.Path:
        if not _NAME.fullmatch(name):
            raise StoredFileError(f"{name!r} is no name of a stored file: a SHA-256 and a suffix.")
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
