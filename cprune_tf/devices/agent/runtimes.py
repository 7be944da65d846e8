"""Models as the device's process runs them: one interface to TVM libraries and `.tflite` files.

This module needs only numpy, TVM's runtime and LiteRT, each imported when first needed, because a
board has nothing else.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import os
import pathlib
import re
import threading
import time
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from cprune_tf.devices.agent.arrays import random_array

Array = npt.NDArray[Any]

RUNTIMES = ("tvm", "litert")

_LITERT_MODULES = (
    ("ai_edge_litert.interpreter", "ai-edge-litert"),
    ("tflite_runtime.interpreter", "tflite-runtime"),
    ("tensorflow.lite", "tensorflow"),
)
_INPUT_ANNOTATION = re.compile(
    r"ErrorContext\(fn=main, loc=param\[(\d+)\], [^\n]*?R\.Tensor\(\(([\d, ]*)\), dtype=\"(\w+)\""
)
_IDLE_POLL_SEC = 0.001
_IDLE_LIMIT_SEC = 1.0


class Model(Protocol):
    """A loaded model of batch size 1."""

    def set_inputs(self, inputs: Sequence[Array]) -> None:
        """Sets all inputs, each with its batch dimension of 1."""

    def invoke(self) -> None:
        """Runs the model once."""

    def outputs(self) -> list[Array]:
        """Returns copies of all outputs of the last run."""

    def random_inputs(self) -> list[Array]:
        """Returns inputs of the right shapes and types for timing the model."""


def load_tvm() -> Any:
    """Imports TVM, with the runtime functions that a runtime-only import leaves out.

    Returns:
        The `tvm` module.

    Raises:
        ImportError: TVM is not installed here.
    """
    tvm: Any = importlib.import_module("tvm")
    if tvm.get_global_func("tvm.contrib.random.random_fill", allow_missing=True) is None:
        load_runtime_part(tvm, "extra")
    return tvm


def load_runtime_part(tvm: Any, name: str) -> None:
    """Loads a part of TVM's runtime that has its own library, if this TVM has the part.

    Args:
        tvm: The `tvm` module.
        name: The part, e.g. "extra" or "cuda".

    Raises:
        OSError: The library exists, but something that it needs is missing.
    """
    directory = pathlib.Path(tvm.__file__).parent / "lib"
    if any(directory.glob(f"libtvm_runtime_{name}.*")):
        importlib.import_module("tvm_ffi.libinfo").load_lib_ctypes(
            "tvm", f"tvm_runtime_{name}", "RTLD_LOCAL", extra_lib_paths=[directory]
        )


def set_tvm_threads(num_threads: int) -> None:
    """Sets how many threads TVM's parallel loops use from now on, the calling one included.

    Args:
        num_threads: From 1 to the value of TVM_NUM_THREADS at the start of the process.

    Raises:
        RuntimeError: TVM uses another number of threads, because its pool was created smaller.
    """
    tvm = load_tvm()
    all_cores = 1  # TVM calls this mode "big"; without pinning it does not choose a cluster
    tvm.get_global_func("runtime.config_threadpool")(all_cores, num_threads)
    actual = tvm.get_global_func("runtime.NumThreads")()
    if actual != num_threads:
        raise RuntimeError(
            f"TVM runs on {actual} threads instead of the requested {num_threads}; start this "
            f"process with TVM_NUM_THREADS={num_threads} or more "
            f"(it is {os.environ.get('TVM_NUM_THREADS', 'not set')})."
        )


def load_library(path: str) -> Any:
    """Loads a TVM library, which is unloaded again with the last reference to it.

    `tvm.runtime.load_module` keeps every library until the process ends. Then a library written to
    the same path later would never be loaded, because the system returns the first one, and after
    some ten thousand measured programs the process could map no more memory.

    Args:
        path: The shared library on this device.

    Returns:
        The TVM module.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file cannot be loaded; the message says why.
    """
    _require_file(path)
    load_tvm()
    try:
        return importlib.import_module("tvm_ffi").load_module(path, keep_module_alive=False)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{path} is not a TVM library for this device: {error}") from error


def litert_interpreter() -> tuple[Any, str]:
    """Finds LiteRT in the first installed package that contains it.

    Returns:
        The Interpreter class, and the package's name and version as one string.

    Raises:
        ImportError: None of the packages is installed; the message says what to install.
    """
    for module_name, package in _LITERT_MODULES:
        try:
            module = importlib.import_module(module_name)
        except ImportError:
            continue
        return module.Interpreter, f"{package} {package_version(package)}"
    raise ImportError(
        "No TFLite runtime is installed on this device; pip install ai-edge-litert (or "
        "tflite-runtime on a board with an older Python)."
    )


def package_version(package: str) -> str:
    """Returns the version of an installed package, or "unknown"."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


