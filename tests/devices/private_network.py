"""A network of its own for tests: for adbd, an unauthenticated shell, or to cut it."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
_PRIVATE = "CPRUNE_TF_PRIVATE_NETWORK"
# A process namespace too: whatever is left in it ends with it.
_UNSHARE = ["unshare", "-Urn", "--pid", "--fork", "--kill-child", "--mount-proc"]


def is_private():
    """Whether this process was started by `run_python`."""
    return _PRIVATE in os.environ


def is_allowed():
    return subprocess.run([*_UNSHARE, "true"], check=False, capture_output=True).returncode == 0


def run_python(arguments, environment, timeout_sec):
    """Runs Python with arguments where nothing but itself can reach it; gives what came of it."""
    # The shell stays: as that namespace's first process, it takes leave of orphans that ended.
    script = 'ip link set lo up; "$@"; exit $?'
    return subprocess.run(
        [*_UNSHARE, "sh", "-c", script, "sh", sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, **environment, _PRIVATE: "1"},
        capture_output=True,
        text=True,
        timeout=timeout_sec,
        check=False,
    )


def switch(on):
    """Nothing gets through while it is off; nobody is told."""
    assert is_private()
    subprocess.run(["ip", "link", "set", "lo", "up" if on else "down"], check=True)
