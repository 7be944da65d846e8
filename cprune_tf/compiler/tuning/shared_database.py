"""A database that several runs share: what one of them measured, no other measures again.

A latency holds for one device and what is compiled for it. So below the shared folder there is one
folder for each of these, with `device.json` saying which; a run works in its own alone, and no two
runs work in one at the same time.
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
    """Opens the folder of one device and target below a shared one.

    Args:
        root: The shared folder, made where missing; `~` is the user's home.
        device: Where programs are measured.
        target: What they are built for.

    Yields:
        The folder, locked for this process until the block ends.

    Raises:
        LockedError: Another process measures there.
        DatabaseError: The folder cannot be made.
    """
    about = _measured_on(device, target)
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
    readable = re.sub(r"[^a-z0-9]+", "-", about["cpu"].lower()).strip("-")[:_NAME_LENGTH]
    folder = pathlib.Path(root).expanduser() / f"{readable}-{digest[:_HASH_LENGTH]}"
    try:
        lock = FileLock(folder / _LOCK, "choose another tuning.database")
    except StorageError as error:
        raise DatabaseError(
            f"config.tuning.database is {str(root)!r}, where no folder can be made: {error}"
        ) from error
    try:
        if not (folder / ABOUT).exists():
            write_json(folder / ABOUT, about)
        yield folder
    finally:
        lock.release()


def _measured_on(device: Device, target: tvm.target.Target) -> dict[str, Any]:
    """All that a latency depends on but the program."""
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
