"""Describes in words how a process ended; needs only the standard library."""

from __future__ import annotations

import signal


def describe_exit(status: int) -> str:
    """Says how a process ended, as the end of a sentence: "was ended by SIGSEGV".

    Args:
        status: The exit status, or the negative number of the signal.

    Returns:
        The text.
    """
    if status < 0:
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = f"signal {-status}"
        hint = " (the kernel's out-of-memory killer?)" if name == "SIGKILL" else ""
        return f"was ended by {name}{hint}"
    return f"ended with exit status {status}"
