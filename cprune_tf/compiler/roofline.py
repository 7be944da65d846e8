"""Measures the limits of a device's cores: FMA peak and memory bandwidth.

Two kernels are scheduled by hand, built for the device's target and timed like any program. One
computes chains of multiply-adds that stay in registers; the other streams over a working set. The
bandwidth is measured at several sizes, because a task whose data fit into a cache does not wait for
the main memory.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
import tempfile
from typing import Any

import tvm
from tvm.script import tirx as T  # noqa: N812 (TVMScript needs this name)

from cprune_tf.compiler.building.builder import build_program
from cprune_tf.devices.base import Device
from cprune_tf.devices.errors import DeviceError

# Vector widths from NEON to AVX-512. Vectors wider than the machine's registers take several.
_LANES = (4, 8, 16)
# Enough independent chains to hide an FMA's latency, few enough for 16 registers.
_CHAINS = (8, 12)
_FMA_STEPS = 4096
# In bytes, from the first-level cache to well beyond the last one.
_WORKING_SETS = tuple(2**exponent for exponent in range(14, 28, 2))
_STREAM_LANES = 16
_FLOAT_BYTES = 4
_STREAMS = 3  # two read, one written
# The samples are many and short, so that at least one is undisturbed even on a busy machine.
_REPEATS = 25
_MIN_REPEAT_MS = 2


@dataclasses.dataclass(frozen=True)
class Bandwidth:
    """The bandwidth of streaming over a working set.

    Attributes:
        working_set_bytes: The size of all arrays together, in bytes.
        gb_per_sec: Bytes read or written per second, in units of 1e9.
    """

    working_set_bytes: int
    gb_per_sec: float


@dataclasses.dataclass(frozen=True)
class Roofline:
    """The device's limits for one number of threads.

    Attributes:
        num_threads: The number of threads that both kernels ran on.
        peak_gflops: The peak of float32 multiply-adds (two operations each), in 1e9 operations per
            second.
        bandwidths: The measured bandwidths, by ascending working set.
    """

    num_threads: int
    peak_gflops: float
    bandwidths: tuple[Bandwidth, ...]

    def bandwidth_gb_per_sec(self, num_bytes: float) -> float:
        """The bandwidth for a working set, interpolated between the measured sizes."""
        first, last = self.bandwidths[0], self.bandwidths[-1]
        if num_bytes <= first.working_set_bytes:
            return first.gb_per_sec
        for lower, upper in zip(self.bandwidths, self.bandwidths[1:], strict=False):
            if num_bytes <= upper.working_set_bytes:
                span = math.log(upper.working_set_bytes / lower.working_set_bytes)
                part = math.log(num_bytes / lower.working_set_bytes) / span
                return lower.gb_per_sec ** (1 - part) * upper.gb_per_sec**part
        return last.gb_per_sec

    def compute_ms(self, flops: float) -> float:
        """The time in ms that floating point operations take at the peak."""
        return flops / self.peak_gflops / 1e6

    def memory_ms(self, num_bytes: float) -> float:
        """The time in ms that bytes take at the bandwidth of a working set of their size."""
        return num_bytes / self.bandwidth_gb_per_sec(num_bytes) / 1e6

    def bound_ms(self, flops: float, num_bytes: float) -> float:
        """The least time in ms for a task: the longer of its computation and memory traffic."""
        return max(self.compute_ms(flops), self.memory_ms(num_bytes))


def measure_roofline(device: Device, num_threads: int = 1) -> Roofline:
    """Measures a device's limits, which takes some seconds.

    Args:
        device: The device that both kernels run on.
        num_threads: The number of threads that they run on.

    Returns:
        The limits by the best sample of each kernel, since something else slowed the others down.

    Raises:
        DeviceError: If the device cannot run the kernels.
    """
    require_cpu(device)
    target = tvm.target.Target(device.target(num_threads))
    with tempfile.TemporaryDirectory(prefix="cprune_roofline_") as folder:
        library = pathlib.Path(folder) / "kernel.so"

        def best_ms(kernel: Any, *shapes: tuple[int, ...]) -> float:
            mod = tvm.IRModule({"main": kernel})
            build_program(mod, target, str(library), device.linker)
            samples = device.time_kernel(
                library,
                "main",
                [("float32", shape) for shape in shapes],
                num_threads=num_threads,
                number=1,
                repeat=_REPEATS,
                min_repeat_ms=_MIN_REPEAT_MS,
            )
            return min(samples)

        peak = 0.0
        for lanes in _LANES:
            for chains in _CHAINS:
                kernel_ms = best_ms(
                    _fma_kernel(chains, lanes, num_threads),
                    (lanes,),
                    (num_threads, chains * lanes),
                )
                flops = 2.0 * lanes * chains * _FMA_STEPS * num_threads
                peak = max(peak, flops / kernel_ms / 1e6)
        bandwidths = tuple(_bandwidth(best_ms, size, num_threads) for size in _WORKING_SETS)
    return Roofline(num_threads, peak, bandwidths)


def require_cpu(device: Device) -> None:
    """Refuses a device whose GPU is used, as both kernels are for vector registers and caches.

    Raises:
        DeviceError: If the device computes on its GPU.
    """
    if device.accelerator() is not None:
        raise DeviceError(
            f"The device computes on {device.accelerator()}; a roofline is known for CPUs only. "
            "Leave gpu=... out of the device's name, or use tools/staircase.py: it works on GPUs."
        )


def _bandwidth(best_ms: Any, working_set_bytes: int, num_threads: int) -> Bandwidth:
    rows = working_set_bytes // (2 * _FLOAT_BYTES * _STREAM_LANES * num_threads)
    # Small sets are streamed several times, so that the cost of the call itself is negligible.
    passes = max(1, _WORKING_SETS[-1] // 64 // working_set_bytes)
    shape = (num_threads, rows, _STREAM_LANES)
    kernel_ms = best_ms(_stream_kernel(rows, passes, num_threads), shape, shape)
    num_bytes = _STREAMS * _FLOAT_BYTES * math.prod(shape) * passes
    return Bandwidth(2 * _FLOAT_BYTES * math.prod(shape), num_bytes / kernel_ms / 1e6)


def _fma_kernel(chains: int, lanes: int, num_threads: int) -> Any:
    """A kernel whose threads each repeat acc = acc * x + x for `chains` independent vectors."""
    width = chains * lanes

    @T.prim_func(s_tir=True)
    def main(
        x: T.Buffer((lanes,), "float32"),  # type: ignore[valid-type]
        out: T.Buffer((num_threads, width), "float32"),  # type: ignore[valid-type]
    ) -> None:
        T.func_attr({"global_symbol": "main", "tirx.noalias": True})
        for thread in T.parallel(num_threads):
            acc = T.alloc_buffer((width,), "float32", scope="local")
            for chain in T.unroll(chains):
                for lane in T.vectorized(lanes):
                    acc[chain * lanes + lane] = x[lane]
            for _ in range(_FMA_STEPS):
                for chain in T.unroll(chains):
                    for lane in T.vectorized(lanes):
                        acc[chain * lanes + lane] = acc[chain * lanes + lane] * x[lane] + x[lane]
            for chain in T.unroll(chains):
                for lane in T.vectorized(lanes):
                    out[thread, chain * lanes + lane] = acc[chain * lanes + lane]

    return main


def _stream_kernel(rows: int, passes: int, num_threads: int) -> Any:
    """A kernel whose threads each add one array to another."""

    @T.prim_func(s_tir=True)
    def main(
        x: T.Buffer((num_threads, rows, _STREAM_LANES), "float32"),  # type: ignore[valid-type]
        y: T.Buffer((num_threads, rows, _STREAM_LANES), "float32"),  # type: ignore[valid-type]
    ) -> None:
        T.func_attr({"global_symbol": "main", "tirx.noalias": True})
        for thread in T.parallel(num_threads):
            for _ in range(passes):
                for row in range(rows):
                    for lane in T.vectorized(_STREAM_LANES):
                        y[thread, row, lane] = y[thread, row, lane] + x[thread, row, lane]

    return main
