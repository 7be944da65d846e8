"""What a device is to the rest of the package: something that runs and times compiled models.

A kind of device says how its process is called (`_call`) and how a file gets there (`_upload`);
everything else is the same for a child process, a board and a phone.
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
        cores: Their numbers.
        part: "IMPLEMENTER:PART" as an ARM processor identifies itself, e.g. "0x41:0xd0b"; else "".
        max_frequency_mhz: The highest frequency of each core.
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
    """What a device is and has; None for what it does not tell.

    Attributes:
        kind: "local", "rpc" or "adb".
        abi: The machine type, e.g. "x86_64" or "aarch64".
        cpu_name: As the device names its processor.
        num_cores: Cores its process may run on.
        features: Instruction set extensions.
        memory_bytes: Main memory.
        max_frequency_mhz: The highest frequency of the fastest core.
        governor: What governs the frequency of core 0.
        temperature_celsius: The hottest thermal zone, when asked.
        os: Name and release.
        python: Version of the device's Python.
        runtimes: Version of "tvm" and of "litert" there; None: not installed.
        emulated: Its latencies mean nothing.
        clusters: Its cores by kind, slowest first.
        accelerators: The first GPU of each kind that TVM's runtime there can use.
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
            "clusters": tuple(Cluster.from_json(one) for one in values.get("clusters", ())),
            "accelerators": tuple(Accelerator(**one) for one in values.get("accelerators", ())),
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
        name: As LiteRT or its delegate calls it, e.g. "Convolution (NHWC, F32) IGEMM".
        delegated: Whether LiteRT's delegate (XNNPACK) runs it.
        index: The operator's number in the file; of a delegated one, among the delegate's.
        ms: Mean over the middle half of the runs; XNNPACK rounds each down to whole microseconds.
    """

    name: str
    delegated: bool
    index: int
    ms: float


@dataclasses.dataclass(frozen=True)
class ModelFile:
    """A compiled model in a file, ready for a device.

    Attributes:
        name: What messages call it.
        runtime: "tvm" (a library exported from a Relax VM executable) or "litert" (`.tflite`).
        path: The file on this machine.
        inputs: (dtype, shape) of each input with its batch dimension of 1; empty: the file tells.
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


