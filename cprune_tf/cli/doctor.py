"""Checks a device step by step, and says how to mend a problem.

    python tools/doctor.py --device=adb:
    python tools/doctor.py --device='rpc://board:9090?key=KEY'
    python tools/doctor.py --device=adb:SERIAL --cleanup

The exit code is 1 if a check fails. --cleanup removes everything that was pushed to a phone.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from absl import flags

from cprune_tf.cli import command_line

_DEVICE = flags.DEFINE_string(
    "device", "local", "local, rpc://HOST:PORT?key=KEY, tracker://HOST:PORT?key=KEY or adb:SERIAL."
)
_CORES = flags.DEFINE_string("cores", "", "big, middle, little or numbers like 4-7; default: all.")
_CLEANUP = flags.DEFINE_bool(
    "cleanup", False, "Remove everything that was pushed to the phone instead."
)


def run() -> None:
    """The entry point of `cprune-doctor`."""
    command_line.run_main(main)


def main(argv: Sequence[str]) -> None:
    """Prints one line for each check."""
    del argv
    if _CLEANUP.value:
        _clean_up(_DEVICE.value)
        return
    command_line.import_tensorflow_quietly()
    from cprune_tf import doctor

    ok = True
    for finding in doctor.examine(_DEVICE.value, _CORES.value):
        print(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.check}: {finding.text}", flush=True)
        ok = finding.ok
    if not ok:
        sys.exit(1)


def _clean_up(device: str) -> None:
    from cprune_tf.devices import adb

    if not device.startswith("adb:"):
        raise command_line.UsageError(
            f"--cleanup is for phones; --device is {device!r}, expected adb:SERIAL."
        )
    serial = adb.clean_up(device.removeprefix("adb:").partition("?")[0])
    print(f"{adb.ROOT} was removed from {serial}.")


if __name__ == "__main__":
    run()
