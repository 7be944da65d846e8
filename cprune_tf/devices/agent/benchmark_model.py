"""TensorFlow Lite's `benchmark_model` as a second way to time a `.tflite` file.

Its command line and output are described in TensorFlow's repository, in the README.md of
tensorflow/lite/tools/benchmark; the line of statistics comes from core/util/stats_calculator.h.
This module runs on the device and needs only the standard library.
"""

from __future__ import annotations

import dataclasses
import os
import re
import stat
import subprocess

_STATISTICS = re.compile(r"count=(\d+)\b(.*)")
_VALUE = re.compile(r"\b(min|max|avg|std|median|curr)=([0-9.eE+-]+)")
# A phone's server runs with the bundle's libraries, which Android's programs must not load.
_NOT_INHERITED = ("LD_LIBRARY_PATH", "LD_PRELOAD", "PYTHONHOME", "PYTHONPATH")
_LAST_LINES = 3


@dataclasses.dataclass(frozen=True)
class ToolLatency:
    """The latency of one model that `benchmark_model` reports.

    Attributes:
        num_runs: Number of timed runs.
        mean_ms: Mean duration of one run in ms.
        std_ms: Standard deviation in ms.
        min_ms: Duration of the fastest run in ms.
        max_ms: Duration of the slowest run in ms.
        median_ms: Median duration in ms; None if the tool is too old to report it.
    """

    num_runs: int
    mean_ms: float
    std_ms: float
    min_ms: float
    max_ms: float
    median_ms: float | None

    def __str__(self) -> str:
        middle = "" if self.median_ms is None else f"median {self.median_ms:.4g} ms, "
        return (
            f"{middle}mean {self.mean_ms:.4g} ms (± {self.std_ms:.2g}; {self.min_ms:.4g} to "
            f"{self.max_ms:.4g}; {self.num_runs} runs)"
        )


def parse_output(printed: str) -> ToolLatency:
    """Reads the statistics of the timed runs, which follow those of the warm-up.

    Args:
        printed: The tool's standard output and standard error.

    Returns:
        The latency.

    Raises:
        RuntimeError: The output has no such statistics; the message quotes its last lines.
    """
    printed_statistics = _STATISTICS.findall(printed)
    if len(printed_statistics) < 2 or int(printed_statistics[1][0]) == 0:
        last = " / ".join(printed.strip().splitlines()[-_LAST_LINES:]) or "nothing"
        raise RuntimeError(
            "benchmark_model printed no statistics of timed runs; expected two lines 'count=... "
            f"avg=...' for warm-up and runs. It ended with: {last}"
        )
    count, rest = printed_statistics[1]
    values = {name: float(value) / 1000 for name, value in _VALUE.findall(rest)}
    # The tool prints only "curr" if all runs took equally long.
    mean_ms = values.get("avg", values.get("curr", 0.0))
    return ToolLatency(
        int(count),
        mean_ms,
        values.get("std", 0.0),
        values.get("min", mean_ms),
        values.get("max", mean_ms),
        values.get("median"),
    )


def run_tool(
    program: str, model: str, num_threads: int, max_time_sec: float, timeout_sec: float
) -> dict[str, object]:
    """Runs the tool on a `.tflite` file with XNNPACK, on the cores of this process.

    Args:
        program: The tool's path on this device.
        model: The file's path on this device.
        num_threads: Number of threads.
        max_time_sec: Longest time in seconds for the timed runs; the tool aims at fifty or more.
        timeout_sec: Longest time that the whole call may take.

    Returns:
        The fields of a ToolLatency.

    Raises:
        RuntimeError: The tool cannot be run here, fails, or prints no statistics.
    """
    os.chmod(program, os.stat(program).st_mode | stat.S_IXUSR)
    command = [
        *(program, f"--graph={model}", f"--num_threads={num_threads}", "--use_xnnpack=true"),
        *("--num_runs=50", f"--max_secs={max_time_sec:g}", "--enable_op_profiling=false"),
    ]
    environment = {k: v for k, v in os.environ.items() if k not in _NOT_INHERITED}
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_sec, env=environment
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RuntimeError(
            f"benchmark_model cannot be run on this device: {error}. It must be built for the "
            "device's system and processor."
        ) from error
    printed = result.stdout + result.stderr
    if result.returncode != 0:
        last = " / ".join(printed.strip().splitlines()[-_LAST_LINES:])
        raise RuntimeError(f"benchmark_model ended with code {result.returncode}: {last}")
    return dataclasses.asdict(parse_output(printed))
