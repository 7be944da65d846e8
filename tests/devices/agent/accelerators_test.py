"""GPUs of devices: what is said of them, what is asked of them, and what is said where none is."""

from __future__ import annotations

import dataclasses
import os
import pathlib

import numpy as np
import pytest

from cprune_tf.config import MeasureConfig
from cprune_tf.devices import (
    DeviceCrashError,
    DeviceError,
    DeviceInfo,
    DeviceNameError,
    ModelFile,
    open_device,
)
from cprune_tf.devices.agent import accelerators, on_device
from cprune_tf.devices.agent.accelerators import Accelerator
from cprune_tf.devices.agent.environment import process_environment
from cprune_tf.devices.base import Device
from cprune_tf.devices.process import WorkerProcess

HERE = pathlib.Path(__file__).parent
T4 = Accelerator("cuda", "Tesla T4", "sm_75", 1024, 32, 49152, 15 << 30)
MALI = Accelerator("opencl", "Mali-G610", "", 512, 1, None, None)
QUICK = MeasureConfig(warmup_ms=5.0, min_samples=10, max_time_sec=0.3, stable_fraction=0.2)


class Told(Device):
    """A device that answers as it was told, and remembers what it was asked."""

    def __init__(self, gpu, found=()):
        super().__init__(gpu=gpu)
        self.found = found
        self.asked = []

    kind = "told"

    def close(self):
        pass

    def _cpu_target(self, num_threads):
        return {"kind": "llvm", "num-cores": num_threads}

    def _upload(self, path):
        return path

    def _call(self, function, timeout_sec, **arguments):
        self.asked.append((function, arguments))
        known = ("x86_64", "a processor", 2, [], None, None, None, None, "Linux", "3.11", {}, False)
        names = [field.name for field in dataclasses.fields(DeviceInfo)][1:13]
        return {
            "describe": {
                **dict(zip(names, known, strict=True)),
                "accelerators": [dataclasses.asdict(one) for one in self.found],
            },
            "why_no_accelerator": "TVM sees no cuda device there; check the driver.",
            "time_kernel": [1.0],
            "run_tvm": [np.zeros(1)],
            "time_models": {"samples": [[1.0], [2.0]], "conditions": {"cores": []}},
        }[function]


def test_a_description_tells_its_gpus_and_older_ones_still_load():
    info = Told("", (T4, MALI)).info()
    assert info.accelerators == (T4, MALI)
    assert DeviceInfo.from_json(info.to_json()) == info
    assert "Tesla T4 (cuda, sm_75, 15.0 GiB), Mali-G610 (opencl), Linux" in str(info)
    older = {key: value for key, value in info.to_json().items() if key != "accelerators"}
    assert DeviceInfo.from_json(older).accelerators == ()


def test_the_target_is_the_gpu_with_the_processor_as_its_host():
    import tvm

    assert Told("", (T4,)).target(2) == {"kind": "llvm", "num-cores": 2}
    target = tvm.target.Target(Told("cuda", (T4,)).target(2))
    assert (target.kind.name, str(target.attrs["arch"])) == ("cuda", "sm_75")
    assert int(target.attrs["max_threads_per_block"]) == 1024
    assert int(target.attrs["max_shared_memory_per_block"]) == 49152
    assert int(target.attrs["thread_warp_size"]) == 32
    assert (target.host.kind.name, int(target.host.attrs["num-cores"])) == ("llvm", 2)
    opencl = tvm.target.Target(Told("opencl", (T4, MALI)).target(1))
    assert (opencl.kind.name, int(opencl.attrs["max_threads_per_block"])) == ("opencl", 512)


def test_the_kind_is_passed_on_and_every_number_says_what_computed(tmp_path):
    device = Told("cuda", (T4,))
    device.time_kernel("k.so", "main", [])
    device.run_model(ModelFile("m", "tvm", "m.so"), np.zeros((1, 1)))
    files = [ModelFile("m", "tvm", "m.so"), ModelFile("m", "litert", "m.tflite")]
    tvm_latency, litert_latency = device.time_models(files, 1, QUICK)
    asked = dict(device.asked)
    for function in ("time_kernel", "run_tvm", "time_models"):
        assert asked[function]["accelerator"] == "cuda"
    assert str(tvm_latency).endswith("1 thread, on Tesla T4 (cuda))")
    assert str(litert_latency).endswith("1 thread, on CPU)")
    (plain, _) = Told("", (T4,)).time_models(files, 1, QUICK)
    assert plain.conditions.processor == ""


def test_a_gpu_that_is_not_there_is_refused_before_anything_else():
    for ask in (Device.info, Device.target, Device.num_cores):
        with pytest.raises(DeviceError, match=r"gpu=cuda cannot be used.*a processor.*TVM sees"):
            ask(Told("cuda", (MALI,)))


