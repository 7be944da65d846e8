"""Which runtimes there are, and how one is opened."""

from __future__ import annotations

import dataclasses
import importlib
import pathlib
import pkgutil
import typing
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from cprune_tf.config import ConfigError, TuningConfig
from cprune_tf.devices import Device
from cprune_tf.runtimes.base import Runtime

_NOT_RUNTIMES = ("base", "registry")


@dataclasses.dataclass(frozen=True)
class RuntimeOptions:
    """What a runtime is opened with.

    Attributes:
        precision: What models compute in.
        workdir: Where it keeps what it measures.
        tuning: How much it may search.
        num_threads: Threads that models are prepared for and timed with.
        seed: Of the search.
        frontend: How TVM imports models; see config.PruneConfig.
        weights: What TVM's libraries store weights as; see config.PruneConfig.
    """

    precision: str
    workdir: pathlib.Path
    tuning: TuningConfig
    num_threads: int = 1
    seed: int = 0
    frontend: str = "keras"
    weights: str = "float32"


RuntimeClass = TypeVar("RuntimeClass", bound=type[Runtime])
_CLASSES: dict[str, tuple[type[Runtime], tuple[str, ...]]] = {}


def register_runtime(
    name: str, precisions: Sequence[str]
) -> Callable[[RuntimeClass], RuntimeClass]:
    """Makes a runtime known by name; decorates its class, which is made of (device, options).

    Args:
        name: As in `config.runtime`.
        precisions: What it can compute in.
    """

    def register(runtime: RuntimeClass) -> RuntimeClass:
        _CLASSES[name] = (runtime, tuple(precisions))
        return runtime

    return register


def runtime_names() -> tuple[str, ...]:
    """All runtimes that can be opened; none is imported."""
    package = importlib.import_module("cprune_tf.runtimes")
    modules = [module.name for module in pkgutil.iter_modules(package.__path__)]
    names = {*_CLASSES, *(name for name in modules if name not in _NOT_RUNTIMES)}
    return tuple(sorted(names))


def find_runtime(name: str, precision: str) -> type[Runtime]:
    """The class of a runtime.

    Args:
        name: One of `runtime_names()`.
        precision: What models compute in.

    Raises:
        ConfigError: For an unknown name, or a precision that the runtime does not have.
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
        device: Open; stays open when the runtime is closed.
        options: See RuntimeOptions.

    Returns:
        The runtime, to be closed by the caller.

    Raises:
        ConfigError: For an unknown name, or a precision that the runtime does not have.
    """
    runtime: Any = find_runtime(name, options.precision)
    return typing.cast(Runtime, runtime(device, options))
