"""The interface of a device: it runs and times compiled models.

A kind of device implements how its process is called (`_call`) and how a file gets to it
(`_upload`). Everything else is the same for a child process, a board and a phone.
"""

from __future__ import annotations

import abc
import dataclasses
import json
import os
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from cprune_tf.devices.agent.accelerators import Accelerator
from cprune_tf.devices.agent.benchmark_model import ToolLatency
from cprune_tf.devices.agent.runtimes import RUNTIMES
from cprune_tf.devices.cores import select_cores
from cprune_tf.devices.errors import DeviceError
from cprune_tf.devices.input_types import to_type
from cprune_tf.devices.latency import Conditions, Latency

if typing.TYPE_CHECKING:
    from cprune_tf.config import MeasureConfig

Array = npt.NDArray[Any]
TensorSpec = tuple[str, tuple[int, ...]]
Item = TypeVar("Item")
Result = TypeVar("Result")

_KERNEL_TIMEOUT_SEC = 30.0
_MODEL_TIMEOUT_SEC = 600.0
_DESCRIBE_TIMEOUT_SEC = 60.0
_LOAD_TIMEOUT_SEC = 60.0


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Cores of a device that are alike.

    Attributes:
        cores: The numbers of the cores.
        part: "IMPLEMENTER:PART" as an ARM processor identifies itself, e.g. "0x41:0xd0b"; "" for
            other processors.
        max_frequency_mhz: The highest frequency of each core in MHz; None if it is not known.
    """

    cores: tuple[int, ...]
    part: str
    max_frequency_mhz: float | None

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Cluster:
        """The reverse of dataclasses.asdict, from JSON types."""
        return cls(**{**values, "cores": tuple(values["cores"])})


@dataclasses.dataclass(frozen=True)
class DeviceInfo:
    """The description of a device; a field is None if the device does not report it.

    Attributes:
        kind: "local", "rpc" or "adb".
        abi: The machine type, e.g. "x86_64" or "aarch64".
        cpu_name: The processor's name as the device reports it.
        num_cores: Number of cores that the device's process may run on.
        features: Names of the processor's instruction set extensions.
        memory_bytes: Size of the main memory in bytes.
        max_frequency_mhz: The highest frequency of the fastest core, in MHz.
        governor: The frequency governor of core 0, e.g. "performance".
        temperature_celsius: Temperature of the hottest thermal zone when the device was described.
        os: The operating system's name and release.
        python: Version of the device's Python.
        runtimes: Versions of "tvm" and "litert" on the device; None for one that is not installed.
        emulated: Whether the processor is emulated, so that latencies mean nothing.
        clusters: The cores grouped by kind, slowest kind first.
        accelerators: The first GPU of each kind that TVM's runtime on the device can use.
    """

    kind: str
    abi: str
    cpu_name: str
    num_cores: int
    features: tuple[str, ...]
    memory_bytes: int | None
    max_frequency_mhz: float | None
    governor: str | None
    temperature_celsius: float | None
    os: str
    python: str
    runtimes: Mapping[str, str | None]
    emulated: bool
    clusters: tuple[Cluster, ...] = ()
    accelerators: tuple[Accelerator, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The same fields as JSON types."""
        return typing.cast(dict[str, Any], json.loads(json.dumps(dataclasses.asdict(self))))

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> DeviceInfo:
        """The reverse of to_json."""
        parts = {
            "features": tuple(values["features"]),
            "clusters": tuple(Cluster.from_json(cluster) for cluster in values.get("clusters", ())),
            "accelerators": tuple(
                Accelerator(**fields) for fields in values.get("accelerators", ())
            ),
        }
        return cls(**{**values, **parts})

    def __str__(self) -> str:
        memory = "" if self.memory_bytes is None else f", {self.memory_bytes / 2**30:.1f} GiB"
        emulated = ", emulated" if self.emulated else ""
        cores = f"{self.num_cores} core{'' if self.num_cores == 1 else 's'}"
        gpus = "".join(f", {accelerator}" for accelerator in self.accelerators)
        return (
            f"{self.kind}: {self.cpu_name} ({self.abi}), {cores}{memory}{gpus}, {self.os}{emulated}"
        )


