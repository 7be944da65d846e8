"""Checks a device step by step, from its connection to a model that runs on it."""

from __future__ import annotations

import dataclasses
import pathlib
import socket
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from cprune_tf.devices import adb, bundle, opening
from cprune_tf.devices.base import Device, ModelFile
from cprune_tf.devices.errors import DeviceError, DeviceNameError
from cprune_tf.devices.targets import cpu_features, cpu_name

_TCP_TIMEOUT_SEC = 5.0
_MAX_ERROR = 1e-4


@dataclasses.dataclass(frozen=True)
class Finding:
    """The outcome of one check.

    Attributes:
        check: The name of the check.
        ok: Whether the check passed.
        text: The result of the check; if it failed, also what to do.
    """

    check: str
    ok: bool
    text: str


def examine(name: str, cores: str = "") -> Iterator[Finding]:
    """Checks a device step by step and stops at the first failure, which explains later ones.

    Args:
        name: The device's name, as for opening.open_device.
        cores: The cores to run on, as for base.Device.

    Yields:
        One finding for each check.
    """
    opened: list[Device] = []

    def open_session() -> str:
        opened.append(opening.open_device(name, cores))
        return f"{opened[0].info()}"

    checks = [
        *_before_opening(name),
        ("session", open_session),
        ("runtimes", lambda: _runtimes(opened[0])),
        ("cores", lambda: _cores(opened[0])),
        ("gpu", lambda: _gpu(opened[0])),
        ("one operator through TVM", lambda: _one_operator(opened[0])),
        ("one model through TFLite", lambda: _one_tflite(opened[0])),
    ]
    try:
        for check, function in checks:
            try:
                yield Finding(check, True, function())
            except (DeviceError, ValueError, OSError, RuntimeError, ImportError) as error:
                yield Finding(check, False, " ".join(str(error).split()))
                return
    finally:
        for device in opened:
            device.close()


_Check = tuple[str, Callable[[], str]]


def _before_opening(name: str) -> list[_Check]:
    if name.startswith("adb:"):
        phone = adb.Adb(name.removeprefix("adb:").partition("?")[0])
        return [
            ("adb", lambda: f"sees {', '.join(phone.states()) or 'no phone'}"),
            ("phone", lambda: f"{phone.selected().serial} is connected and authorised"),
            ("ABI", lambda: phone.selected().shell("getprop ro.product.cpu.abi").strip()),
            ("bundle", lambda: str(bundle.find_bundle().path)),
        ]
    if name.startswith(("rpc:", "tracker:")):
        try:
            address = opening.server_address(name)
        except DeviceNameError:
            return []  # opening the session says what is wrong with the name
        return [
            ("host", lambda: _resolved(address.host)),
            ("port", lambda: _accepts(address.host, address.port, address.scheme)),
        ]
    return []


def _resolved(host: str) -> str:
    try:
        return f"{host} is {socket.getaddrinfo(host, None)[0][4][0]}"
    except OSError as error:
        raise DeviceError(
            f"The host name {host!r} cannot be resolved ({error}); use the board's IP address."
        ) from error


def _accepts(host: str, port: int, scheme: str) -> str:
    command = "tvm.exec.rpc_tracker" if scheme == "tracker" else "cprune_tf.devices.agent.server"
    try:
        socket.create_connection((host, port), _TCP_TIMEOUT_SEC).close()
    except OSError as error:
        raise DeviceError(
            f"Nothing accepts connections at {host}:{port} ({error}). Start `python -m {command}` "
            "on that host. It listens on 127.0.0.1 unless --host and --key are set, so over a "
            f"network also try `ssh -L {port}:127.0.0.1:{port} {host}` and rpc://127.0.0.1:{port}."
        ) from error
    return f"{host}:{port} accepts connections"


def _runtimes(device: Device) -> str:
    versions = device.info().runtimes
    if not versions.get("litert"):
        raise DeviceError(
            "The device has no TFLite runtime; run `pip install ai-edge-litert` on it."
        )
    return f"TVM {versions['tvm']}, {versions['litert']}"


def _cores(device: Device) -> str:
    info = device.info()
    kinds = [
        f"{cpu_name(cluster) or info.cpu_name} x{len(cluster.cores)}"
        + (f" at {cluster.max_frequency_mhz:.0f} MHz" if cluster.max_frequency_mhz else "")
        for cluster in info.clusters
    ]
    features = cpu_features(info)
    extensions = [features.vector] + ["dotprod"] * features.dotprod + ["fp16"] * features.fp16
    findings = [", ".join(kinds), f"compiled for {_host(device)['mcpu']}", ", ".join(extensions)]
    if info.governor not in (None, "performance"):
        findings.append(f"governor {info.governor}: frequencies change while measuring")
    if info.temperature_celsius is not None:
        findings.append(f"{info.temperature_celsius:.0f} °C")
    return "; ".join(findings)


def _host(device: Device) -> dict[str, Any]:
    """Returns the target of the device's processor."""
    target = device.target()
    return dict(target.get("host", target))


def _gpu(device: Device) -> str:
    accelerator = device.accelerator()
    if accelerator is not None:
        return f"{accelerator}, for TVM; LiteRT runs on the CPU"
    unused = [f"{gpu}: gpu={gpu.kind} uses it" for gpu in device.info().accelerators]
    return f"not used; there is {'; '.join(unused) or 'none that TVM sees'}"


def _one_operator(device: Device) -> str:
    """Compiles, links, sends, runs and checks one matrix product."""
    import tvm
    from tvm import relax

    from cprune_tf.compiler.building.gpu_toolchain import check_toolchain, toolchain
    from cprune_tf.compiler.building.linker import linker_for

    weights = np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32)
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((1, 16), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            result = builder.emit_output(relax.op.matmul(x, relax.const(weights)))
        builder.emit_func_output(result)
    target = tvm.target.Target(device.target())
    check_toolchain(target)
    inputs = np.random.default_rng(1).normal(size=(4, 16)).astype(np.float32)
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory, "operator.so")
        with target, toolchain(target):
            built = tvm.compile(builder.get(), target=target)
        built.export_library(str(path), fcompile=linker_for(target, device.linker))
        outputs = device.run_model(ModelFile("operator", "tvm", str(path)), inputs)[0]
    return _agrees(outputs, inputs @ weights)


def _one_tflite(device: Device) -> str:
    import keras

    from cprune_tf import litert

    model = keras.Sequential([keras.Input((8, 8, 2)), keras.layers.Conv2D(3, 3)])
    images = np.random.default_rng(0).random((2, 8, 8, 2), dtype=np.float32)
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory, "model.tflite")
        path.write_bytes(litert.convert(model))
        outputs = device.run_model(ModelFile("model", "litert", str(path)), images)[0]
    return _agrees(outputs, model(images).numpy())


def _agrees(outputs: np.ndarray, expected: np.ndarray) -> str:
    error = float(np.max(np.abs(outputs - expected)))
    if not error <= _MAX_ERROR:
        raise DeviceError(
            f"The device's outputs differ from the expected ones by {error:.2g}. If its "
            "processor was named by hand (cpu=...), that name may be wrong."
        )
    return f"outputs differ by at most {error:.1g}"