class Device(abc.ABC):
    """Runs and times compiled code in a process of its own, here or elsewhere.

    All methods raise DeviceError (or DeviceTimeoutError, DeviceCrashError) with the reason when
    something fails on the device; the next call works again, but after DeviceUnreachableError.

    Args:
        cores: What to run on: "": all cores; "little", "middle" or "big": the device's slowest,
            second fastest or fastest kind; or numbers, e.g. "4-6,7".
        linker: See the property.
        gpu: The kind of GPU that TVM compiles for and runs on (see accelerators.KINDS); "": the
            CPU does. LiteRT runs on the CPU in any case.
    """

    _info: DeviceInfo | None = None

    def __init__(self, cores: str = "", linker: str = "", gpu: str = "") -> None:
        self._cores = cores
        self._linker = linker
        self._gpu = gpu

    @property
    def linker(self) -> str:
        """The user's own command that links libraries for it, as a shell would read it; "": none.

        `-shared -nostdlib -o OUTPUT OBJECTS...` is added to it.
        """
        return self._linker

    @property
    @abc.abstractmethod
    def kind(self) -> str:
        """The kind of device, e.g. "local"."""

    @property
    def shares_host(self) -> bool:
        """Whether it computes on this machine's cores, so that work here disturbs its timings."""
        return False

    def target(self, num_threads: int = 1) -> dict[str, Any]:
        """What to compile for: the processor, or the GPU with the processor as its host.

        Args:
            num_threads: Threads the code will run on; decides whether schedules are parallel.

        Returns:
            A dict for `tvm.target.Target`.
        """
        self._check_threads(num_threads)
        host, accelerator = self._cpu_target(num_threads), self.accelerator()
        return host if accelerator is None else accelerator.target(host)

    @abc.abstractmethod
    def _cpu_target(self, num_threads: int) -> dict[str, Any]:
        """What to compile for its processor; see target."""

    @abc.abstractmethod
    def close(self) -> None:
        """Ends the device's process; a later call starts it again."""

    @abc.abstractmethod
    def _call(self, function: str, timeout_sec: float, **arguments: Any) -> Any:
        """Calls a function of `on_device` on the device."""

    @abc.abstractmethod
    def _upload(self, path: str) -> Any:
        """Makes a file of this machine readable there; returns what `on_device` gets for it."""

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Calls a function that uses this device for each item; results come in order.

        A device that is several boards does as many at a time, in threads of this process.

        Args:
            function: What to call.
            items: Its arguments.

        Returns:
            An iterator over the results.
        """
        return map(function, items)

    def core_ids(self) -> tuple[int, ...]:
        """The cores to run on; empty: all.

        Returns:
            Their numbers.

        Raises:
            DeviceError: The device has no such cores.
        """
        return select_cores(self.info(), self._cores)

    def info(self) -> DeviceInfo:
        """What the device is and has (asked once).

        Raises:
            DeviceError: It has not the GPU that it was opened with.
        """
        if self._info is None:
            values = self._call("describe", _DESCRIBE_TIMEOUT_SEC)
            info = DeviceInfo.from_json({"kind": self.kind, **values})
            if self._gpu and not any(one.kind == self._gpu for one in info.accelerators):
                reason = self._call("why_no_accelerator", _DESCRIBE_TIMEOUT_SEC, kind=self._gpu)
                raise DeviceError(f"gpu={self._gpu} cannot be used on the device {info}: {reason}")
            self._info = info
        return self._info

    def accelerator(self) -> Accelerator | None:
        """The GPU that TVM compiles for and runs on; None: the CPU does."""
        return next((one for one in self.info().accelerators if one.kind == self._gpu), None)

    def num_cores(self) -> int:
        """The cores that it may run on: as many threads at most can be measured."""
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
    ) -> tuple[float, ...]:
        """Times one function of a TVM library on random arguments.

        The function runs once untimed, then `repeat` times `number` times in a row.

        Args:
            library_path: The shared library, on this machine.
            function_name: The function; its outputs are arguments too.
            arguments: (dtype, shape) of each argument.
            num_threads: Threads its parallel loops run on.
            number: Calls in one sample.
            repeat: Samples.
            min_repeat_ms: `number` grows until a sample takes that long.
            timeout_sec: Time that the whole call may take.

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
            inputs: One array for each input of the model (or the one), [num_samples, ...].
            num_threads: Threads.
            timeout_sec: Time that all samples together may take.

        Returns:
            One array for each output of the model, [num_samples, ...].
        """
        self._check_threads(num_threads)
        path = self._upload(model_file.path)
        arrays = [inputs] if isinstance(inputs, np.ndarray) else list(inputs)
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
            models: What to compare; of either runtime.
            num_threads: Threads of each (measure.num_threads is not looked at).
            measure: Warm-up, number of samples, time and stability.

        Returns:
            The latency of each.
        """
        if not models:
            return ()
        self._check_threads(num_threads)
        # A slow model's warm-up and last sample come on top of the time it is given.
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
        known = {**measured["conditions"], "emulated": self.info().emulated}
        return tuple(
            Latency.from_samples(
                taken,
                num_threads,
                Conditions.from_json({**known, "processor": self._processor(model.runtime)}),
            )
            for model, taken in zip(models, measured["samples"], strict=True)
        )

    def _processor(self, runtime: str) -> str:
        """See Conditions.processor."""
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
            num_threads: Threads (measure.num_threads is not looked at).
            measure: Warm-up and time.

        Returns:
            The operators in the order they run.
        """
        self._check_threads(num_threads)
        timed = self._call(
            "profile_litert",
            _LOAD_TIMEOUT_SEC + 20 * (measure.max_time_sec + measure.warmup_ms / 1000),
            path=self._upload(os.fspath(path)),
            num_threads=num_threads,
            warmup_ms=measure.warmup_ms,
            max_time_sec=measure.max_time_sec,
            cores=self.core_ids(),
        )
        return tuple(OperatorTime(*one) for one in timed)

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
            num_threads: Threads (measure.num_threads is not looked at).
            measure: Time.

        Returns:
            What the tool says.
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
