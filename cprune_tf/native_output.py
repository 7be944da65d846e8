"""Keeps what native code writes to standard error off the terminal."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Discards what this process writes to standard error while the block runs.

    This is for TensorFlow, whose C++ code writes messages about CPUs and log files before any log
    level applies. Failures still arrive as exceptions. Standard output, which shows progress, is
    not affected.
    """
    sys.stderr.flush()
    with open(os.devnull, "wb") as null_device:
        original_stderr = os.dup(2)
        try:
            os.dup2(null_device.fileno(), 2)
            yield
        finally:
            sys.stderr.flush()
            os.dup2(original_stderr, 2)
            os.close(original_stderr)
