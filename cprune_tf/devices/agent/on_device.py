"""The functions that a device's process offers; their arguments and results are plain values.

Every device runs these functions, whether its process is a local child or a server on a board or a
phone. So this module needs only numpy, TVM's runtime and LiteRT (or tflite-runtime), and imports
the last two when they are first used.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from cprune_tf.devices.agent import accelerators, description
from cprune_tf.devices.agent.arrays import ArgumentBuffers, random_array
from cprune_tf.devices.agent.benchmark_model import run_tool
from cprune_tf.devices.agent.climate import Climate, pin
from cprune_tf.devices.agent.interleaving import interleave
from cprune_tf.devices.agent.litert_profiler import ProfiledModel, mean_times
from cprune_tf.devices.agent.runtimes import (
    Array,
    Model,
    load_library,
    load_model,
    load_tvm,
    set_tvm_threads,
    wait_until_idle,
)

TensorSpecs = Sequence[tuple[str, Sequence[int]]]

# Allocating and filling arguments costs as much as timing a small kernel, and the tuner times
# thousands of kernels with the same arguments in one process. One entry per accelerator.
_ARGUMENT_BUFFERS: dict[str, ArgumentBuffers] = collections.defaultdict(ArgumentBuffers)
_PROFILED_BATCH = 20


def time_kernel(
    library_path: str,
    function_name: str,
    arguments: TensorSpecs,
    num_threads: int,
    number: int,
    repeat: int,
    min_repeat_ms: int,
    cores: Sequence[int] = (),
    accelerator: str = "",
    index_limits: Sequence[tuple[int, int]] = (),
) -> list[float]:
    """Times one function of a TVM library on random arguments.

    The function runs once untimed, then `repeat` times `number` times in a row.

    Args:
        library_path: The shared library on this device.
        function_name: The function's name; its outputs are arguments too.
        arguments: (dtype, shape) of each argument.
        num_threads: Number of threads its parallel loops run on.
        number: Number of calls in one sample.
        repeat: Number of samples.
        min_repeat_ms: `number` grows until a sample takes this long.
        cores: Numbers of the cores to run on; empty for all.
        accelerator: The kind of GPU that the library is for; "" for the CPU.
        index_limits: (number, limit) of integer arguments whose random values stay below a limit.

    Returns:
        `repeat` samples: the mean duration of one call, in ms.
    """
    pin(cores)
    tvm = load_tvm()
    set_tvm_threads(num_threads)
    device = accelerators.runtime_device(
        accelerator
    )  # first, as it may load what the library needs
    library = load_library(library_path)
    with accelerators.ending_when_lost(device):
        tensor = functools.partial(tvm.runtime.tensor, device=device)
        buffers = _ARGUMENT_BUFFERS[accelerator].get(arguments, tensor, dict(index_limits))
        evaluator = library.time_evaluator(
            function_name, device, number=number, repeat=repeat, min_repeat_ms=min_repeat_ms
        )
        return [seconds * 1000 for seconds in evaluator(*buffers).results]


def run_tvm(
    library_path: str, inputs: Sequence[Array], num_threads: int, accelerator: str = ""
) -> list[Array]:
    """Runs a TVM model of batch size 1 on many samples, one after the other.

    Args:
        library_path: A library exported from a Relax VM executable; its "main" takes the data
            inputs.
        inputs: One array for each input of the model, [num_samples, ...].
        num_threads: Number of threads its parallel loops run on.
        accelerator: The kind of GPU that the library is for; "" for the CPU.

    Returns:
        One array for each output of the model, [num_samples, ...].
    """
    with _gpu(accelerator) as gpu:
        return _run(load_model("tvm", library_path, num_threads, gpu), inputs)


def run_litert(path: str, inputs: Sequence[Array], num_threads: int) -> list[Array]:
    """Runs a `.tflite` model of batch size 1 on many samples, one after the other.

    Args:
        path: The `.tflite` file on this device.
        inputs: One array for each input of the model, [num_samples, ...].
        num_threads: Number of LiteRT's threads.

    Returns:
        One array for each output of the model, [num_samples, ...].
    """
    return _run(load_model("litert", path, num_threads), inputs)


def time_models(
    entries: Sequence[tuple[str, str, TensorSpecs]],
    num_threads: int,
    warmup_ms: float,
    min_samples: int,
    max_time_sec: float,
    stable_fraction: float,
    cores: Sequence[int] = (),
    max_temperature_celsius: float | None = None,
    accelerator: str = "",
) -> dict[str, Any]:
    """Times whole models against each other, interleaved, on random inputs.

    Args:
        entries: (runtime, path, inputs) of each model: "tvm" or "litert"; the file on this device;
            (dtype, shape) of each input, empty if the file describes its inputs itself.
        num_threads: Number of threads of each model.
        warmup_ms: Running time of each model before samples count, in ms.
        min_samples: Smallest number of samples of each model.
        max_time_sec: Longest running time of each model.
        stable_fraction: Largest relative difference between the medians of the two halves of the
            samples at which timing ends, as in `interleave`.
        cores: Numbers of the cores to run on; empty for all.
        max_temperature_celsius: Temperature above which the device cools down between blocks; None
            for no limit.
        accelerator: The kind of GPU that the TVM libraries are for; "" for the CPU.

    Returns:
        "samples": for each model, the duration of every timed inference in ms; "conditions": the
        fields of latency.Conditions that the device knows.
    """
    pin(cores)
    climate = Climate(cores, max_temperature_celsius)

    def before_block() -> None:
        climate.before_block()
        if num_threads > 1:  # only the threads of a pool keep spinning after a model
            wait_until_idle()

    with _gpu(accelerator) as gpu:
        models = [_ready_model(*entry, num_threads, gpu) for entry in entries]
        samples = interleave(
            [model.invoke for model in models],
            warmup_ms=warmup_ms,
            min_samples=min_samples,
            max_time_sec=max_time_sec,
            stable_fraction=stable_fraction,
            before_block=before_block,
        )
    return {"samples": samples, "conditions": climate.conditions()}


def profile_litert(
    path: str,
    num_threads: int,
    warmup_ms: float,
    max_time_sec: float,
    cores: Sequence[int] = (),
) -> list[tuple[str, bool, int, float]]:
    """Times every operator of a `.tflite` file inside the running model.

    Args:
        path: The `.tflite` file on this device.
        num_threads: Number of LiteRT's threads.
        warmup_ms: Running time before the profiled runs, in ms.
        max_time_sec: Running time of the profiled runs; there are at least twenty of them.
        cores: Numbers of the cores to run on; empty for all.

    Returns:
        (name, whether delegated, index, duration in ms) of each operator, from
        litert_profiler.mean_times.
    """
    pin(cores)
    with contextlib.closing(ProfiledModel(path, num_threads)) as model:
        _run_for(warmup_ms / 1000, model.run)
        runs = []
        _run_for(max_time_sec, lambda: runs.extend(model.profile(_PROFILED_BATCH)))
    return mean_times(runs)


def run_benchmark_model(
    program: str,
    path: str,
    num_threads: int,
    max_time_sec: float,
    run_timeout_sec: float,
    cores: Sequence[int] = (),
) -> dict[str, Any]:
    """Times a `.tflite` file with the user's build of `benchmark_model`.

    Args:
        program: The tool's path on this device.
        path: The `.tflite` file on this device.
        num_threads: Number of threads.
        max_time_sec: Longest running time of the timed runs.
        run_timeout_sec: Longest time that the whole run may take.
        cores: Numbers of the cores to run on; empty for all.

    Returns:
        The fields of a benchmark_model.ToolLatency.
    """
    pin(cores)
    return run_tool(program, path, num_threads, max_time_sec, run_timeout_sec)


def describe() -> dict[str, Any]:
    """Describes this device; the keys are the fields of DeviceInfo except `kind`."""
    return {**description.describe(), "accelerators": accelerators.present()}


def why_no_accelerator(kind: str) -> str:
    """Explains why TVM can use no GPU of a kind on this device; "" if it can use one."""
    return accelerators.why_missing(kind)


@contextlib.contextmanager
def _gpu(accelerator: str) -> Iterator[Any]:
    """Yields TVM's handle of the GPU that runs a model; None for the CPU."""
    if not accelerator:
        yield None  # the handle of the CPU would load TVM, which a LiteRT model does not need
        return
    device = accelerators.runtime_device(accelerator)
    with accelerators.ending_when_lost(device):
        yield device


def _run_for(seconds: float, function: Callable[[], Any]) -> None:
    """Calls a function until the time is over, at least once."""
    deadline = time.monotonic() + seconds
    while True:
        function()
        if time.monotonic() >= deadline:
            return


def _ready_model(runtime: str, path: str, specs: TensorSpecs, num_threads: int, gpu: Any) -> Model:
    model = load_model(runtime, path, num_threads, gpu)
    arrays = [random_array(dtype, shape, seed=i) for i, (dtype, shape) in enumerate(specs)]
    model.set_inputs(arrays or model.random_inputs())
    return model


def _run(model: Model, inputs: Sequence[Array]) -> list[Array]:
    counts = {len(array) for array in inputs}
    if len(counts) != 1 or 0 in counts:
        raise ValueError(
            f"Inputs need the same number of samples, at least one; received shapes "
            f"{[array.shape for array in inputs]}."
        )
    contiguous = [np.ascontiguousarray(array) for array in inputs]
    results = []
    for i in range(counts.pop()):
        model.set_inputs([array[i : i + 1] for array in contiguous])
        model.invoke()
        results.append(model.outputs())
    return [np.concatenate(column) for column in zip(*results, strict=True)]
