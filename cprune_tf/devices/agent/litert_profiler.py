"""LiteRT's profiler: how long each operator of a `.tflite` file takes.

The Python package does not expose the profiler, but the library in the same wheel does: the
functions used here are declared in `litert/c/*.h` of github.com/google-ai-edge/LiteRT. The model
runs as a CompiledModel, with the same XNNPACK as `runtimes.LitertModel`. XNNPACK reports whole
microseconds for each of its operators, rounded down.

This module reads a struct of the profiler whose size no contract fixes. It derives the size from
the bytes that the library writes, and any unexpected layout is an error.
"""

from __future__ import annotations

import ctypes
import dataclasses
import importlib.util
import os
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cprune_tf.devices.agent.arrays import random_array
from cprune_tf.devices.agent.runtimes import litert_interpreter, package_version

_PACKAGE = "ai-edge-litert"
_OLDEST, _NEWEST = (2, 3), (3, 0)  # the releases that the declarations below match
_CPU = 1  # kLiteRtHwAcceleratorCpu
_WRITE = 1  # kLiteRtTensorBufferLockModeWrite
_FLOAT32 = 1  # kLiteRtElementTypeFloat32
_OPERATOR, _DELEGATE_OPERATORS = 1 << 1, (1 << 2, 1 << 3)  # LiteRtProfilerEventType
_KNOWN_TYPES = frozenset(1 << bit for bit in range(9))
_LARGEST_TYPE = 512  # bytes; a LiteRtRankedTensorType is far smaller
_LARGEST_EVENT = 512
_UNWRITTEN = 0xA5
# ProfiledEventData: tag, type, start and elapsed time, two equal structs, two numbers, source.
_EVENT_BYTES_BUT_STRUCTS = 56

_Free = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


@dataclasses.dataclass(frozen=True)
class OperatorEvent:
    """One execution of one operator.

    Attributes:
        name: The name that LiteRT or its delegate uses: "CONV_2D", "Convolution (NHWC, F32) IGEMM".
        delegated: Whether a delegate ran it.
        index: The operator's number in the file, or among the delegate's operators if delegated.
        microseconds: The duration in microseconds.
    """

    name: str
    delegated: bool
    index: int
    microseconds: int


