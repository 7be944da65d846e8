"""A database that several runs share, so that no run measures what another has measured.

A latency holds for one device and one target. So the shared folder contains one folder for each
device and target, described in its `device.json`. A run works in only one of them and locks it, so
that no two runs work in the same folder at the same time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import tvm

from cprune_tf.compiler.database import DatabaseError
from cprune_tf.devices.base import Device
from cprune_tf.storage.files import StorageError, write_json
from cprune_tf.storage.lock import FileLock

ABOUT = "device.json"
_LOCK = "lock"
_NAME_LENGTH = 40
_HASH_LENGTH = 10


@contextlib.contextmanager
def shared_folder(
    root: pathlib.Path | str, device: Device, target: tvm.target.Target
) -> Iterator[pathlib.Path]:
    """Opens the folder of one device and target in a shared folder.

    Args:
        root: The shared folder, created if it does not exist; `~` is the user's home.
        device: The device that programs are measured on.
        target: The target that programs are built for.

    Yields:
        The folder, locked for this process until the block ends.

    Raises:
        LockedError: If another process measures in the folder.
        DatabaseError: If the folder cannot be created.
    """
    about = _measuring_conditions(device, target)
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
    readable = re.sub(r"[^a-z0-9]+", "-", about["cpu"].lower()).strip("-")[:_NAME_LENGTH]
    folder = pathlib.Path(root).expanduser() / f"{readable}-{digest[:_HASH_LENGTH]}"
    try:
        lock = FileLock(folder / _LOCK, "choose another tuning.database")
    except StorageError as error:
        raise DatabaseError(
            f"config.tuning.database is {str(root)!r}, but no folder can be created there: {error}"
        ) from error
    try:
        if not (folder / ABOUT).exists():
            write_json(folder / ABOUT, about)
        yield folder
    finally:
        lock.release()


def _measuring_conditions(device: Device, target: tvm.target.Target) -> dict[str, Any]:
    """Everything that a latency depends on, except the program."""
    info = device.info()
    return {
        "cpu": info.cpu_name,
        "abi": info.abi,
        "features": sorted(info.features),
        "cores": list(device.core_ids()) or info.num_cores,
        "gpu": str(device.accelerator() or ""),
        "emulated": info.emulated,
        "tvm": info.runtimes["tvm"],
        "target": str(target),
    }