@dataclasses.dataclass(frozen=True)
class OperatorTime:
    """How long one operator takes inside a running `.tflite` model.

    Attributes:
        name: The name that LiteRT or its delegate uses, e.g. "Convolution (NHWC, F32) IGEMM".
        delegated: Whether LiteRT's delegate (XNNPACK) runs it.
        index: The operator's number in the file, or among the delegate's operators if delegated.
        ms: Mean duration in ms over the middle half of the runs. XNNPACK rounds each duration down
            to whole microseconds.
    """

    name: str
    delegated: bool
    index: int
    ms: float


@dataclasses.dataclass(frozen=True)
class ModelFile:
    """A compiled model in a file, ready for a device.

    Attributes:
        name: The model's name in messages.
        runtime: "tvm" (a library exported from a Relax VM executable) or "litert" (`.tflite`).
        path: The file on this machine.
        inputs: (dtype, shape) of each input, with its batch dimension of 1; empty if the file
            describes its inputs itself.
    """

    name: str
    runtime: str
    path: str
    inputs: tuple[TensorSpec, ...] = ()

    def __post_init__(self) -> None:
        if self.runtime not in RUNTIMES:
            raise ValueError(
                f"ModelFile {self.name!r} has runtime {self.runtime!r}; expected one of "
                f"{', '.join(RUNTIMES)}."
            )
        object.__setattr__(self, "path", os.fspath(self.path))

    def converted(self, arrays: Sequence[Array]) -> list[Array]:
        """Returns arrays in the types that `inputs` says; integers are the nearest ones."""
        if not self.inputs:
            return list(arrays)
        return [
            to_type(array, dtype) for array, (dtype, _) in zip(arrays, self.inputs, strict=True)
        ]


