"""Registers runtimes by name, finds them and opens them."""

from __future__ import annotations

import dataclasses
import importlib
import pathlib
import pkgutil
import typing
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from cprune_tf.config import ConfigError, QuantizationConfig, TuningConfig
from cprune_tf.devices import Device
from cprune_tf.runtimes.base import Runtime

_NOT_RUNTIMES = ("base", "registry")


@dataclasses.dataclass(frozen=True)
class RuntimeOptions:
    """The settings that a runtime is opened with.

    Attributes:
        precision: The precision that models compute in.
        workdir: The folder where the runtime keeps its measurements.
        tuning: How much the runtime may search.
        num_threads: Number of threads that models are prepared for and timed with.
        seed: The seed of the search.
        frontend: How TVM imports models; see config.PruneConfig.
        weights: The dtype in which TVM's libraries store weights; see config.PruneConfig.
        quantization: How int8 files are made.
        quantize: Makes the int8 file of a Keras model that is deployed. None: ranges are made up,
            so that built files have the right latency but no accuracy.
    """

    precision: str
    workdir: pathlib.Path
    tuning: TuningConfig
    num_threads: int = 1
    seed: int = 0
    frontend: str = "keras"
    weights: str = "float32"
    quantization: QuantizationConfig = dataclasses.field(default_factory=QuantizationConfig)
    quantize: Callable[[Any], bytes] | None = None


RuntimeClass = TypeVar("RuntimeClass", bound=type[Runtime])
_CLASSES: dict[str, tuple[type[Runtime], tuple[str, ...]]] = {}


def register_runtime(
    name: str, precisions: Sequence[str]
) -> Callable[[RuntimeClass], RuntimeClass]:
    """Registers a runtime; decorates its class, whose constructor takes (device, options).

    Args:
        name: The runtime's name, as in `config.runtime`.
        precisions: The precisions that the runtime can compute in.
    """

    def register(runtime: RuntimeClass) -> RuntimeClass:
        _CLASSES[name] = (runtime, tuple(precisions))
        return runtime

    return register


def runtime_names() -> tuple[str, ...]:
    """Returns the names of all runtimes that can be opened, without importing them."""
    package = importlib.import_module("cprune_tf.runtimes")
    modules = [module.name for module in pkgutil.iter_modules(package.__path__)]
    names = {*_CLASSES, *(name for name in modules if name not in _NOT_RUNTIMES)}
    return tuple(sorted(names))


def find_runtime(name: str, precision: str) -> type[Runtime]:
    """Returns the class of a runtime.

    Args:
        name: One of `runtime_names()`.
        precision: The precision that models compute in.

    Raises:
        ConfigError: If the name is unknown or the runtime does not have the precision.
    """
    if name not in runtime_names():
        raise ConfigError(
            f"The runtime is {name!r}; expected one of {', '.join(runtime_names())} "
            "(config.runtime, or --runtime of a measuring command)."
        )
    if name not in _CLASSES:
        importlib.import_module(f"cprune_tf.runtimes.{name}")
    runtime, precisions = _CLASSES[name]
    if precision not in precisions:
        raise ConfigError(
            f"The precision is {precision!r}; expected one that the runtime {name} computes in: "
            f"{', '.join(precisions)} (config.precision, or --precision of a measuring command)."
        )
    return runtime


def open_runtime(name: str, device: Device, options: RuntimeOptions) -> Runtime:
    """Opens a runtime on a device.

    Args:
        name: One of `runtime_names()`.
        device: An open device; it stays open when the runtime is closed.
        options: The settings to open the runtime with.

    Returns:
        The runtime, to be closed by the caller.

    Raises:
        ConfigError: If the name is unknown or the runtime does not have the precision.
    """
    runtime: Any = find_runtime(name, options.precision)
    return typing.cast(Runtime, runtime(device, options))
