"""Encodes calls and answers as bytes: a `.npz` archive of one JSON text and the arrays in it.

Pickles are never read, because they can run code and the host must not trust a board.
"""

from __future__ import annotations

import dataclasses
import io
import json
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

_ARRAY, _FILE, _TEXT = "__array__", "__file__", "text"


@dataclasses.dataclass(frozen=True)
class StoredFile:
    """A file of the host that is also in the device's storage.

    Attributes:
        name: The file's name in the device's storage, from storage.file_name.
        path: The file's path on the host.
    """

    name: str
    path: str


def encode(value: Any) -> bytes:
    """Encodes JSON types, arrays and stored files.

    Args:
        value: None, bool, int, float, str, numpy scalars and arrays, StoredFile, or lists, tuples
            and dicts with text keys of these. Tuples become lists.

    Returns:
        The encoded bytes.

    Raises:
        TypeError: The value contains something else.
    """
    arrays: dict[str, npt.NDArray[Any]] = {}
    text = json.dumps(_plain(value, arrays))
    buffer = io.BytesIO()
    text_bytes = np.frombuffer(text.encode(), np.uint8)
    savez: Any = np.savez  # numpy's type hints do not accept **arrays
    savez(buffer, **{_TEXT: text_bytes}, **arrays)
    return buffer.getvalue()


def decode(data: bytes, stored_path: Callable[[str], str] | None = None) -> Any:
    """The reverse of encode.

    Args:
        data: The bytes that encode returned.
        stored_path: Function that returns the local path of a stored file by its name; None if the
            value may contain no stored files.

    Returns:
        The value.

    Raises:
        ValueError: The bytes are not an archive made by encode.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            return _value(json.loads(archive[_TEXT].tobytes()), archive, stored_path)
    except (OSError, KeyError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{len(data)} bytes are no message of cprune_tf: {error}") from error


def files_in(value: Any) -> tuple[StoredFile, ...]:
    """Returns all stored files that a value contains."""
    if isinstance(value, StoredFile):
        return (value,)
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return tuple(file for item in value for file in files_in(item))
    return ()


def _plain(value: Any, arrays: dict[str, npt.NDArray[Any]]) -> Any:
    if isinstance(value, np.ndarray):
        if value.dtype.hasobject:
            raise TypeError("An array of Python objects cannot be sent to a device.")
        name = f"array_{len(arrays)}"
        arrays[name] = value
        return {_ARRAY: name}
    if isinstance(value, StoredFile):
        return {_FILE: value.name}
    if isinstance(value, dict):
        return {str(key): _plain(item, arrays) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, arrays) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    return value


def _value(plain: Any, archive: Any, stored_path: Callable[[str], str] | None) -> Any:
    if isinstance(plain, list):
        return [_value(item, archive, stored_path) for item in plain]
    if not isinstance(plain, dict):
        return plain
    if set(plain) == {_ARRAY}:
        return archive[plain[_ARRAY]]
    if set(plain) == {_FILE}:
        if stored_path is None:
            raise ValueError("The message contains a stored file, but this side has no storage.")
        return stored_path(plain[_FILE])
    return {key: _value(item, archive, stored_path) for key, item in plain.items()}