class Device(abc.ABC):
    """Runs and times compiled code in a separate process, on this machine or another.

    All methods raise DeviceError (or DeviceTimeoutError, DeviceCrashError) with the reason when
    something fails on the device. The next call works again, except after DeviceUnreachableError.

    Args:
        cores: The cores to run on. "" means all cores; "little", "middle" and "big" mean the
            device's slowest, second fastest and fastest kind; numbers such as "4-6,7" also work.
        linker: The command that links libraries for the device; see the property `linker`.
        gpu: The kind of GPU that TVM compiles for and runs on, one of accelerators.KINDS; "" for
            the CPU. LiteRT runs on the CPU in any case.
    """

    _info: DeviceInfo | None = None

    def __init__(self, cores: str = "", linker: str = "", gpu: str = "") -> None:
        self._cores = cores
        self._linker = linker
        self._gpu = gpu

    @property
    def linker(self) -> str:
        """The user's command that links libraries for the device, in shell syntax; "" if none.

        `-shared -nostdlib -o OUTPUT OBJECTS...` is added to the command.
        """
        return self._linker

    @property
    @abc.abstractmethod
    def kind(self) -> str:
        """The kind of device, e.g. "local"."""

    @property
    def shares_host(self) -> bool:
        """Whether the device computes on this machine's cores, where other work disturbs it."""
        return False

    def target(self, num_threads: int = 1) -> dict[str, Any]:
        """Returns what to compile for: the processor, or the GPU with the processor as its host.

        Args:
            num_threads: Number of threads the code will run on. It decides whether schedules are
                parallel.

        Returns:
            A dict for `tvm.target.Target`.
        """
        self._check_threads(num_threads)
        host, accelerator = self._cpu_target(num_threads), self.accelerator()
        return host if accelerator is None else accelerator.target(host)

    @abc.abstractmethod
    def _cpu_target(self, num_threads: int) -> dict[str, Any]:
        """Returns the target of the device's processor, as a dict for `tvm.target.Target`."""

    @abc.abstractmethod
    def close(self) -> None:
        """Ends the device's process; a later call starts it again."""

    @abc.abstractmethod
    def _call(self, function: str, timeout_sec: float, **arguments: Any) -> Any:
        """Calls a function of `on_device` on the device."""

    @abc.abstractmethod
    def _upload(self, path: str) -> Any:
        """Makes a local file readable on the device; returns what `on_device` receives for it."""

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Calls a function that uses this device for each item; results come in order.

        A device that consists of several boards works on one item per board at a time, in threads
        of this process.

        Args:
            function: The function to call with each item.
            items: The arguments, one for each call.

        Returns:
            An iterator over the results.
        """
        return map(function, items)

    def core_ids(self) -> tuple[int, ...]:
        """Returns the cores to run on.

        Returns:
            The numbers of the cores; empty for all cores.

        Raises:
            DeviceError: The device has no such cores.
        """
        return select_cores(self.info(), self._cores)

    def info(self) -> DeviceInfo:
        """Returns the device's description, which is read from the device only once.

        Raises:
            DeviceError: The device lacks the GPU that it was opened with.
        """
        if self._info is None:
            values = self._call("describe", _DESCRIBE_TIMEOUT_SEC)
            info = DeviceInfo.from_json({"kind": self.kind, **values})
            if self._gpu and not any(gpu.kind == self._gpu for gpu in info.accelerators):
                reason = self._call("why_no_accelerator", _DESCRIBE_TIMEOUT_SEC, kind=self._gpu)
                raise DeviceError(f"gpu={self._gpu} cannot be used on the device {info}: {reason}")
            self._info = info
        return self._info

    def accelerator(self) -> Accelerator | None:
        """Returns the GPU that TVM compiles for and runs on; None if TVM uses the CPU."""
        return next((gpu for gpu in self.info().accelerators if gpu.kind == self._gpu), None)

    def num_cores(self) -> int:
        """Returns the number of cores to run on, which is the largest number of threads."""
        return len(self.core_ids()) or self.info().num_cores

    def time_kernel(
        self,
        library_path: str | os.PathLike[str],
        function_name: str,
        arguments: Sequence[tuple[str, Sequence[int]]],
        *,
        num_threads: int = 1,
        number: int = 3,
        repeat: int = 3,
        min_repeat_ms: int = 30,
        timeout_sec: float = _KERNEL_TIMEOUT_SEC,
        index_limits: Mapping[int, int] | None = None,
    ) -> tuple[float, ...]:
        """Times one function of a TVM library on random arguments.

        The function runs once untimed, then `repeat` times `number` times in a row.

        Args:
            library_path: The shared library, on this machine.
            function_name: The function's name; its outputs are arguments too.
            arguments: (dtype, shape) of each argument.
            num_threads: Number of threads its parallel loops run on.
            number: Number of calls in one sample.
            repeat: Number of samples.
            min_repeat_ms: `number` grows until a sample takes this long.
            timeout_sec: Longest time that the whole call may take.
            index_limits: Numbers of integer arguments, each with the limit that its random values
                stay below; None: no argument is an index.

        Returns:
            `repeat` samples: the mean duration of one call, in ms.
        """
        self._check_threads(num_threads)
        samples = self._call(
            "time_kernel",
            timeout_sec,
            library_path=self._upload(os.fspath(library_path)),
            function_name=function_name,
            arguments=[(str(dtype), tuple(int(n) for n in shape)) for dtype, shape in arguments],
            num_threads=num_threads,
            number=number,
            repeat=repeat,
            min_repeat_ms=min_repeat_ms,
            cores=self.core_ids(),
            accelerator=self._gpu,
            index_limits=sorted((index_limits or {}).items()),
        )
        return tuple(samples)

    def run_model(
        self,
        model_file: ModelFile,
        inputs: Array | Sequence[Array],
        num_threads: int = 1,
        *,
        timeout_sec: float = _MODEL_TIMEOUT_SEC,
    ) -> list[Array]:
        """Runs a model of batch size 1 on many samples, one after the other, on the device.

        Args:
            model_file: The model.
            inputs: One array for each input of the model, [num_samples, ...]; a single array also
                works for a model with one input. They are converted to the types of
                `model_file.inputs`.
            num_threads: Number of threads.
            timeout_sec: Longest time that all samples together may take.

        Returns:
            One array for each output of the model, [num_samples, ...].
        """
        self._check_threads(num_threads)
        path = self._upload(model_file.path)
        arrays = model_file.converted([inputs] if isinstance(inputs, np.ndarray) else list(inputs))
        if model_file.runtime == "tvm":
            return typing.cast(
                list[Array],
                self._call(
                    "run_tvm",
                    timeout_sec,
                    library_path=path,
                    inputs=arrays,
                    num_threads=num_threads,
                    accelerator=self._gpu,
                ),
            )
        return typing.cast(
            list[Array],
            self._call(
                "run_litert", timeout_sec, path=path, inputs=arrays, num_threads=num_threads
            ),
        )

    def time_models(
        self, models: Sequence[ModelFile], num_threads: int, measure: MeasureConfig
    ) -> tuple[Latency, ...]:
        """Times models against each other: interleaved, warmed up, until the medians are stable.

        Args:
            models: The models to compare, of either runtime.
            num_threads: Number of threads for each model; measure.num_threads is ignored.
            measure: Warm-up, number of samples, time limit and stability criterion.

        Returns:
            The latency of each model.
        """
        if not models:
            return ()
        self._check_threads(num_threads)
        # A slow model's warm-up and last sample take longer than the time limit itself.
        generous_sec = 20 * (measure.max_time_sec + measure.warmup_ms / 1000)
        measured = self._call(
            "time_models",
            _LOAD_TIMEOUT_SEC + len(models) * (generous_sec + _LOAD_TIMEOUT_SEC),
            entries=[(m.runtime, self._upload(m.path), m.inputs) for m in models],
            num_threads=num_threads,
            warmup_ms=measure.warmup_ms,
            min_samples=measure.min_samples,
            max_time_sec=measure.max_time_sec,
            stable_fraction=measure.stable_fraction,
            cores=self.core_ids(),
            max_temperature_celsius=measure.max_temperature_celsius or None,
            accelerator=self._gpu,
        )
        conditions = {**measured["conditions"], "emulated": self.info().emulated}
        return tuple(
            Latency.from_samples(
                samples_ms,
                num_threads,
                Conditions.from_json({**conditions, "processor": self._processor(model.runtime)}),
            )
            for model, samples_ms in zip(models, measured["samples"], strict=True)
        )

    def _processor(self, runtime: str) -> str:
        """Returns the value of Conditions.processor for a model of this runtime."""
        accelerator = self.accelerator()
        if accelerator is None:
            return ""
        return f"{accelerator.name} ({accelerator.kind})" if runtime == "tvm" else "CPU"

    def profile_litert(
        self, path: str | os.PathLike[str], num_threads: int, measure: MeasureConfig
    ) -> tuple[OperatorTime, ...]:
        """Times every operator of a `.tflite` file inside the running model.

        Args:
            path: The file, on this machine.
            num_threads: Number of threads; measure.num_threads is ignored.
            measure: Warm-up and time limit.

        Returns:
            The operators in the order in which they run.
        """
        self._check_threads(num_threads)
        operators = self._call(
            "profile_litert",
            _LOAD_TIMEOUT_SEC + 20 * (measure.max_time_sec + measure.warmup_ms / 1000),
            path=self._upload(os.fspath(path)),
            num_threads=num_threads,
            warmup_ms=measure.warmup_ms,
            max_time_sec=measure.max_time_sec,
            cores=self.core_ids(),
        )
        return tuple(OperatorTime(*fields) for fields in operators)

    def run_benchmark_model(
        self,
        program: str | os.PathLike[str],
        path: str | os.PathLike[str],
        num_threads: int,
        measure: MeasureConfig,
    ) -> ToolLatency:
        """Times a `.tflite` file with TensorFlow Lite's `benchmark_model`, built for the device.

        Args:
            program: The tool, on this machine.
            path: The `.tflite` file, on this machine.
            num_threads: Number of threads; measure.num_threads is ignored.
            measure: The time limit; the other fields are ignored.

        Returns:
            The latency that the tool reports.
        """
        self._check_threads(num_threads)
        timeout_sec = _LOAD_TIMEOUT_SEC + 20 * measure.max_time_sec
        values = self._call(
            "run_benchmark_model",
            timeout_sec + _LOAD_TIMEOUT_SEC,
            program=self._upload(os.fspath(program)),
            path=self._upload(os.fspath(path)),
            num_threads=num_threads,
            max_time_sec=measure.max_time_sec,
            run_timeout_sec=timeout_sec,
            cores=self.core_ids(),
        )
        return ToolLatency(**values)

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _check_threads(self, num_threads: int) -> None:
        cores = self.num_cores()
        if not 1 <= num_threads <= cores:
            raise DeviceError(
                f"{num_threads} threads were asked for; this device ({self.kind}) has {cores} "
                f"cores{' of that kind' if self._cores else ''}, so 1 to {cores} threads can be "
                "measured."
            )