@pytest.mark.parametrize("kind", accelerators.KINDS)
def test_what_this_machine_lacks_is_said_with_what_to_do(kind):
    with open_device("local") as plain:
        if any(one.kind == kind for one in plain.info().accelerators):
            pytest.skip(f"TVM sees a {kind} device here")
    remedies = "pip install nvidia-cuda-runtime|driver|USE_(OPENCL|VULKAN)=ON"
    with open_device(f"local?gpu={kind}") as opened, pytest.raises(DeviceError, match=remedies):
        opened.target()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("local?gpu=metal", "gpu is 'metal', not one of cuda, opencl, vulkan"),
        ("rpc://board?gpu=", "gpu is '', not one of"),
        ("adb:?gpu=opencl", "OpenCL and Vulkan need a TVM runtime that is built for the phone"),
    ],
)
def test_other_gpus_are_refused_by_name(name, reason):
    with pytest.raises(DeviceNameError, match=reason):
        open_device(name)


def test_a_lost_gpu_costs_one_call_and_an_error_on_a_living_one_no_process():
    paths = os.pathsep.join((str(HERE.parents[2]), str(HERE.parent)))
    with WorkerProcess({**process_environment(1), "PYTHONPATH": paths}) as worker:
        process = worker.call("child_functions:pid", timeout_sec=60)
        with pytest.raises(DeviceError, match="failed: ValueError: a kernel's own error"):
            worker.call("child_functions:fail_on_a_gpu", False, timeout_sec=60)
        assert worker.call("child_functions:pid", timeout_sec=60) == process
        with pytest.raises(
            DeviceCrashError, match=r"(?s)exit status 86.*lost.*a kernel's own error"
        ):
            worker.call("child_functions:fail_on_a_gpu", True, timeout_sec=60)
        assert worker.call("child_functions:pid", timeout_sec=60) != process


@pytest.fixture
def cores_kept():
    """TVM pins the thread that runs a model, which matters here and not in a device's process."""
    before = os.sched_getaffinity(0)
    yield
    os.sched_setaffinity(0, before)


@pytest.mark.usefixtures("cores_kept")
def test_what_runs_on_a_gpu_is_put_there_and_waited_for(
    monkeypatch, dense_library, conv_tflite, dense_weights
):
    import tvm

    class Gpu:
        """The CPU, in a GPU's place."""

        def __init__(self):
            self.num_waits = 0

        def sync(self):
            self.num_waits += 1

    gpu, tensor = Gpu(), tvm.runtime.tensor
    put_on = []

    def tensor_on(values, device):
        put_on.append(device)
        return tensor(values)

    monkeypatch.setattr(tvm.runtime, "tensor", tensor_on)
    monkeypatch.setattr(accelerators, "runtime_device", lambda kind: gpu)
    set_up = tvm.runtime.vm.VirtualMachine._setup_device
    monkeypatch.setattr(
        tvm.runtime.vm.VirtualMachine,
        "_setup_device",
        lambda machine, _device, config: set_up(machine, tvm.cpu(0), config),
    )
    inputs = np.ones((3, 16), np.float32)
    (outputs,) = on_device.run_tvm(str(dense_library), [inputs], 1, "cuda")
    expected = np.maximum(inputs @ dense_weights, 0.0)
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-5)
    assert gpu.num_waits == len(put_on) == 3
    entries = [("tvm", str(dense_library), ()), ("litert", str(conv_tflite), ())]
    timed = on_device.time_models(entries, 1, 1.0, 10, 0.2, 0.2, accelerator="cuda")
    assert gpu.num_waits > 3 + len(timed["samples"][0])
    assert set(put_on) == {gpu}


def test_a_kernel_is_timed_on_the_gpu(gpu, tmp_path):
    import tvm
    from tvm import te

    from cprune_tf.compiler.building.builder import build_program
    from cprune_tf.compiler.building.gpu_toolchain import ToolchainError, check_toolchain
    from cprune_tf.compiler.tuning.default_schedule import default_schedule

    a = te.placeholder((64, 64), "float32", name="a")
    b = te.compute((64, 64), lambda i, j: a[i, j] * 2.0, name="b")
    target = tvm.target.Target(gpu.target())
    try:
        check_toolchain(target)
    except ToolchainError as error:
        pytest.skip(str(error))
    mod = tvm.IRModule({"main": te.create_prim_func([a, b]).with_attr("global_symbol", "main")})
    path = tmp_path / "kernel.so"
    build_program(default_schedule(mod, target).mod, target, str(path))
    samples = gpu.time_kernel(path, "main", [("float32", (64, 64))] * 2, min_repeat_ms=1)
    assert all(sample > 0 for sample in samples)
