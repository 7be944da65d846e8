"""Keeps what native code writes to standard error off the terminal."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Sends this process's standard error nowhere while the block runs.

    For TensorFlow, whose C++ code remarks on CPUs and log files before any log level applies. What
    goes wrong arrives as an exception; standard output, where progress is shown, stays as it is.
    """
    sys.stderr.flush()
    with open(os.devnull, "wb") as nowhere:
        kept = os.dup(2)
        try:
            os.dup2(nowhere.fileno(), 2)
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