class TvmModel:
    """A library exported from a Relax VM executable, whose "main" takes the data inputs only."""

    def __init__(self, path: str, num_threads: int, gpu: Any = None) -> None:
        """Loads the library.

        Args:
            path: The shared library on this device.
            num_threads: Number of threads its parallel loops run on. All models share the process's
                pool, so the last loaded model or call of set_tvm_threads decides.
            gpu: The GPU to run on, from accelerators.runtime_device; None for the CPU.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is no TVM model; the message says why.
            RuntimeError: TVM does not use that many threads.
        """
        self._library = load_library(path)
        tvm = load_tvm()
        set_tvm_threads(num_threads)
        self._path = path
        self._tensor = tvm.runtime.tensor
        self._gpu = gpu
        self._device = tvm.cpu(0) if gpu is None else gpu
        virtual_machine = importlib.import_module("tvm.runtime.vm").VirtualMachine
        try:
            self._vm = virtual_machine(self._library, self._device)
            self._num_inputs = self._vm.module["get_function_arity"]("main")
        except (AttributeError, RuntimeError, ValueError) as error:
            raise ValueError(
                f"{path} is not a TVM model library for this device (what "
                f"relax.build(...).export_library(...) writes, with a function main): {error}"
            ) from error
        self._invoke = self._vm.module["invoke_stateful"]

    def set_inputs(self, inputs: Sequence[Array]) -> None:
        """See Model."""
        _require_count(self._path, len(inputs), self._num_inputs)
        self._vm.set_input("main", *(self._tensor(x, device=self._device) for x in inputs))

    def invoke(self) -> None:
        """See Model."""
        self._invoke("main")
        if self._gpu is not None:  # the call above only queued the work
            self._gpu.sync()

    def outputs(self) -> list[Array]:
        """See Model."""
        # VirtualMachine.get_outputs leaves a reference cycle, which would keep the library loaded.
        module = self._vm.module
        num_outputs = module["get_output_arity"]("main")
        if num_outputs < 0:  # a single tensor instead of a tuple
            return [module["get_output"]("main").numpy()]
        return [module["get_output"]("main", i).numpy() for i in range(num_outputs)]

    def random_inputs(self) -> list[Array]:
        """See Model.

        Raises:
            ValueError: The library does not contain the shapes of its inputs.
        """
        # A library holds its input shapes only in the error messages of its shape checks.
        specs = {
            int(position): (dtype, tuple(int(size) for size in shape.split(",") if size.strip()))
            for position, shape, dtype in _INPUT_ANNOTATION.findall(self._library["stats"]())
        }
        if sorted(specs) != list(range(self._num_inputs)):
            raise ValueError(
                f"{self._path} does not contain the shapes of its {self._num_inputs} inputs (found "
                f"{specs}); pass ModelFile(..., inputs=((dtype, shape), ...))."
            )
        return [random_array(*specs[i], seed=i) for i in range(self._num_inputs)]


