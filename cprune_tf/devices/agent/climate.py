"""Pins the device's process to cores, and watches how warm the device gets during a measurement.

This module runs in the device's process and needs only the standard library.
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
# A device in a hot place never cools down; it is then measured warm, and the result says how warm.
_LONGEST_COOLING_SEC = 120.0
# A device that was too warm cools to this much below the limit; otherwise every block would wait.
_HYSTERESIS_CELSIUS = 2.0
_READ_PERIOD_SEC = 0.05
_THROTTLED_BELOW = 0.95
_TASKS = pathlib.Path("/proc/self/task")
# The cores that the process was allowed to use at its start; it never uses others.
_ALLOWED_CORES = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()


def pin(cores: Sequence[int]) -> None:
    """Restricts all threads of this process to some cores; threads started later inherit that.

    Args:
        cores: Numbers of the cores; empty for all cores that the process was started with.

    Raises:
        OSError: None of the cores can be used.
    """
    if not hasattr(os, "sched_setaffinity"):
        if cores:
            raise OSError("this system cannot pin threads to cores; leave measure.cores empty.")
        return
    allowed = set(cores) or _ALLOWED_CORES
    if allowed == os.sched_getaffinity(0):
        return
    for task in os.listdir(_TASKS):
        with contextlib.suppress(ProcessLookupError):  # the thread may have ended
            os.sched_setaffinity(int(task), allowed)


class Climate:
    """Watches temperature and frequency limits during a measurement.

    Args:
        cores: Numbers of the cores in use; empty for all.
        limit_celsius: Temperature above which before_block waits; None to never wait.
    """

    def __init__(self, cores: Sequence[int], limit_celsius: float | None) -> None:
        self._cores = tuple(cores)
        self._watched = self._cores or tuple(_ALLOWED_CORES)
        self._limit_celsius = limit_celsius
        self._highest_celsius = temperature_celsius()
        self._cooled_sec = 0.0
        self._throttled = False
        self._read_at = -_READ_PERIOD_SEC

    def before_block(self) -> None:
        """Reads temperature and frequency limits, and waits for a device that is too warm."""
        now = time.monotonic()
        if now - self._read_at < _READ_PERIOD_SEC:
            return
        self._look()
        self._cool_down()
        self._read_at = time.monotonic()

    def conditions(self) -> dict[str, Any]:
        """Returns the fields of latency.Conditions except `emulated` and `processor`."""
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
