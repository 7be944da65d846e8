"""The child's side of `process.WorkerProcess`: reads calls, runs them, writes the answers.

Run as `python -m cprune_tf.devices.agent.worker READ_FD WRITE_FD`; not meant to be started by hand.
"""

from __future__ import annotations

import faulthandler
import gc
import importlib
import os
import pickle
import struct
import sys
import threading
import time
import traceback
from typing import IO, Any

# Every message between parent and child starts with its length in bytes.
HEADER = struct.Struct("<Q")
_ORPHAN_POLL_SEC = 2.0
# The parent stops a call that takes too long. If the parent is gone, the child ends the call
# itself, this much later.
_GRACE_SEC = 30.0
_LONGEST_TIMER_SEC = 1e6


def main(arguments: list[str]) -> None:
    """Serves calls until the parent closes its end.

    Args:
        arguments: The two inherited file descriptors, to read from and to write to.
    """
    reader = os.fdopen(int(arguments[0]), "rb")
    writer = os.fdopen(int(arguments[1]), "wb")
    end_with_parent()
    _write(writer, b"ready")
    while header := reader.read(HEADER.size):
        request = reader.read(HEADER.unpack(header)[0])
        _write(writer, _answer(request))


def _answer(request: bytes) -> bytes:
    try:
        function, args, kwargs, timeout_sec = pickle.loads(request)
        # Unlike a Python thread, this timer needs no interpreter lock to act.
        limit_sec = min(timeout_sec + _GRACE_SEC, _LONGEST_TIMER_SEC)
        faulthandler.dump_traceback_later(limit_sec, exit=True)
        try:
            result = _find(function)(*args, **kwargs)
        finally:
            faulthandler.cancel_dump_traceback_later()
        return pickle.dumps((True, result), protocol=5)
    except Exception as error:
        traceback.print_exc()
        answer = pickle.dumps((False, f"{type(error).__name__}: {error}"), protocol=5)
    gc.collect()  # reference cycles of the failed call may keep a library loaded
    return answer


def _find(function: str) -> Any:
    module_name, _, name = function.partition(":")
    return getattr(importlib.import_module(module_name), name)


def _write(writer: IO[bytes], data: bytes) -> None:
    writer.write(HEADER.pack(len(data)) + data)
    writer.flush()


def end_with_parent() -> None:
    """Ends this process soon after its parent has ended, whatever it is doing in Python."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_ORPHAN_POLL_SEC)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="end-with-parent").start()


if __name__ == "__main__":
    main(sys.argv[1:])
