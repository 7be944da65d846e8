"""Which cores a device's process runs on, and how warm they get meanwhile.

Only the standard library: this runs in the device's process.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import time
from collections.abc import Sequence
from typing import Any

from cprune_tf.devices.agent.description import read_mhz, temperature_celsius

_COOL_POLL_SEC = 0.5
# A device that lies in the sun never cools down: its numbers then say how warm it was.
_LONGEST_COOLING_SEC = 120.0
# Once warm, it gets this much cooler before it goes on; else every block would wait.
_HYSTERESIS_CELSIUS = 2.0
_READ_PERIOD_SEC = 0.05
_THROTTLED_BELOW = 0.95
_TASKS = pathlib.Path("/proc/self/task")
# What the process was given when it started; never more than that is used.
_GIVEN_CORES = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()


def pin(cores: Sequence[int]) -> None:
    """Makes all threads of this process run on some cores only; later ones inherit it.

    Args:
        cores: Their numbers; none: all.

    Raises:
        OSError: None of them can be used.
    """
    if not hasattr(os, "sched_setaffinity"):
        if cores:
            raise OSError("this system cannot pin threads to cores; leave measure.cores empty.")
        return
    allowed = set(cores) or _GIVEN_CORES
    if allowed == os.sched_getaffinity(0):
        return
    for task in os.listdir(_TASKS):
        with contextlib.suppress(ProcessLookupError):  # it may end in between
            os.sched_setaffinity(int(task), allowed)


class Climate:
    """Watches temperature and frequency limits during a measurement.

    Args:
        cores: The cores that are used; none: all.
        limit_celsius: Above it, before_block waits; None: it never does.
    """

    def __init__(self, cores: Sequence[int], limit_celsius: float | None) -> None:
        self._cores = tuple(cores)
        self._watched = self._cores or tuple(_GIVEN_CORES)
        self._limit_celsius = limit_celsius
        self._highest_celsius = temperature_celsius()
        self._cooled_sec = 0.0
        self._throttled = False
        self._read_at = -_READ_PERIOD_SEC

    def before_block(self) -> None:
        """Looks at the device, and waits for it to cool down where it is too warm."""
        now = time.monotonic()
        if now - self._read_at < _READ_PERIOD_SEC:
            return
        self._look()
        self._cool_down()
        self._read_at = time.monotonic()

    def conditions(self) -> dict[str, Any]:
        """The fields of base.Conditions, but `emulated`."""
        self._look()
        return {
            "cores": list(self._cores),
            "temperature_celsius": self._highest_celsius,
            "cooled_sec": round(self._cooled_sec, 1),
            "throttled": self._throttled,
        }

    def _look(self) -> None:
        celsius = temperature_celsius()
        if celsius is not None:
            self._highest_celsius = max(celsius, self._highest_celsius or celsius)
        for core in self._watched:
            allowed = read_mhz(core, "scaling_max_freq")
            possible = read_mhz(core, "cpuinfo_max_freq")
            if allowed and possible and allowed < _THROTTLED_BELOW * possible:
                self._throttled = True

    def _cool_down(self) -> None:
        celsius = temperature_celsius()
        if self._limit_celsius is None or celsius is None or celsius <= self._limit_celsius:
            return
        start = time.monotonic()
        while (celsius or 0.0) > self._limit_celsius - _HYSTERESIS_CELSIUS:
            if self._cooled_sec + time.monotonic() - start > _LONGEST_COOLING_SEC:
                break
            time.sleep(_COOL_POLL_SEC)
            celsius = temperature_celsius()
        self._cooled_sec += time.monotonic() - start
