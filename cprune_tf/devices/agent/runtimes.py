"""Models as the device's process runs them: TVM libraries and `.tflite` files behind one face.

Only numpy, TVM's runtime and LiteRT, each imported when first needed: a board has nothing else.
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
        """Copies of all outputs of the last run."""

    def random_inputs(self) -> list[Array]:
        """Inputs of the right shapes and types to time the model with."""


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
    """Loads a part of TVM's runtime that is a library of its own; nothing where there is none.

    Args:
        tvm: The `tvm` module.
        name: The part, e.g. "extra" or "cuda".

    Raises:
        OSError: The library is there, but something that it needs is not.
    """
    directory = pathlib.Path(tvm.__file__).parent / "lib"
    if any(directory.glob(f"libtvm_runtime_{name}.*")):
        importlib.import_module("tvm_ffi.libinfo").load_lib_ctypes(
            "tvm", f"tvm_runtime_{name}", "RTLD_LOCAL", extra_lib_paths=[directory]
        )


def set_tvm_threads(num_threads: int) -> None:
    """Makes TVM's parallel loops run on this many threads from now on, the calling one included.

    Args:
        num_threads: 1 up to TVM_NUM_THREADS at the start of the process.

    Raises:
        RuntimeError: TVM does not use that many threads (its pool was created smaller).
    """
    tvm = load_tvm()
    all_cores = 1  # TVM's name for it is "big": no choice between clusters without pinning
    tvm.get_global_func("runtime.config_threadpool")(all_cores, num_threads)
    used = tvm.get_global_func("runtime.NumThreads")()
    if used != num_threads:
        raise RuntimeError(
            f"TVM runs on {used} threads although {num_threads} were asked for; start this process "
            f"with TVM_NUM_THREADS={num_threads} or more "
            f"(it is {os.environ.get('TVM_NUM_THREADS', 'not set')})."
        )


def load_library(path: str) -> Any:
    """Loads a TVM library, to be unloaded again with the last reference to it.

    `tvm.runtime.load_module` keeps what it loads until the process ends. Then another library that
    is written to the same path later would never be loaded, the system giving back the first; and
    after some ten thousand measured programs the process could map no more memory.

    Args:
        path: The shared library on this device.

    Returns:
        The TVM module.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file can't be loaded; says why.
    """
    _require_file(path)
    load_tvm()
    try:
        return importlib.import_module("tvm_ffi").load_module(path, keep_module_alive=False)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{path} is not a TVM library for this device: {error}") from error


def litert_interpreter() -> tuple[Any, str]:
    """Finds LiteRT under whichever name this device has it.

    Returns:
        The Interpreter class, and "package version" of what it came from.

    Raises:
        ImportError: None of the packages is installed; says which were tried.
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
    """The version of an installed package, or "unknown"."""
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
            num_threads: Threads its parallel loops run on. The pool is the process's: the model
                loaded last, or set_tvm_threads, decides.
            gpu: What it runs on, from accelerators.runtime_device; None: the CPU.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is no TVM model; says why.
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
        if self._gpu is not None:  # which was only told what to do so far
            self._gpu.sync()

    def outputs(self) -> list[Array]:
        """See Model."""
        # VirtualMachine.get_outputs would leave a reference cycle: the library would stay loaded.
        module = self._vm.module
        num_outputs = module["get_output_arity"]("main")
        if num_outputs < 0:  # no tuple
            return [module["get_output"]("main").numpy()]
        return [module["get_output"]("main", i).numpy() for i in range(num_outputs)]

    def random_inputs(self) -> list[Array]:
        """See Model.

        Raises:
            ValueError: The library does not tell the shapes of its inputs.
        """
        # The only place where a library holds its input shapes is what the shape check would say.
        found = {
            int(position): (dtype, tuple(int(size) for size in shape.split(",") if size.strip()))
            for position, shape, dtype in _INPUT_ANNOTATION.findall(self._library["stats"]())
        }
        if sorted(found) != list(range(self._num_inputs)):
            raise ValueError(
                f"{self._path} does not tell the shapes of its {self._num_inputs} inputs (found "
                f"{found}); give ModelFile(..., inputs=((dtype, shape), ...))."
            )
        return [random_array(*found[i], seed=i) for i in range(self._num_inputs)]


class LitertModel:
    """A `.tflite` file, run by LiteRT with XNNPACK (its default on CPUs)."""

    def __init__(self, path: str, num_threads: int) -> None:
        """Loads the file.

        Args:
            path: The `.tflite` file on this device.
            num_threads: Threads of this model's own pool, the calling one included.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is no TFLite model; says why.
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
        self._inputs, self._outputs = _details_in_order(self._interpreter)

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
        num_threads: See TvmModel and LitertModel.
        gpu: See TvmModel; LiteRT runs on the CPU whatever it is.

    Returns:
        The loaded model.

    Raises:
        ValueError: For another runtime, or a file that is no such model.
    """
    if runtime == "tvm":
        return TvmModel(path, num_threads, gpu)
    if runtime == "litert":
        return LitertModel(path, num_threads)
    raise ValueError(f"Unknown runtime {runtime!r}; expected one of {', '.join(RUNTIMES)}.")


def wait_until_idle() -> None:
    """Returns once no other thread of this process runs, after a second at the latest.

    Looks at the threads' states, not at the time they use: on a busy machine a spinning thread may
    wait for a core a while, and would spin on in the middle of the next measurement.
    """
    deadline = time.monotonic() + _IDLE_LIMIT_SEC
    while _another_thread_runs() and time.monotonic() < deadline:
        time.sleep(_IDLE_POLL_SEC)


def _another_thread_runs() -> bool:
    own = str(threading.get_native_id())
    tasks = pathlib.Path("/proc/self/task")
    for task in os.listdir(tasks) if tasks.is_dir() else ():
        with contextlib.suppress(OSError):  # it may end in between
            state = (tasks / task / "stat").read_text().rpartition(")")[2].split()[0]
            if state == "R" and task != own:
                return True
    return False


def _details_in_order(interpreter: Any) -> tuple[list[Any], list[Any]]:
    """Inputs and outputs in the order of the signature's names, else the file's own order."""
    if len(interpreter.get_signature_list()) != 1:
        return interpreter.get_input_details(), interpreter.get_output_details()
    runner = interpreter.get_signature_runner()
    inputs, outputs = runner.get_input_details(), runner.get_output_details()
    return (
        [inputs[name] for name in sorted(inputs, key=_natural_order)],
        [outputs[name] for name in sorted(outputs, key=_natural_order)],
    )


def _natural_order(name: str) -> list[tuple[int, str]]:
    """Sorts "args_2" before "args_10"."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]


def _require_file(path: str) -> None:
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no file {path} on this device.")


def _require_count(path: str, received: int, expected: int) -> None:
    if received != expected:
        raise ValueError(f"{path} has {expected} inputs; {received} were given.")