class ProfiledModel:
    """A `.tflite` file that LiteRT profiles while it runs.

    Args:
        path: The file on this device.
        num_threads: Number of threads, the calling one included.

    Raises:
        ImportError: This device has no LiteRT with a profiler.
        FileNotFoundError: There is no such file.
        ValueError: LiteRT refuses the model; the message names the call.
    """

    def __init__(self, path: str, num_threads: int) -> None:
        self._library = _load()
        # Handles to free, each with the name of the function that frees it.
        self._handles: list[tuple[str, ctypes.c_void_p]] = []
        if not os.path.isfile(path):
            raise FileNotFoundError(f"There is no file {path} on this device.")
        try:
            self._open(path, num_threads)
        except Exception:
            self.close()
            raise

    def run(self) -> None:
        """Runs the model once."""
        self._call("LiteRtRunCompiledModel", self._compiled, _size(0), *self._buffers)

    def profile(self, runs: int) -> list[list[OperatorEvent]]:
        """Runs the model several times under the profiler.

        Args:
            runs: Number of runs.

        Returns:
            For every run, its operators in the order in which they ran.

        Raises:
            RuntimeError: The profiler's events have an unexpected layout or number.
        """
        self._call("LiteRtStartProfiler", self._profiler)  # drops earlier events
        for _ in range(runs):
            self.run()
        self._call("LiteRtStopProfiler", self._profiler)
        events = self._events()
        length, rest = divmod(len(events), runs)
        if rest or not length:
            raise RuntimeError(
                f"LiteRT's profiler reported {len(events)} operators in {runs} runs of one model; "
                "expected the same number in each."
            )
        return [events[start : start + length] for start in range(0, len(events), length)]

    def close(self) -> None:
        """Frees the model."""
        while self._handles:
            destroy, handle = self._handles.pop()
            function = getattr(self._library, destroy)
            function.restype = None
            function(handle)

    def _open(self, path: str, num_threads: int) -> None:
        environment = self._new("LiteRtDestroyEnvironment", "LiteRtCreateEnvironment", 0, None)
        model = self._new(
            "LiteRtDestroyModel", "LiteRtCreateModelFromFile", environment, os.fsencode(path)
        )
        options = self._new("LiteRtDestroyOptions", "LiteRtCreateOptions")
        self._call("LiteRtSetOptionsHardwareAccelerators", options, _CPU)
        self._add_options(options, "xnnpack", f"num_threads = {num_threads}\n")
        self._add_options(options, "runtime_options_string", "enable_profiling = true\n")
        self._compiled = self._new(
            "LiteRtDestroyCompiledModel", "LiteRtCreateCompiledModel", environment, model, options
        )
        self._profiler = self._new(None, "LiteRtCompiledModelGetProfiler", self._compiled)
        if not self._profiler:
            raise ValueError(f"LiteRT gives no profiler for {path}.")
        signature = self._new(None, "LiteRtGetModelSignature", model, _size(0))
        inputs = self._tensors("Input", environment, signature)
        outputs = self._tensors("Output", environment, signature)
        self._buffers = (_size(len(inputs)), inputs, _size(len(outputs)), outputs)

    def _add_options(self, options: ctypes.c_void_p, kind: str, toml: str) -> None:
        """Adds options of one part of LiteRT, as TOML text."""
        # LiteRT frees the text itself, so it must come from the C library's allocator.
        process = ctypes.CDLL(None)
        process.malloc.restype = ctypes.c_void_p
        text = toml.encode() + b"\0"
        copy = ctypes.c_void_p(process.malloc(_size(len(text))))
        ctypes.memmove(copy, text, len(text))
        free = ctypes.cast(process.free, _Free)
        opaque = self._new(None, "LiteRtCreateOpaqueOptions", kind.encode(), copy, free)
        self._call("LiteRtAddOpaqueOptions", options, opaque)

    def _tensors(
        self, kind: str, environment: ctypes.c_void_p, signature: ctypes.c_void_p
    ) -> ctypes.Array[Any]:
        count = ctypes.c_size_t()
        self._call(f"LiteRtGetNumSignature{kind}s", signature, ctypes.byref(count))
        buffers = []
        for number in range(count.value):
            tensor = self._new(
                None, f"LiteRtGetSignature{kind}TensorByIndex", signature, _size(number)
            )
            layout = ctypes.create_string_buffer(_LARGEST_TYPE)
            self._call("LiteRtGetRankedTensorType", tensor, layout)
            requirements = self._new(
                None,
                f"LiteRtGetCompiledModel{kind}BufferRequirements",
                self._compiled,
                _size(0),
                _size(number),
            )
            buffer = self._new(
                "LiteRtDestroyTensorBuffer",
                "LiteRtCreateManagedTensorBufferFromRequirements",
                environment,
                layout,
                requirements,
            )
            buffers.append(buffer)
            if kind == "Input":
                self._fill(buffer, ctypes.c_int.from_buffer(layout).value == _FLOAT32)
        return (ctypes.c_void_p * len(buffers))(*(buffer.value for buffer in buffers))

    def _fill(self, buffer: ctypes.c_void_p, is_float: bool) -> None:
        """Fills a buffer with random floats, as zeros can be faster, or with 0 for other types."""
        # Integers may be indices, and 0 is always in range.
        size, address = ctypes.c_size_t(), ctypes.c_void_p()
        self._call("LiteRtGetTensorBufferPackedSize", buffer, ctypes.byref(size))
        values = random_array("float32" if is_float else "int32", (-(-size.value // 4),), seed=0)
        self._call("LiteRtLockTensorBuffer", buffer, ctypes.byref(address), _WRITE)
        ctypes.memmove(address, values.ctypes.data, size.value)
        self._call("LiteRtUnlockTensorBuffer", buffer)

    def _events(self) -> list[OperatorEvent]:
        count = ctypes.c_int()
        self._call("LiteRtGetNumProfilerEvents", self._profiler, ctypes.byref(count))
        if count.value < 1:
            raise RuntimeError("LiteRT's profiler reported nothing; expected its operators.")
        memory = np.full(count.value * _LARGEST_EVENT, _UNWRITTEN, np.uint8)
        address = ctypes.c_void_p(memory.ctypes.data)
        self._call("LiteRtGetProfilerEvents", self._profiler, count, address)
        return operator_events(memory, count.value, _text)

    def _new(self, destroy: str | None, create: str, *arguments: Any) -> ctypes.c_void_p:
        """Calls a function whose last argument receives a handle; returns the handle.

        Args:
            destroy: The function that frees the handle in `close`; None if another object owns it.
            create: The function to call.
            *arguments: Its arguments before the handle.

        Returns:
            The handle.
        """
        handle = ctypes.c_void_p()
        self._call(create, *arguments, ctypes.byref(handle))
        if destroy is not None:
            self._handles.append((destroy, handle))
        return handle

    def _call(self, name: str, *arguments: Any) -> None:
        function = getattr(self._library, name)
        function.restype = ctypes.c_int
        status = function(*arguments)
        if status:
            raise ValueError(f"LiteRT refused {name} with status {status}.")


def operator_events(
    memory: np.ndarray, count: int, text: Callable[[int], str]
) -> list[OperatorEvent]:
    """Reads the profiler's structs.

    Args:
        memory: Bytes (uint8) that held 0xA5 before the library wrote the first of them.
        count: Number of structs that the library wrote.
        text: Function that reads the string at an address; called only after the layout was
            checked.

    Returns:
        The events of operators, in order.

    Raises:
        RuntimeError: The structs have an unexpected layout.
    """
    written = int(np.flatnonzero(memory != _UNWRITTEN)[-1]) + 1
    size = -(-(written // count) // 8) * 8  # the last one's padding may not be written
    structs, odd = divmod(size - _EVENT_BYTES_BUT_STRUCTS, 16)
    events = memory[: size * count].reshape(count, size)
    numbers = events.view(np.int64)
    types = events[:, 8:12].copy().view(np.int32)[:, 0]
    if odd or structs < 0 or not _KNOWN_TYPES.issuperset(types.tolist()):
        raise RuntimeError(
            f"LiteRT's profiler wrote {count} events of {written / count:.1f} bytes and types "
            f"{sorted(set(types.tolist()))}; this is not the layout of {_PACKAGE} "
            f"{'.'.join(map(str, _OLDEST))}. Install that release."
        )
    index = 4 + 2 * structs
    return [
        OperatorEvent(text(int(row[0])), kind != _OPERATOR, int(row[index]), int(row[3]))
        for kind, row in zip(types.tolist(), numbers, strict=True)
        if kind == _OPERATOR or kind in _DELEGATE_OPERATORS
    ]


def mean_times(runs: Sequence[Sequence[OperatorEvent]]) -> list[tuple[str, bool, int, float]]:
    """Returns how long each operator takes over many runs of one model.

    Args:
        runs: The runs of one model, from `ProfiledModel.profile`.

    Returns:
        For every operator: its name, whether it is delegated, its index, and its duration in ms,
        the mean over the middle half of its runs. (A median would be rounded to whole
        microseconds.)

    Raises:
        RuntimeError: The runs differ in their operators.
    """
    shapes = {tuple((e.name, e.delegated, e.index) for e in run) for run in runs}
    if len(shapes) != 1:
        raise RuntimeError(
            f"LiteRT reported {len(shapes)} different sequences of operators over {len(runs)} runs "
            "of one model; expected one."
        )
    times = np.sort([[event.microseconds for event in run] for run in runs], axis=0)
    quarter = len(runs) // 4
    means = times[quarter : len(runs) - quarter].mean(axis=0) / 1000
    return [(*shape, float(mean)) for shape, mean in zip(shapes.pop(), means, strict=True)]


def _load() -> Any:
    _, installed_version = litert_interpreter()
    spec = importlib.util.find_spec("ai_edge_litert")
    version = tuple(int(part) for part in re.findall(r"\d+", package_version(_PACKAGE))[:2])
    if spec is None or spec.origin is None or not _OLDEST <= version < _NEWEST:
        raise ImportError(
            f"Times of single operators need {_PACKAGE} {'.'.join(map(str, _OLDEST))} or a later "
            f"2.x on the device; it has {installed_version}."
        )
    path = pathlib.Path(spec.origin).parent / "libLiteRt.so"
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise ImportError(f"LiteRT's library cannot be loaded: {error}") from error


def _text(address: int) -> str:
    return (ctypes.string_at(address) if address else b"").decode(errors="replace")


def _size(value: int) -> ctypes.c_size_t:
    return ctypes.c_size_t(value)