class LitertModel:
    """A `.tflite` file, run by LiteRT with XNNPACK (its default on CPUs)."""

    def __init__(self, path: str, num_threads: int) -> None:
        """Loads the file.

        Args:
            path: The `.tflite` file on this device.
            num_threads: Number of threads of this model's pool, the calling one included.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is no TFLite model; the message says why.
            ImportError: No TFLite runtime is installed.
        """
        _require_file(path)
        interpreter, _ = litert_interpreter()
        self._path = path
        try:
            self._interpreter = interpreter(model_path=path, num_threads=num_threads)
            self._interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"{path} is not a model that LiteRT can run: {error}") from error
        self._inputs, self._outputs = details_in_order(self._interpreter)

    def set_inputs(self, inputs: Sequence[Array]) -> None:
        """See Model."""
        _require_count(self._path, len(inputs), len(self._inputs))
        for detail, value in zip(self._inputs, inputs, strict=True):
            self._interpreter.set_tensor(detail["index"], value)

    def invoke(self) -> None:
        """See Model."""
        self._interpreter.invoke()

    def outputs(self) -> list[Array]:
        """See Model."""
        return [self._interpreter.get_tensor(detail["index"]) for detail in self._outputs]

    def random_inputs(self) -> list[Array]:
        """See Model."""
        return [
            random_array(np.dtype(detail["dtype"]).name, detail["shape"], seed=i)
            for i, detail in enumerate(self._inputs)
        ]


def load_model(runtime: str, path: str, num_threads: int, gpu: Any = None) -> Model:
    """Loads a model of either runtime.

    Args:
        runtime: "tvm" or "litert".
        path: The file on this device.
        num_threads: Number of threads.
        gpu: The GPU that a TVM model runs on; None for the CPU. LiteRT always runs on the CPU.

    Returns:
        The loaded model.

    Raises:
        ValueError: The runtime is unknown, or the file is no model of this runtime.
    """
    if runtime == "tvm":
        return TvmModel(path, num_threads, gpu)
    if runtime == "litert":
        return LitertModel(path, num_threads)
    raise ValueError(f"Unknown runtime {runtime!r}; expected one of {', '.join(RUNTIMES)}.")


def wait_until_idle() -> None:
    """Waits until no other thread of this process runs, for a second at most.

    This reads the threads' states instead of the time they use: on a busy machine, a spinning
    thread may wait for a core for a while and then spin in the middle of the next measurement.
    """
    deadline = time.monotonic() + _IDLE_LIMIT_SEC
    while _another_thread_runs() and time.monotonic() < deadline:
        time.sleep(_IDLE_POLL_SEC)


def _another_thread_runs() -> bool:
    this_thread = str(threading.get_native_id())
    tasks = pathlib.Path("/proc/self/task")
    for task in os.listdir(tasks) if tasks.is_dir() else ():
        with contextlib.suppress(OSError):  # the thread may have ended
            state = (tasks / task / "stat").read_text().rpartition(")")[2].split()[0]
            if state == "R" and task != this_thread:
                return True
    return False


def details_in_order(interpreter: Any) -> tuple[list[Any], list[Any]]:
    """Finds out what a file takes and gives, in the order of the Keras model that it was made from.

    Args:
        interpreter: LiteRT's, with the file.

    Returns:
        The details of inputs and of outputs, sorted by the names in the file's signature; in the
        file's order if it does not have exactly one signature.
    """
    if len(interpreter.get_signature_list()) != 1:
        return interpreter.get_input_details(), interpreter.get_output_details()
    runner = interpreter.get_signature_runner()
    inputs, outputs = runner.get_input_details(), runner.get_output_details()
    return (
        [inputs[name] for name in sorted(inputs, key=_natural_order)],
        [outputs[name] for name in sorted(outputs, key=_natural_order)],
    )


def _natural_order(name: str) -> list[tuple[int, str]]:
    """Returns a sort key that puts "args_2" before "args_10"."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]


def _require_file(path: str) -> None:
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no file {path} on this device.")


def _require_count(path: str, received: int, expected: int) -> None:
    if received != expected:
        raise ValueError(
            f"{path} has {expected} inputs, but {received} arrays were passed; pass one per input."
        )
